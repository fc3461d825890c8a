// Puts mac_loop behind the streams of the bench of vectors/features_33. Serves layers whose channels fit one word each.
`timescale 1ns / 1ps

module mac_loop_axis
  import features_33_pkg::*;
(
  input  wire clk,
  input  wire rst,

  input  wire s_weight_tvalid,
  output wire s_weight_tready,
  input  wire [WEIGHT_WORD_BITS-1:0] s_weight_tdata,
  input  wire s_weight_tlast,

  input  wire s_input_tvalid,
  output wire s_input_tready,
  input  wire [INPUT_WORD_BITS-1:0] s_input_tdata,
  input  wire s_input_tlast,

  output reg  m_accumulator_tvalid,
  input  wire m_accumulator_tready,
  output reg  [ACCUMULATOR_WORD_BITS-1:0] m_accumulator_tdata,
  output reg  m_accumulator_tlast
);
  localparam bit [1:0] WEIGHTS = 0, IMAGE = 1, RUN = 2;

  reg [1:0] state;
  integer at;         // number of the word: of the weights, of the image, of the results
  integer channel;    // within the word
  reg writing, last;  // a word is being written, code after code; it is the last one
  reg [WEIGHT_WORD_BITS-1:0] word;

  assign s_weight_tready = state == WEIGHTS && !writing;
  assign s_input_tready = state == IMAGE && !writing;
  wire ends = writing && channel == ROW - 1;

  // weight.hex: a word for each (kh kw oc), the input channels in it, channel 0 in the least significant bits.
  wire integer weight_addr = (at / COL * IC + channel) * OC + at % COL;
  // input.hex: a word for each (iy ix), the channels in it.
  wire integer pixel_addr = at * IC + channel;

  wire result_valid;
  wire result_ready = state == RUN && !m_accumulator_tvalid;
  wire signed [ACCUMULATOR_BITS-1:0] result;

  mac_loop #(.CIN(IC), .COUT(OC), .H(IY), .W(IX), .K(KH), .WB(WEIGHT_BITS), .XB(INPUT_BITS), .AB(ACCUMULATOR_BITS)) core (
    .clk(clk), .reset_n(!rst),
    .we(writing), .to_pixels(state == IMAGE), .addr(16'(state == IMAGE ? pixel_addr : weight_addr)),
    .din(8'(word[channel * WEIGHT_BITS +: WEIGHT_BITS])), .go(state == IMAGE && ends && last),
    .result_valid(result_valid), .result_ready(result_ready), .result(result)
  );

  always @(posedge clk)
    if (rst) begin
      state <= WEIGHTS;
      at <= 0;
      channel <= 0;
      writing <= 0;
      m_accumulator_tvalid <= 0;
    end else if (state != RUN) begin
      if (s_weight_tvalid && s_weight_tready) {writing, last, word} <= {1'b1, s_weight_tlast, s_weight_tdata};
      if (s_input_tvalid && s_input_tready) {writing, last, word} <= {1'b1, s_input_tlast, s_input_tdata};
      if (writing) channel <= channel + 1;
      if (ends) begin
        writing <= 0;
        channel <= 0;
        at <= last ? 0 : at + 1;
        if (last) state <= state == WEIGHTS ? IMAGE : RUN;
      end
    end else begin
      // accumulator.hex: a word for each (oy ox), the output channels in it.
      if (result_valid && result_ready) begin
        m_accumulator_tdata[channel * ACCUMULATOR_BITS +: ACCUMULATOR_BITS] <= result;
        m_accumulator_tlast <= at == OY * OX - 1;
        m_accumulator_tvalid <= channel == COL - 1;
        channel <= channel == COL - 1 ? 0 : channel + 1;
      end
      if (m_accumulator_tvalid && m_accumulator_tready) begin
        m_accumulator_tvalid <= 0;
        at <= m_accumulator_tlast ? 0 : at + 1;
        if (m_accumulator_tlast) state <= IMAGE;
      end
    end
endmodule
