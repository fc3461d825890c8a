// Counts 0 .. SIZE-1 along one axis, one step at a time, and starts again behind the last.
// Nested loops are chains of it: an outer axis steps when the inner one steps at its last place.
`timescale 1ns / 1ps
`default_nettype none

module axis #(
  parameter int SIZE = 2
) (
  input  wire        clk,
  input  wire        rst,
  input  wire        step,
  output wire [31:0] at,    // 32 bits, so that sums with other axes need no casts; the upper ones are constant 0
  output wire        last
);
  reg [$clog2(SIZE + 1)-1:0] count;

  assign at = 32'(count);
  assign last = at == SIZE - 1;

  always @(posedge clk)
    if (rst || (step && last)) count <= 0;
    else if (step) count <= count + 1'b1;
endmodule

`default_nettype wire
