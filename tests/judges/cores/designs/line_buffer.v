// Verilog-2001. A 3x3 convolution with padding 1 of one channel, on the fly: two line buffers, a window of 3x3, two
// output channels, a pixel a cycle. A zero follows each row, and a row of zeros each image: it is the padding on both
// sides, as nothing but zeros stands between the end of a row and the start of the next one.
module line_buffer #(
  parameter H = 3,
  parameter W = 4
) (
  input             clk,
  input             rst,
  input             s_weight_tvalid,
  output            s_weight_tready,
  input      [3:0]  s_weight_tdata,
  input             s_weight_tlast,
  input             s_input_tvalid,
  output            s_input_tready,
  input      [3:0]  s_input_tdata,
  input             s_input_tlast,
  output reg        m_accumulator_tvalid,
  input             m_accumulator_tready,
  output reg [31:0] m_accumulator_tdata,
  output reg        m_accumulator_tlast
);
  reg signed [3:0] weight[0:17];  // tap, channel
  reg [4:0] loaded;
  wire ready = loaded == 18;
  assign s_weight_tready = !ready;

  reg [2:0] r, c;  // 0..H, 0..W
  wire edge_of_image = r == H || c == W;
  wire free = !m_accumulator_tvalid || m_accumulator_tready;
  wire move = ready && free && (edge_of_image || s_input_tvalid);
  assign s_input_tready = ready && free && !edge_of_image;

  reg [3:0] one_ago[0:W], two_ago[0:W];
  wire [3:0] low = edge_of_image ? 4'd0 : s_input_tdata;
  wire [3:0] mid = r > 0 ? one_ago[c] : 4'd0;
  wire [3:0] top = r > 0 ? two_ago[c] : 4'd0;
  reg [3:0] t1, t2, m1, m2, l1, l2;  // the columns before

  wire [35:0] window = {low, l1, l2, mid, m1, m2, top, t1, t2};  // tap 0 in the lowest bits
  reg signed [15:0] sum[0:1];
  integer k, o;
  always @* begin
    for (o = 0; o < 2; o = o + 1) begin
      sum[o] = 0;
      for (k = 0; k < 9; k = k + 1)
        sum[o] = sum[o] + weight[2*k+o] * $signed({1'b0, window[4*k +: 4]});
    end
  end

  always @(posedge clk) begin
    if (rst) begin
      loaded <= 0;
      r <= 0;
      c <= 0;
      m_accumulator_tvalid <= 0;
      {t1, t2, m1, m2, l1, l2} <= 0;
    end else begin
      if (s_weight_tvalid && s_weight_tready) begin
        weight[loaded] <= s_weight_tdata;
        loaded <= loaded + 1;
      end
      if (m_accumulator_tready) m_accumulator_tvalid <= 0;
      if (move) begin
        one_ago[c] <= low;
        two_ago[c] <= mid;
        {t2, t1} <= {t1, top};
        {m2, m1} <= {m1, mid};
        {l2, l1} <= {l1, low};
        c <= c == W ? 0 : c + 1;
        if (c == W) r <= r == H ? 0 : r + 1;
        if (r > 0 && c > 0) begin
          m_accumulator_tvalid <= 1;
          m_accumulator_tdata <= {sum[1], sum[0]};
          m_accumulator_tlast <= r == H && c == W;
        end
      end
    end
  end
endmodule
