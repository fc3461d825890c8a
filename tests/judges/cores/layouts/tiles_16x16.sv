// Tiles of 16 x 16; 20 to 18 channels, kernel 1x2, plane 2x3. Codes clamp(sum >> 3, 0, 15).
`include "streams.svh"
module tiles_16x16 (
  input wire clk, input wire rst,
  `IN(act, 64),
  `IN(wgt, 64),
  `OUT(code, 64)
);
  reg done;
  `TAKE(act, 24, 64, 6)
  `TAKE(wgt, 128, 64, 128)
  wire strange = act_strange || wgt_strange;
  `GIVE(code, 16, 64, 4)

  integer n, ot, it, oy, ox, tap, row, col;
  reg signed [15:0] total;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (act_full && wgt_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (ot = 0; ot < 2; ot = ot + 1)
          for (oy = 0; oy < 2; oy = oy + 1)
            for (ox = 0; ox < 2; ox = ox + 1)
              for (col = 0; col < 16; col = col + 1) begin
                total = 0;
                for (it = 0; it < 2; it = it + 1)
                  for (tap = 0; tap < 2; tap = tap + 1)
                    for (row = 0; row < 16; row = row + 1)
                      total = total + $signed({1'b0, act[((it*2+n)*2+oy)*3+ox+tap][row*4+:4]})
                                      * $signed(wgt[((ot*2+it)*2+tap)*16+col][row*4+:4]);
                total = total >>> 3;
                code[((ot*2+n)*2+oy)*2+ox][col*4+:4] = total < 0 ? 4'd0 : total > 15 ? 4'd15 : total[3:0];
              end
      done <= 1;
    end
endmodule
