// One element of the output-stationary array: it adds activation x weight to the sum that it keeps and hands the
// activation to the east and the weight to the south, each a cycle later. `shift_sum` moves the sums north.
`timescale 1ns / 1ps
`default_nettype none

module os_pe #(
  parameter int WEIGHT_BITS   = 4,
  parameter int WEIGHT_SIGNED = 1,
  parameter int INPUT_BITS    = 4,
  parameter int INPUT_SIGNED  = 0,
  parameter int SUM_BITS      = 16
) (
  input  wire                   clk,
  input  wire                   rst,
  input  wire                   advance,
  input  wire                   shift_sum,       // take the sum of the southern neighbour
  input  wire [INPUT_BITS-1:0]  activation_west,
  output reg  [INPUT_BITS-1:0]  activation_east,
  input  wire [WEIGHT_BITS-1:0] weight_north,
  output reg  [WEIGHT_BITS-1:0] weight_south,
  input  wire [SUM_BITS-1:0]    sum_south,
  output reg  [SUM_BITS-1:0]    sum_north
);
  // one bit more, so that signed and unsigned codes multiply alike
  wire signed [WEIGHT_BITS:0] weight = {WEIGHT_SIGNED != 0 && weight_north[WEIGHT_BITS-1], weight_north};
  wire signed [INPUT_BITS:0] activation = {INPUT_SIGNED != 0 && activation_west[INPUT_BITS-1], activation_west};
  /* verilator lint_off UNUSEDSIGNAL */  // sums may need fewer bits
  wire signed [WEIGHT_BITS+INPUT_BITS+1:0] product = weight * activation;
  /* verilator lint_on UNUSEDSIGNAL */

  always @(posedge clk)
    if (rst) begin
      activation_east <= 0;
      weight_south <= 0;
      sum_north <= 0;
    end else if (advance) begin
      activation_east <= activation_west;
      weight_south <= weight_north;
      sum_north <= shift_sum ? sum_south : sum_north + SUM_BITS'(product);
    end
endmodule

`default_nettype wire
