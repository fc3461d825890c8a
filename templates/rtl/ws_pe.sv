// One element of the weight-stationary array: it keeps a weight, adds activation x weight to the psum from the north
// and hands the activation to the east and the psum to the south, each a cycle later.
`timescale 1ns / 1ps
`default_nettype none

module ws_pe #(
  parameter int WEIGHT_BITS   = 4,
  parameter int WEIGHT_SIGNED = 1,
  parameter int INPUT_BITS    = 4,
  parameter int INPUT_SIGNED  = 0,
  parameter int SUM_BITS      = 16
) (
  input  wire                   clk,
  input  wire                   advance,
  input  wire                   shift_weight,    // take the weight of the western neighbour
  input  wire [WEIGHT_BITS-1:0] weight_west,
  output reg  [WEIGHT_BITS-1:0] weight_east,
  input  wire [INPUT_BITS-1:0]  activation_west,
  output reg  [INPUT_BITS-1:0]  activation_east,
  input  wire [SUM_BITS-1:0]    psum_north,
  output reg  [SUM_BITS-1:0]    psum_south
);
  // one bit more, so that signed and unsigned codes multiply alike
  wire signed [WEIGHT_BITS:0] weight = {WEIGHT_SIGNED != 0 && weight_east[WEIGHT_BITS-1], weight_east};
  wire signed [INPUT_BITS:0] activation = {INPUT_SIGNED != 0 && activation_west[INPUT_BITS-1], activation_west};
  /* verilator lint_off UNUSEDSIGNAL */  // sums may need fewer bits
  wire signed [WEIGHT_BITS+INPUT_BITS+1:0] product = weight * activation;
  /* verilator lint_on UNUSEDSIGNAL */

  always @(posedge clk)
    if (advance) begin
      if (shift_weight) weight_east <= weight_west;
      activation_east <= activation_west;
      psum_south <= psum_north + SUM_BITS'(product);
    end
endmodule

`default_nettype wire
