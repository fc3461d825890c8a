// The output-stationary array: ROW x COL elements, each wired to its neighbours only.
// Activations enter at the west edge, weights at the north edge, row r and column c each as many cycles late.
// With `shift_sum` the sums move north: the word at the north edge is that of row 0, then of row 1, ...; zeros follow,
// so that after ROW shifts every element starts anew.
`timescale 1ns / 1ps
`default_nettype none

module os_grid #(
  parameter int ROW           = 8,
  parameter int COL           = 8,
  parameter int WEIGHT_BITS   = 4,
  parameter int WEIGHT_SIGNED = 1,
  parameter int INPUT_BITS    = 4,
  parameter int INPUT_SIGNED  = 0,
  parameter int SUM_BITS      = 16
) (
  input  wire                       clk,
  input  wire                       rst,
  input  wire                       advance,
  input  wire                       shift_sum,
  input  wire [ROW*INPUT_BITS-1:0]  activations,
  input  wire [COL*WEIGHT_BITS-1:0] weights,
  output wire [COL*SUM_BITS-1:0]    sums
);
  // [r][c]: what element (r, c) gets from the west or the north, and what it gives to the north
  wire [INPUT_BITS-1:0]  activation [0:ROW-1][0:COL];
  wire [WEIGHT_BITS-1:0] weight     [0:ROW][0:COL-1];
  wire [SUM_BITS-1:0]    sum        [0:ROW][0:COL-1];

  genvar r, c;
  generate
    for (r = 0; r < ROW; r = r + 1) begin : row
      assign activation[r][0] = activations[r*INPUT_BITS +: INPUT_BITS];
      for (c = 0; c < COL; c = c + 1) begin : col
        os_pe #(
          .WEIGHT_BITS(WEIGHT_BITS), .WEIGHT_SIGNED(WEIGHT_SIGNED), .INPUT_BITS(INPUT_BITS),
          .INPUT_SIGNED(INPUT_SIGNED), .SUM_BITS(SUM_BITS)
        ) pe (
          .clk(clk), .rst(rst), .advance(advance), .shift_sum(shift_sum),
          .activation_west(activation[r][c]), .activation_east(activation[r][c+1]),
          .weight_north(weight[r][c]), .weight_south(weight[r+1][c]),
          .sum_south(sum[r+1][c]), .sum_north(sum[r][c])
        );
      end
    end
    for (c = 0; c < COL; c = c + 1) begin : edges
      assign weight[0][c] = weights[c*WEIGHT_BITS +: WEIGHT_BITS];
      assign sum[ROW][c] = 0;
      assign sums[c*SUM_BITS +: SUM_BITS] = sum[0][c];
    end
  endgenerate
endmodule

`default_nettype wire
