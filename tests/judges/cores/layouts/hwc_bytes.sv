// Bytes in HWC order, a file for each image and each kernel; sums saturated to int8. 3 to 2 channels, 2x2, plane 3x3.
`include "streams.svh"
module hwc_bytes (
  input wire clk, input wire rst,
  `IN(image, 8),
  `IN(kernels, 8),
  `OUT(result, 8)
);
  reg done;
  `TAKE(image, 54, 8, 27)
  `TAKE(kernels, 24, 8, 24)
  wire strange = image_strange || kernels_strange;
  `GIVE(result, 16, 8, 8)

  integer n, oc, oy, ox, ic, tap;
  reg signed [23:0] total;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (image_full && kernels_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (oy = 0; oy < 2; oy = oy + 1)
          for (ox = 0; ox < 2; ox = ox + 1)
            for (oc = 0; oc < 2; oc = oc + 1) begin
              total = 0;
              for (tap = 0; tap < 4; tap = tap + 1)
                for (ic = 0; ic < 3; ic = ic + 1)
                  total = total + $signed({1'b0, image[((n*3+oy+tap/2)*3+ox+tap%2)*3+ic]})
                                  * $signed(kernels[(oc*4+tap)*3+ic]);
              result[((n * 2 + oy) * 2 + ox) * 2 + oc] = total > 127 ? 8'd127 : total < -128 ? 8'h80 : total[7:0];
            end
      done <= 1;
    end
endmodule
