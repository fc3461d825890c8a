// A memory with one write and one read port, both clocked: what FPGA tools infer a block RAM from.
// Reading an address in the cycle in which it is written gives the old word.
`timescale 1ns / 1ps
`default_nettype none

module memory #(
  parameter int WIDTH = 8,
  parameter int WORDS = 2
) (
  input  wire             clk,
  /* verilator lint_off UNUSEDSIGNAL */  // addresses are numbers of 32 bits, of which a memory needs the lower ones
  input  wire             write,
  input  wire [31:0]      write_addr,
  input  wire [WIDTH-1:0] write_data,
  input  wire             read,
  input  wire [31:0]      read_addr,
  /* verilator lint_on UNUSEDSIGNAL */
  output reg  [WIDTH-1:0] read_data
);
  localparam int ADDR_BITS = WORDS > 1 ? $clog2(WORDS) : 1;

  reg [WIDTH-1:0] words [0:WORDS-1];

  always @(posedge clk) begin
    if (write) words[ADDR_BITS'(write_addr)] <= write_data;
    if (read) read_data <= words[ADDR_BITS'(read_addr)];
  end
endmodule

`default_nettype wire
