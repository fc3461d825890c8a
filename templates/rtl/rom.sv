// A memory of numbers that never change, read as `memory` is. The first word stands first in CONTENT.
`timescale 1ns / 1ps
`default_nettype none

module rom #(
  parameter int WIDTH = 8,
  parameter int WORDS = 2,
  parameter bit [WIDTH*WORDS-1:0] CONTENT = 0
) (
  input  wire             clk,
  input  wire             read,
  input  wire [31:0]      read_addr,
  output reg  [WIDTH-1:0] read_data
);
  always @(posedge clk)
    if (read) read_data <= CONTENT[(WORDS - 1 - read_addr) * WIDTH +: WIDTH];
endmodule

`default_nettype wire
