// Hands words to the edge of an array, one code a cycle on each of its lines. Line i loads the word that comes in slot i
// and sends its codes, that of row 0 first, then zeros: line i is i cycles late, which is the skew that the array needs.
`timescale 1ns / 1ps
`default_nettype none

module feeder #(
  parameter int LINES = 8,
  parameter int LANES = 8,   // of a word
  parameter int BITS  = 4
) (
  input  wire                  clk,
  input  wire                  rst,
  input  wire                  advance,
  input  wire                  valid,
  input  wire [31:0]           slot,
  input  wire [LANES*BITS-1:0] word,
  output wire [LINES*BITS-1:0] codes
);
  genvar i;
  generate
    for (i = 0; i < LINES; i = i + 1) begin : line
      reg [LANES*BITS-1:0] left;
      always @(posedge clk)
        if (rst) left <= 0;
        else if (advance) left <= valid && slot == i ? word : left >> BITS;
      assign codes[i*BITS +: BITS] = left[BITS-1:0];
    end
  endgenerate
endmodule

`default_nettype wire
