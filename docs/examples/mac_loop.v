// A convolution with one multiplier: K x K taps, stride 1, zero padding, one multiplication a cycle.
// Weights and pixels are written one code at a time; sums come out one at a time, channel after channel, row by row.
`timescale 1ns / 1ps

module mac_loop #(
  parameter CIN = 8, COUT = 8, H = 4, W = 4, K = 3,
  parameter WB = 4,  // bits of a weight, signed
  parameter XB = 4,  // bits of a pixel, unsigned
  parameter AB = 16  // bits of a sum
) (
  input                       clk,
  input                       reset_n,
  input                       we,            // write `din`
  input                       to_pixels,     // 0: weights[addr], 1: pixels[addr]
  input      [15:0]           addr,          // weight: ((ky*K + kx)*CIN + ci)*COUT + co; pixel: (y*W + x)*CIN + ci
  input      [7:0]            din,
  input                       go,            // begin with an image
  output reg                  result_valid,
  input                       result_ready,
  output reg signed [AB-1:0]  result
);
  localparam PAD = K / 2;

  reg signed [WB-1:0] weights [0:K*K*CIN*COUT-1];
  reg        [XB-1:0] pixels  [0:H*W*CIN-1];

  reg busy;
  integer y, x, co, ky, kx, ci;
  reg signed [AB-1:0] sum;

  wire signed [31:0] py = y + ky - PAD;
  wire signed [31:0] px = x + kx - PAD;
  wire in_image = py >= 0 && py < H && px >= 0 && px < W;
  wire signed [WB-1:0] weight = weights[((ky * K + kx) * CIN + ci) * COUT + co];
  wire        [XB-1:0] pixel  = in_image ? pixels[(py * W + px) * CIN + ci] : 0;
  wire signed [AB-1:0] next   = sum + weight * $signed({1'b0, pixel});

  always @(posedge clk) begin
    if (we && !to_pixels) weights[addr] <= din[WB-1:0];
    if (we && to_pixels) pixels[addr] <= din[XB-1:0];
    if (!reset_n) begin
      busy <= 0;
      result_valid <= 0;
    end else if (go) begin
      {y, x, co, ky, kx, ci} <= 0;
      sum <= 0;
      busy <= 1;
    end else if (result_valid) begin
      if (result_ready) result_valid <= 0;
    end else if (busy) begin
      sum <= next;
      ci <= ci + 1;
      if (ci == CIN - 1) begin
        ci <= 0;
        kx <= kx + 1;
        if (kx == K - 1) begin
          kx <= 0;
          ky <= ky + 1;
          if (ky == K - 1) begin  // the last tap of this sum
            ky <= 0;
            sum <= 0;
            result <= next;
            result_valid <= 1;
            co <= co + 1;
            if (co == COUT - 1) begin
              co <= 0;
              x <= x + 1;
              if (x == W - 1) begin
                x <= 0;
                y <= y + 1;
                if (y == H - 1) busy <= 0;
              end
            end
          end
        end
      end
    end
  end
endmodule
