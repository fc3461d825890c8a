// Delays lane i by i cycles (REVERSE: by LANES-1-i), so that words become the slanted fronts of a systolic array and
// slanted fronts become words again.
`timescale 1ns / 1ps
`default_nettype none

module skew #(
  parameter int LANES   = 2,
  parameter int BITS    = 8,
  parameter int REVERSE = 0
) (
  input  wire                  clk,
  input  wire                  rst,
  input  wire                  advance,
  input  wire [LANES*BITS-1:0] from,
  output wire [LANES*BITS-1:0] to
);
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : lane
      localparam int DELAY = REVERSE != 0 ? LANES - 1 - i : i;
      if (DELAY == 0) begin : through
        wire unused = &{1'b0, clk, rst, advance};  // of an array of one line
        assign to[i*BITS +: BITS] = from[i*BITS +: BITS];
      end else begin : late
        reg [DELAY*BITS-1:0] line;
        always @(posedge clk)
          if (rst) line <= 0;
          else if (advance) line <= (DELAY * BITS)'({line, from[i*BITS +: BITS]});
        assign to[i*BITS +: BITS] = line[(DELAY-1)*BITS +: BITS];
      end
    end
  endgenerate
endmodule

`default_nettype wire
