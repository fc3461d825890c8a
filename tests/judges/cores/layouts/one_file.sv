// All that goes in and comes out stands in one file, part after part. 2 to 2 channels, 2x2, plane 3x3.
`include "streams.svh"
module one_file (
  input wire clk, input wire rst,
  `IN(weight, 4),
  `IN(bias, 32),
  `IN(pixel, 12),
  `OUT(accumulator, 32)
);
  reg done;
  `TAKE(weight, 16, 4, 16)
  `TAKE(bias, 2, 32, 2)
  `TAKE(pixel, 12, 12, 6)
  wire strange = weight_strange || bias_strange || pixel_strange;
  `GIVE(accumulator, 8, 32, 4)

  integer n, oc, oy, ox, ic, tap;
  reg signed [15:0] total;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (weight_full && bias_full && pixel_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (oc = 0; oc < 2; oc = oc + 1)
          for (oy = 0; oy < 2; oy = oy + 1)
            for (ox = 0; ox < 2; ox = ox + 1) begin
              total = bias[oc][15:0];
              for (ic = 0; ic < 2; ic = ic + 1)
                for (tap = 0; tap < 4; tap = tap + 1)
                  total = total + $signed(weight[(oc*2+ic)*4+tap])
                                  * $signed({1'b0, pixel[(n*2+ic)*3+oy+tap/2][(2-ox-tap%2)*4+:4]});
              accumulator[(n * 2 + oc) * 2 + oy][(1-ox)*16+:16] = total;
            end
      done <= 1;
    end
endmodule
