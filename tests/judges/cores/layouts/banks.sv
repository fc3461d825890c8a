// Words in two banks: word k of a stream of 2 channels each is in bank k mod 2. 3 to 2 channels, 2x2, plane 3x2.
`include "streams.svh"
module banks (
  input wire clk, input wire rst,
  `IN(pixels, 8),
  `IN(weights, 8),
  `OUT(sums, 16)
);
  reg done;
  `TAKE(pixels, 24, 8, 24)
  `TAKE(weights, 16, 8, 16)
  wire strange = pixels_strange || weights_strange;
  `GIVE(sums, 8, 16, 8)

  integer n, oc, oy, ic, tap, k, j, r;
  reg signed [15:0] total;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (pixels_full && weights_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (oc = 0; oc < 2; oc = oc + 1)
          for (oy = 0; oy < 2; oy = oy + 1) begin
            total = 0;
            for (ic = 0; ic < 3; ic = ic + 1)
              for (tap = 0; tap < 4; tap = tap + 1) begin
                k = ((n * 2 + ic / 2) * 3 + oy + tap / 2) * 2 + tap % 2;
                j = (oc * 2 + ic / 2) * 4 + tap;
                total = total + $signed({1'b0, pixels[k%2*12+k/2][(1-ic%2)*4+:4]})
                                * $signed(weights[j%2*8+j/2][(1-ic%2)*4+:4]);
              end
            r = (n * 2 + oc) * 2 + oy;
            sums[r%2*4+r/2] = total;
          end
      done <= 1;
    end
endmodule
