// SIMD: a 4-bit code comes as two 2-bit halves, the high halves first. 3 to 2 channels, 2x2, plane 3x2.
`include "streams.svh"
module simd_2bit (
  input wire clk, input wire rst,
  `IN(x, 4),
  `IN(w, 8),
  `OUT(y, 32)
);
  reg done;
  `TAKE(x, 48, 4, 12)
  `TAKE(w, 16, 8, 16)
  wire strange = x_strange || w_strange;
  `GIVE(y, 4, 32, 2)

  integer n, oc, oy, ic, tap, at;
  reg signed [15:0] high, low, total;
  reg signed [3:0] weight;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (x_full && w_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (oc = 0; oc < 2; oc = oc + 1)
          for (oy = 0; oy < 2; oy = oy + 1) begin
            high = 0;
            low = 0;
            for (ic = 0; ic < 3; ic = ic + 1)
              for (tap = 0; tap < 4; tap = tap + 1) begin
                at = ((n * 2 + ic / 2) * 3 + oy + tap / 2) * 2 + tap % 2;
                weight = w[(oc*2+ic/2)*4+tap][ic%2*4+:4];
                high = high + weight * $signed({1'b0, x[at][ic%2*2+:2]});
                low = low + weight * $signed({1'b0, x[24+at][ic%2*2+:2]});
              end
            total = high * 4 + low;
            y[n*2+oy][oc*16+:16] = total < 0 ? 16'd0 : total;
          end
      done <= 1;
    end
endmodule
