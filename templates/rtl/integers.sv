// The integers that the codes of a word stand for: each less the code of real zero.
`timescale 1ns / 1ps
`default_nettype none

module integers #(
  parameter int LANES    = 8,
  parameter int BITS     = 8,
  parameter int SIGNED   = 1,
  parameter int ZERO     = 0,
  parameter int OUT_BITS = 8   // BITS, and one more where ZERO is not 0
) (
  input  wire [LANES*BITS-1:0]     codes,
  output wire [LANES*OUT_BITS-1:0] values
);
  genvar i;
  generate
    for (i = 0; i < LANES; i = i + 1) begin : lane
      wire [BITS-1:0] code = codes[i*BITS +: BITS];
      if (ZERO == 0) begin : plain
        assign values[i*OUT_BITS +: OUT_BITS] = OUT_BITS'(code);
      end else begin : less
        assign values[i*OUT_BITS +: OUT_BITS] = {SIGNED != 0 && code[BITS-1], code} - OUT_BITS'(ZERO);
      end
    end
  endgenerate
endmodule

`default_nettype wire
