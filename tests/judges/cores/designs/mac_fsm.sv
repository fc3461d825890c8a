// One multiplier and a state machine: all weights, biases and an image are kept, then every sum is made product by
// product. Any kernel, stride and padding; groups = 1. Sums, ReLU, and codes clamp((sum + 8) >> 4, 0, 15).
module mac_fsm
  import conv_pkg::*;
(
  input  logic clk,
  input  logic rst,
  input  logic s_weight_tvalid,
  output logic s_weight_tready,
  input  logic [WEIGHT_WORD_BITS-1:0] s_weight_tdata,
  input  logic s_weight_tlast,
  input  logic s_bias_tvalid,
  output logic s_bias_tready,
  input  logic [BIAS_WORD_BITS-1:0] s_bias_tdata,
  input  logic s_bias_tlast,
  input  logic s_input_tvalid,
  output logic s_input_tready,
  input  logic [INPUT_WORD_BITS-1:0] s_input_tdata,
  input  logic s_input_tlast,
  output logic m_accumulator_tvalid,
  input  logic m_accumulator_tready,
  output logic [ACCUMULATOR_WORD_BITS-1:0] m_accumulator_tdata,
  output logic m_accumulator_tlast,
  output logic m_relu_tvalid,
  input  logic m_relu_tready,
  output logic [RELU_WORD_BITS-1:0] m_relu_tdata,
  output logic m_relu_tlast,
  output logic m_output_tvalid,
  input  logic m_output_tready,
  output logic [OUTPUT_WORD_BITS-1:0] m_output_tdata,
  output logic m_output_tlast
);
  localparam int PIXELS = CT * IY * IX;

  logic [WEIGHT_WORD_BITS-1:0] weights[0:WEIGHT_WORDS-1];
  logic [BIAS_WORD_BITS-1:0] biases[0:BIAS_WORDS-1];
  logic [INPUT_WORD_BITS-1:0] image[0:PIXELS-1];
  logic [7:0] weights_in, biases_in, pixels_in;
  logic have_weights, have_biases, have_image;

  assign s_weight_tready = !have_weights;
  assign s_bias_tready   = !have_biases;
  assign s_input_tready  = !have_image;

  // the loops, the last one the fastest
  logic [3:0] ot, oy, ox, col, it, kh, kw, row;
  wire last_row = row == 4'(ROW - 1);
  wire last_kw  = last_row && kw == 4'(KW - 1);
  wire last_kh  = last_kw && kh == 4'(KH - 1);
  wire last_tap = last_kh && it == 4'(IT - 1);
  wire last_col = last_tap && col == 4'(COL - 1);
  wire last_ox  = last_col && ox == 4'(OX - 1);
  wire last_oy  = last_ox && oy == 4'(OY - 1);
  wire last_ot  = last_oy && ot == 4'(OT - 1);

  wire signed [5:0] y = $signed({2'b0, oy}) * 6'(STRIDE_Y) + $signed({2'b0, kh}) - 6'(PAD_TOP);
  wire signed [5:0] x = $signed({2'b0, ox}) * 6'(STRIDE_X) + $signed({2'b0, kw}) - 6'(PAD_LEFT);
  wire inside_image = y >= 0 && y < 6'(IY) && x >= 0 && x < 6'(IX);
  wire [7:0] pixel_at = inside_image ? (8'(it) * 8'(IY) + 8'(y)) * 8'(IX) + 8'(x) : 8'd0;
  wire [7:0] weight_at = (((8'(ot) * 8'(IT) + 8'(it)) * 8'(KH) + 8'(kh)) * 8'(KW) + 8'(kw)) * 8'(COL) + 8'(col);

  wire [INPUT_WORD_BITS-1:0] pixel_word = image[pixel_at];
  wire [WEIGHT_WORD_BITS-1:0] weight_word = weights[weight_at];
  wire [BIAS_WORD_BITS-1:0] bias_word = biases[ot];
  wire [INPUT_BITS-1:0] pixel = inside_image ? pixel_word[row*INPUT_BITS+:INPUT_BITS] : 0;
  wire signed [WEIGHT_BITS-1:0] weight = weight_word[row*WEIGHT_BITS+:WEIGHT_BITS];
  wire signed [31:0] bias = bias_word[col*32+:32];

  logic signed [15:0] sum;
  wire starts = it == 0 && kh == 0 && kw == 0 && row == 0;
  wire signed [15:0] more = (starts ? 16'sd0 : sum) + weight * $signed({1'b0, pixel});
  wire there = 8'(ot) * 8'(COL) + 8'(col) < 8'(OC);
  wire signed [15:0] total = there ? more + 16'(bias) : 16'sd0;
  wire signed [15:0] positive = total < 0 ? 16'sd0 : total;
  wire signed [15:0] rounded = (total + 16'sd8) >>> 4;
  wire [3:0] code = !there || rounded < 0 ? 4'd0 : rounded > 15 ? 4'd15 : rounded[3:0];

  wire waits = m_accumulator_tvalid || m_relu_tvalid || m_output_tvalid;
  wire works = have_weights && have_biases && have_image && !waits;

  always_ff @(posedge clk)
    if (rst) begin
      {weights_in, biases_in, pixels_in} <= '0;
      {have_weights, have_biases, have_image} <= '0;
      {ot, oy, ox, col, it, kh, kw, row} <= '0;
      {m_accumulator_tvalid, m_relu_tvalid, m_output_tvalid} <= '0;
    end else begin
      if (s_weight_tvalid && s_weight_tready) begin
        weights[weights_in] <= s_weight_tdata;
        weights_in <= weights_in + 1;
        have_weights <= weights_in == 8'(WEIGHT_WORDS - 1);
      end
      if (s_bias_tvalid && s_bias_tready) begin
        biases[biases_in] <= s_bias_tdata;
        biases_in <= biases_in + 1;
        have_biases <= biases_in == 8'(BIAS_WORDS - 1);
      end
      if (s_input_tvalid && s_input_tready) begin
        image[pixels_in] <= s_input_tdata;
        pixels_in <= pixels_in == 8'(PIXELS - 1) ? 0 : pixels_in + 1;
        have_image <= pixels_in == 8'(PIXELS - 1);
      end
      if (m_accumulator_tready) m_accumulator_tvalid <= 0;
      if (m_relu_tready) m_relu_tvalid <= 0;
      if (m_output_tready) m_output_tvalid <= 0;
      if (works) begin
        sum <= more;
        row <= last_row ? 0 : row + 1;
        if (last_row) kw <= last_kw ? 0 : kw + 1;
        if (last_kw) kh <= last_kh ? 0 : kh + 1;
        if (last_kh) it <= last_tap ? 0 : it + 1;
        if (last_tap) begin
          col <= last_col ? 0 : col + 1;
          m_accumulator_tdata[col*ACCUMULATOR_BITS+:ACCUMULATOR_BITS] <= total;
          m_relu_tdata[col*RELU_BITS+:RELU_BITS] <= positive;
          m_output_tdata[col*OUTPUT_BITS+:OUTPUT_BITS] <= code;
        end
        if (last_col) begin
          ox <= last_ox ? 0 : ox + 1;
          {m_accumulator_tvalid, m_relu_tvalid, m_output_tvalid} <= '1;
          m_accumulator_tlast <= last_ot;
          m_relu_tlast <= last_ot;
          m_output_tlast <= last_ot;
        end
        if (last_ox) oy <= last_oy ? 0 : oy + 1;
        if (last_oy) ot <= last_ot ? 0 : ot + 1;
        if (last_ot) have_image <= 0;
      end
    end
endmodule
