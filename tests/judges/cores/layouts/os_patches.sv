// Output-stationary: 4 positions x 2 channels, fed with patches; 2 to 3 channels, 2x2, stride 2, 3x2 outputs.
`include "streams.svh"
module os_patches (
  input wire clk, input wire rst,
  `IN(x, 16),
  `IN(w, 8),
  `IN(b, 32),
  `OUT(sum, 32)
);
  reg done;
  `TAKE(x, 32, 16, 16)
  `TAKE(w, 16, 8, 16)
  `TAKE(b, 4, 32, 4)
  wire strange = x_strange || w_strange || b_strange;
  `GIVE(sum, 32, 32, 16)

  integer n, ot, pt, row, col, term;
  reg signed [15:0] total;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (x_full && w_full && b_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (ot = 0; ot < 2; ot = ot + 1)
          for (pt = 0; pt < 2; pt = pt + 1)
            for (row = 0; row < 4; row = row + 1)
              for (col = 0; col < 2; col = col + 1) begin
                total = b[ot*2+col][15:0];
                for (term = 0; term < 8; term = term + 1)
                  total = total + $signed({1'b0, x[(n*2+pt)*8+term][row*4+:4]}) * $signed(w[ot*8+term][col*4+:4]);
                sum[(n * 2 + ot) * 8 + pt * 4 + row][col*16+:16] = pt * 4 + row < 6 ? total : 16'd0;
              end
      done <= 1;
    end
endmodule
