// A product of matrices on an array of 3 x 2: skewed operands, and a result that is skewed, too. (6 x 4)(4 x 4).
// What stands before and behind a skewed result is nobody's: here it is 0x5a5a.
`include "streams.svh"
module gemm_skew (
  input wire clk, input wire rst,
  `IN(a, 12),
  `IN(b, 8),
  `OUT(c, 32)
);
  reg done;
  `TAKE(a, 24, 12, 12)
  `TAKE(b, 24, 8, 12)
  wire strange = a_strange || b_strange;
  `GIVE(c, 32, 32, 16)

  integer n, mt, pt, row, col, k;
  reg signed [15:0] total;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (a_full && b_full && !done) begin
      for (n = 0; n < 32; n = n + 1) c[n] = 32'h5a5a5a5a;
      for (n = 0; n < 2; n = n + 1)
        for (mt = 0; mt < 2; mt = mt + 1)
          for (pt = 0; pt < 2; pt = pt + 1)
            for (row = 0; row < 3; row = row + 1)
              for (col = 0; col < 2; col = col + 1) begin
                total = 0;
                for (k = 0; k < 4; k = k + 1)
                  total = total + $signed(a[(n*2+mt)*6+k+row][(2-row)*4+:4])
                                  * $signed({1'b0, b[(n*2+pt)*6+k+2*col][col*4+:4]});
                c[((n * 2 + mt) * 2 + pt) * 4 + row + col][col*16+:16] = total;
              end
      done <= 1;
    end
endmodule
