// Bit-serial: a position of the padded plane takes as many cycles as a code has bits, the sign bit first; nothing
// multiplies. One tile of input channels and one tap at a time, so partial sums come out, and are added up in a memory.
module bit_serial
  import conv_pkg::*;
(
  input  logic clk,
  input  logic rst,
  input  logic s_weight_tvalid,
  output logic s_weight_tready,
  input  logic [WEIGHT_WORD_BITS-1:0] s_weight_tdata,
  input  logic s_weight_tlast,
  input  logic s_input_tvalid,
  output logic s_input_tready,
  input  logic [INPUT_WORD_BITS-1:0] s_input_tdata,
  input  logic s_input_tlast,
  output logic m_psum_tvalid,
  input  logic m_psum_tready,
  output logic [PSUM_WORD_BITS-1:0] m_psum_tdata,
  output logic m_psum_tlast,
  output logic m_accumulator_tvalid,
  input  logic m_accumulator_tready,
  output logic [ACCUMULATOR_WORD_BITS-1:0] m_accumulator_tdata,
  output logic m_accumulator_tlast
);
  localparam int PIXELS = CT * IY * IX;

  logic [WEIGHT_WORD_BITS-1:0] weights[0:WEIGHT_WORDS-1];
  logic [INPUT_WORD_BITS-1:0] image[0:PIXELS-1];
  logic [ACCUMULATOR_WORD_BITS-1:0] totals[0:OY*OX-1];
  logic [5:0] weights_in;
  logic [4:0] pixels_in;
  logic weighted, pictured;
  assign s_weight_tready = !weighted;
  assign s_input_tready  = !pictured;

  logic [2:0] it, kh, kw, py, px, bits;  // bits: from the highest one down
  wire last_bit  = bits == 0;
  wire last_px   = last_bit && px == 3'(PX - 1);
  wire last_py   = last_px && py == 3'(PY - 1);
  wire last_kw   = last_py && kw == 3'(KW - 1);
  wire last_kh   = last_kw && kh == 3'(KH - 1);
  wire last_pass = last_kh && it == 3'(IT - 1);

  wire inside_image = py >= 3'(PAD_TOP) && py < 3'(PAD_TOP + IY) && px >= 3'(PAD_LEFT) && px < 3'(PAD_LEFT + IX);
  wire [4:0] pixel_at = inside_image ? (5'(it) * 5'(IY) + 5'(py) - 5'(PAD_TOP)) * 5'(IX) + 5'(px) - 5'(PAD_LEFT) : 5'd0;
  wire [INPUT_WORD_BITS-1:0] pixels = inside_image ? image[pixel_at] : '0;

  // sums of this bit, then of this bit and those before
  logic signed [15:0] run[0:COL-1];
  wire signed [15:0] psum[0:COL-1];
  for (genvar c = 0; c < COL; c++) begin : column
    wire [WEIGHT_WORD_BITS-1:0] word = weights[((5'(it) * 5'(KH) + 5'(kh)) * 5'(KW) + 5'(kw)) * 5'(COL) + 5'(c)];
    logic signed [15:0] now;
    always_comb begin
      now = 0;
      for (int r = 0; r < ROW; r++)
        if (pixels[r*INPUT_BITS+32'(bits)]) now = now + 16'($signed(word[r*WEIGHT_BITS+:WEIGHT_BITS]));
    end
    assign psum[c] = bits == 3'(INPUT_BITS - 1) ? -now : (run[c] <<< 1) + now;
  end

  // does this position belong to an output?
  wire meets = py >= kh && py - kh < 3'(OY) && px >= kw && px - kw < 3'(OX);
  wire [3:0] out_at = meets ? 4'(py - kh) * 4'(OX) + 4'(px - kw) : 4'd0;
  wire fresh = it == 0 && kh == 0 && kw == 0;
  wire whole = it == 3'(IT - 1) && kh == 3'(KH - 1) && kw == 3'(KW - 1);
  wire [ACCUMULATOR_WORD_BITS-1:0] old = totals[out_at];
  wire [ACCUMULATOR_WORD_BITS-1:0] after;
  for (genvar c = 0; c < COL; c++) begin : total
    assign after[c*ACCUMULATOR_BITS+:ACCUMULATOR_BITS] =
        (fresh ? 16'd0 : old[c*ACCUMULATOR_BITS+:ACCUMULATOR_BITS]) + psum[c];
  end

  wire works = weighted && pictured && !(last_bit && (m_psum_tvalid && !m_psum_tready ||
                                                      m_accumulator_tvalid && !m_accumulator_tready));

  always_ff @(posedge clk)
    if (rst) begin
      {weights_in, pixels_in, weighted, pictured} <= '0;
      {it, kh, kw, py, px} <= '0;
      bits <= 3'(INPUT_BITS - 1);
      {m_psum_tvalid, m_accumulator_tvalid} <= '0;
    end else begin
      if (s_weight_tvalid && s_weight_tready) begin
        weights[weights_in] <= s_weight_tdata;
        weights_in <= weights_in + 1;
        weighted <= weights_in == 6'(WEIGHT_WORDS - 1);
      end
      if (s_input_tvalid && s_input_tready) begin
        image[pixels_in] <= s_input_tdata;
        pixels_in <= pixels_in == 5'(PIXELS - 1) ? 0 : pixels_in + 1;
        pictured <= pixels_in == 5'(PIXELS - 1);
      end
      if (m_psum_tready) m_psum_tvalid <= 0;
      if (m_accumulator_tready) m_accumulator_tvalid <= 0;
      if (works) begin
        for (int c = 0; c < COL; c++) run[c] <= psum[c];
        bits <= last_bit ? 3'(INPUT_BITS - 1) : bits - 1;
        if (last_bit) begin
          px <= last_px ? 0 : px + 1;
          m_psum_tvalid <= 1;
          m_psum_tlast <= last_pass;
          for (int c = 0; c < COL; c++) m_psum_tdata[c*PSUM_BITS+:PSUM_BITS] <= psum[c];
          if (meets) totals[out_at] <= after;
          if (meets && whole) begin
            m_accumulator_tvalid <= 1;
            m_accumulator_tdata <= after;
            m_accumulator_tlast <= out_at == 4'(OY * OX - 1);
          end
        end
        if (last_px) py <= last_py ? 0 : py + 1;
        if (last_py) kw <= last_kw ? 0 : kw + 1;
        if (last_kw) kh <= last_kh ? 0 : kh + 1;
        if (last_kh) it <= last_pass ? 0 : it + 1;
        if (last_pass) pictured <= 0;
      end
    end
endmodule
