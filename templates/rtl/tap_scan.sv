// Walks one axis of the padded plane and says which output, if any, meets the given tap at this place: the places
// tap * DILATION, tap * DILATION + STRIDE, ... belong to outputs 0, 1, ... This addresses the accumulator memory.
`timescale 1ns / 1ps
`default_nettype none

module tap_scan #(
  parameter int SIZE     = 6,  // padded places
  parameter int OUT      = 4,  // outputs
  parameter int STRIDE   = 1,
  parameter int DILATION = 1
) (
  input  wire        clk,
  input  wire        restart,  // hold it for a cycle when the tap has changed
  input  wire        step,
  input  wire [31:0] tap,
  output wire        last,
  output wire        meets,
  output wire [31:0] out
);
  localparam int BITS = $clog2(SIZE + STRIDE + 1);

  reg [BITS-1:0] at, gap, count;  // gap: places until the next output

  assign last = 32'(at) == SIZE - 1;
  assign out = 32'(count);
  assign meets = gap == 0 && out < OUT;

  always @(posedge clk)
    if (restart || (step && last)) begin
      at <= 0;
      count <= 0;
      gap <= BITS'(tap * DILATION);
    end else if (step) begin
      at <= at + 1'b1;
      gap <= gap == 0 ? BITS'(STRIDE - 1) : gap - 1'b1;
      if (gap == 0) count <= count + 1'b1;
    end
endmodule

`default_nettype wire
