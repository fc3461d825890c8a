// Two channels to two, kernel 1x1, padding 1 around a plane of 2x2; codes clamp(sum x gain >> 2, 0, 15).
// PLAIN, PADDED: which of the two memories of inputs it has ports for; the last of them is used. GAIN: gains come, too.
`include "streams.svh"
module operands (
  input wire clk, input wire rst,
`ifdef PLAIN
  `IN(x, 8),
`endif
`ifdef PADDED
  `IN(px, 8),
`endif
`ifdef GAIN
  `IN(gain, 16),
`endif
  `IN(w, 8),
  `OUT(y, 8)
);
  reg done;
  `TAKE(w, 2, 8, 2)
`ifdef PLAIN
  `TAKE(x, 8, 8, 4)
`else
  wire x_full = 1, x_strange = 0;
`endif
`ifdef PADDED
  `TAKE(px, 32, 8, 32)
`else
  wire px_full = 1, px_strange = 0;
`endif
`ifdef GAIN
  `TAKE(gain, 2, 16, 2)
`else
  wire gain_full = 1, gain_strange = 0;
`endif
  wire strange = w_strange || x_strange || px_strange || gain_strange;
  `GIVE(y, 32, 8, 32)

  integer n, oc, oy, ox;
  reg [7:0] pixel;
  reg signed [15:0] total;

  always @(posedge clk)
    if (rst) done <= 0;
    else if (w_full && x_full && px_full && gain_full && !done) begin
      for (n = 0; n < 2; n = n + 1)
        for (oy = 0; oy < 4; oy = oy + 1)
          for (ox = 0; ox < 4; ox = ox + 1)
            for (oc = 0; oc < 2; oc = oc + 1) begin
`ifdef PADDED
              pixel = px[(oy * 2 + n) * 4 + ox];
`else
              pixel = oy == 0 || oy == 3 || ox == 0 || ox == 3 ? 8'd0 : x[n * 4 + (oy - 1) * 2 + ox - 1];
`endif
              total = $signed({1'b0, pixel[3:0]}) * $signed(w[oc][3:0]) + $signed({1'b0, pixel[7:4]}) * $signed(w[oc][7:4]);
`ifdef GAIN
              total = total * $signed(gain[1 - oc]);
`else
              total = total * (oc == 0 ? 16'sd3 : -16'sd2);
`endif
              total = total >>> 2;
              y[(oy * 2 + n) * 4 + ox][oc*4+:4] = total < 0 ? 4'd0 : total > 15 ? 4'd15 : total[3:0];
            end
      done <= 1;
    end
endmodule
