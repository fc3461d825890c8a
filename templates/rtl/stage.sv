// One register of the pipeline behind the array: a word of results, its output tile, whether it is the image's last.
`timescale 1ns / 1ps
`default_nettype none

module stage #(
  parameter int WIDTH   = 8,
  parameter int OT_BITS = 1
) (
  input  wire               clk,
  input  wire               rst,
  input  wire               advance,
  input  wire               next_valid,
  input  wire               next_last,
  input  wire [OT_BITS-1:0] next_ot,
  input  wire [WIDTH-1:0]   next_data,
  output reg                valid,
  output reg                last,
  output reg  [OT_BITS-1:0] ot,
  output reg  [WIDTH-1:0]   data
);
  always @(posedge clk)
    if (rst) valid <= 1'b0;
    else if (advance) begin
      valid <= next_valid;
      last <= next_last;
      ot <= next_ot;
      data <= next_data;
    end
endmodule

`default_nettype wire
