// Visits the groups that the columns of output tile `ot` belong to, in ascending order, again and again.
// The division is by a constant, and gone where there is one group.
`timescale 1ns / 1ps
`default_nettype none

module group_scan #(
  parameter int COL    = 8,
  parameter int GROUPS = 1,
  parameter int OCG    = 8   // output channels of one group
) (
  input  wire        clk,
  input  wire        rst,
  input  wire        step,
  input  wire [31:0] ot,
  output wire [31:0] g,
  output wire        last
);
  generate
    if (GROUPS == 1) begin : one
      wire unused = &{1'b0, clk, rst, step, ot};
      assign g = 0;
      assign last = 1'b1;
    end else begin : many
      reg [$clog2(GROUPS + 1)-1:0] behind;  // the tile's first group

      assign g = ot * COL / OCG + 32'(behind);
      assign last = g == GROUPS - 1 || (g + 1) * OCG >= (ot + 1) * COL;

      always @(posedge clk)
        if (rst || (step && last)) behind <= 0;
        else if (step) behind <= behind + 1'b1;
    end
  endgenerate
endmodule

`default_nettype wire
