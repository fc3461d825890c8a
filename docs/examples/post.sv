// The post-processing of features.33 in two stages: product and addend, then shift and clamp.
module post
  import features_33_pkg::*;
(
    input                            clk,
    input                            rst_n,
    input                            valid_i,
    input  signed [            11:0] sum_i,
    output reg                       valid_o,
    output reg    [OUTPUT_BITS-1:0]  code_o
);
  localparam int ADD = OUTPUT_ADD;
  reg signed [23:0] product;
  reg valid;
  wire signed [23:0] shifted = product >>> OUTPUT_SHIFT;

  always @(posedge clk) begin
    product <= sum_i * 24'(OUTPUT_MUL) + ADD;
    valid   <= valid_i;
    code_o  <= shifted < 0 ? 0 : shifted > OUTPUT_MAX ? OUTPUT_MAX : shifted[OUTPUT_BITS-1:0];
    valid_o <= valid;
    if (!rst_n) {valid, valid_o} <= 0;
  end
endmodule
