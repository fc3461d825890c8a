// The weight-stationary array: ROW x COL elements, each wired to its neighbours only.
// A word of weights enters at the west edge and moves east: after COL words the first stands in the last column.
// A word of activations enters at the west edge, row r delayed by r; the psums leave at the south edge, and the columns
// are aligned again: psums come ROW + COL - 1 cycles after their activations.
`timescale 1ns / 1ps
`default_nettype none

module ws_grid #(
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
  input  wire                       shift_weight,
  input  wire [ROW*WEIGHT_BITS-1:0] weights,
  input  wire [ROW*INPUT_BITS-1:0]  activations,
  output wire [COL*SUM_BITS-1:0]    psums
);
  // [r][c]: what element (r, c) gets from the west or the north
  wire [WEIGHT_BITS-1:0] weight     [0:ROW-1][0:COL];
  wire [INPUT_BITS-1:0]  activation [0:ROW-1][0:COL];
  wire [SUM_BITS-1:0]    psum       [0:ROW][0:COL-1];
  wire [ROW*INPUT_BITS-1:0] west;
  wire [COL*SUM_BITS-1:0] south;

  skew #(.LANES(ROW), .BITS(INPUT_BITS)) west_skew (
    .clk(clk), .rst(rst), .advance(advance), .from(activations), .to(west)
  );
  skew #(.LANES(COL), .BITS(SUM_BITS), .REVERSE(1)) south_skew (
    .clk(clk), .rst(rst), .advance(advance), .from(south), .to(psums)
  );

  genvar r, c;
  generate
    for (r = 0; r < ROW; r = r + 1) begin : row
      assign weight[r][0] = weights[r*WEIGHT_BITS +: WEIGHT_BITS];
      assign activation[r][0] = west[r*INPUT_BITS +: INPUT_BITS];
      for (c = 0; c < COL; c = c + 1) begin : col
        ws_pe #(
          .WEIGHT_BITS(WEIGHT_BITS), .WEIGHT_SIGNED(WEIGHT_SIGNED), .INPUT_BITS(INPUT_BITS),
          .INPUT_SIGNED(INPUT_SIGNED), .SUM_BITS(SUM_BITS)
        ) pe (
          .clk(clk), .advance(advance), .shift_weight(shift_weight),
          .weight_west(weight[r][c]), .weight_east(weight[r][c+1]),
          .activation_west(activation[r][c]), .activation_east(activation[r][c+1]),
          .psum_north(psum[r][c]), .psum_south(psum[r+1][c])
        );
      end
    end
    for (c = 0; c < COL; c = c + 1) begin : edges
      assign psum[0][c] = 0;
      assign south[c*SUM_BITS +: SUM_BITS] = psum[ROW][c];
    end
  endgenerate
endmodule

`default_nettype wire
