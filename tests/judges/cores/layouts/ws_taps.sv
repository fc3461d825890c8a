// Weight-stationary tiles of 4 x 2; 5 to 3 channels, 2x2, padded plane 3x4. Partial sums of each tap, and ReLU.
`include "streams.svh"
module ws_taps (
  input wire clk, input wire rst,
  `IN(activation, 16),
  `IN(kernel, 16),
  `OUT(psum, 32),
  `OUT(out, 32)
);
  reg done;
  `TAKE(activation, 48, 16, 12)
  `TAKE(kernel, 32, 16, 32)
  wire strange = activation_strange || kernel_strange;
  `GIVE(psum, 384, 32, 12)
  `GIVE(out, 24, 32, 6)

  integer n, it, ot, tap, col, row, py, px, oy, ox;
  reg signed [15:0] sum;
  reg [15:0] word, taps;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (activation_full && kernel_full && !done) begin
      for (it = 0; it < 2; it = it + 1)
        for (ot = 0; ot < 2; ot = ot + 1)
          for (tap = 0; tap < 4; tap = tap + 1)
            for (n = 0; n < 24; n = n + 1)  // image and position
              for (col = 0; col < 2; col = col + 1) begin
                word = activation[it * 24 + n];
                taps = kernel[((it * 2 + ot) * 4 + tap) * 2 + col];
                sum = 0;
                for (row = 0; row < 4; row = row + 1)
                  sum = sum + $signed({1'b0, word[row*4+:4]}) * $signed(taps[row*4+:4]);
                psum[((it * 2 + ot) * 4 + tap) * 24 + n][col*16+:16] = sum;
              end
      for (ot = 0; ot < 2; ot = ot + 1)
        for (n = 0; n < 2; n = n + 1)
          for (oy = 0; oy < 2; oy = oy + 1)
            for (ox = 0; ox < 3; ox = ox + 1)
              for (col = 0; col < 2; col = col + 1) begin
                sum = 0;
                for (it = 0; it < 2; it = it + 1)
                  for (tap = 0; tap < 4; tap = tap + 1)
                    sum = sum + $signed(psum[((it*2+ot)*4+tap)*24+n*12+(oy+tap/2)*4+ox+tap%2][col*16+:16]);
                out[((ot * 2 + n) * 2 + oy) * 3 + ox][col*16+:16] = sum < 0 ? 16'd0 : sum;
              end
      done <= 1;
    end
endmodule
