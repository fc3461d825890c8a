// Raw products of bytes plus folded biases in 32 bits, then codes of int8. 2 to 3 channels, 2x2, padded plane 4x4.
`include "streams.svh"
module int8_sums (
  input wire clk, input wire rst,
  `IN(x, 8),
  `IN(w, 8),
  `IN(b, 32),
  `OUT(sum, 32),
  `OUT(y, 8)
);
  reg done;
  `TAKE(x, 64, 8, 32)
  `TAKE(w, 24, 8, 24)
  `TAKE(b, 3, 32, 3)
  wire strange = x_strange || w_strange || b_strange;
  `GIVE(sum, 54, 32, 27)
  `GIVE(y, 54, 8, 27)

  integer n, oc, oy, ox, ic, tap;
  reg signed [31:0] total, code;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (x_full && w_full && b_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (oy = 0; oy < 3; oy = oy + 1)
          for (ox = 0; ox < 3; ox = ox + 1)
            for (oc = 0; oc < 3; oc = oc + 1) begin
              total = b[oc];
              for (tap = 0; tap < 4; tap = tap + 1)
                for (ic = 0; ic < 2; ic = ic + 1)
                  total = total + $signed(x[((n*4+oy+tap/2)*4+ox+tap%2)*2+ic]) * $signed(w[(oc*4+tap)*2+ic]);
              code = (total + 64) >>> 7;
              code = code - 5;
              sum[((n * 3 + oy) * 3 + ox) * 3 + oc] = total;
              y[((n * 3 + oy) * 3 + ox) * 3 + oc] = code > 127 ? 8'd127 : code < -128 ? 8'h80 : code[7:0];
            end
      done <= 1;
    end
endmodule
