// SPDX-License-Identifier: 0BSD
// You may use this generated file under any terms.
// The design under test, to be replaced by yours: a behavioural integer convolution.
// Keep the ports; name the module `dut`, or give --top to `qexport simulate`. Each group of ports is an AXI4-Stream: a
// word goes over at a rising edge of clk where tvalid and tready are 1; until then an offered word stays as it is.
//   s_<memory>  takes the words of the memory, in the order of its file: weights once after rst, tlast with
//               the last; inputs with tlast at the end of each image.
//   m_<memory>  gives the words of the memory, in the order of its file, with tlast at the end of each image.
//               `qexport simulate --dut` takes a design that has only some of these groups.
// Lane 0 of a word, the most significant, is the array's last row or column.
`timescale 1ns / 1ps

module dut (
  input  wire clk,
  input  wire rst,  // synchronous, active high
  input  wire s_weight_tvalid,
  output wire s_weight_tready,
  input  wire [features_33_pkg::WEIGHT_WORD_BITS-1:0] s_weight_tdata,
  input  wire s_weight_tlast,
  input  wire s_input_tvalid,
  output wire s_input_tready,
  input  wire [features_33_pkg::INPUT_WORD_BITS-1:0] s_input_tdata,
  input  wire s_input_tlast,
  output reg  m_psum_tvalid,
  input  wire m_psum_tready,
  output reg  [features_33_pkg::PSUM_WORD_BITS-1:0] m_psum_tdata,
  output reg  m_psum_tlast,
  output reg  m_accumulator_tvalid,
  input  wire m_accumulator_tready,
  output reg  [features_33_pkg::ACCUMULATOR_WORD_BITS-1:0] m_accumulator_tdata,
  output reg  m_accumulator_tlast,
  output reg  m_relu_tvalid,
  input  wire m_relu_tready,
  output reg  [features_33_pkg::RELU_WORD_BITS-1:0] m_relu_tdata,
  output reg  m_relu_tlast,
  output reg  m_output_tvalid,
  input  wire m_output_tready,
  output reg  [features_33_pkg::OUTPUT_WORD_BITS-1:0] m_output_tdata,
  output reg  m_output_tlast
);
  import features_33_pkg::*;

  reg [WEIGHT_WORD_BITS-1:0] weight_words [0:WEIGHT_WORDS-1];
  reg [INPUT_WORD_BITS-1:0] input_words [0:INPUT_WORDS / N-1];
  reg signed [ACC_WIDTH-1:0] acc [0:COL*OY*OX-1];  // the accumulators of one output tile

  localparam integer WEIGHTS = 0, INPUTS = 2, SUMS = 3, RESULTS = 4, DONE = 5;
  localparam integer PADDED_Y = IY + PAD_TOP + PAD_BOTTOM, PADDED_X = IX + PAD_LEFT + PAD_RIGHT;
  integer state, at, n, ot, col;  // `at` counts the words of a state

  // In SUMS: input tile, tap and padded position; the output to which this tap's sums belong, if to any.
  wire integer px = at % PADDED_X;
  wire integer py = at / PADDED_X % PADDED_Y;
  wire integer kw = at / (PADDED_X * PADDED_Y) % KW;
  wire integer kh = at / (PADDED_X * PADDED_Y * KW) % KH;
  wire integer it = at / (PADDED_X * PADDED_Y * KW * KH);
  wire integer oy = (py - kh * DILATION_Y) / STRIDE_Y;
  wire integer ox = (px - kw * DILATION_X) / STRIDE_X;
  wire used = py == oy * STRIDE_Y + kh * DILATION_Y && px == ox * STRIDE_X + kw * DILATION_X &&
              oy >= 0 && ox >= 0 && oy < OY && ox < OX;

  function automatic signed [63:0] sum_of(input integer column);
    integer oc, r, channel;
    reg [WEIGHT_BITS-1:0] w;
    reg [INPUT_BITS-1:0] x;
    begin
      sum_of = 0;
      oc = ot * COL + column;
      for (r = 0; r < ROW; r = r + 1)
        if (it * ROW + r < ICG && oc < OC && py >= PAD_TOP && py < PAD_TOP + IY && px >= PAD_LEFT && px < PAD_LEFT + IX) begin
          channel = (oc / (OC / GROUPS)) * ICG + it * ROW + r;
          w = weight_words[(((ot * IT + it) * KH + kh) * KW + kw) * COL + column][r * WEIGHT_BITS +: WEIGHT_BITS];
          x = input_words[((channel / ROW) * IY + py - PAD_TOP) * IX + px - PAD_LEFT][(channel % ROW) * INPUT_BITS +: INPUT_BITS];
          sum_of = sum_of + 64'($signed(w)) * 64'($signed({1'b0, x}));
        end
    end
  endfunction

  // What this tap's sum is added to: the accumulator, and for the first tap 0.
  function automatic signed [63:0] before_of(input integer column);
    begin
      before_of = 64'(acc[(column * OY + oy) * OX + ox]);
      if (it == 0 && kh == 0 && kw == 0)
        before_of = 0;
    end
  endfunction

  // In RESULTS: an accumulator of this tile, and what becomes of it.
  function automatic signed [63:0] at_accumulator(input integer channel, input integer y, input integer x);
    at_accumulator = 64'(acc[((channel % COL) * OY + y) * OX + x]);
  endfunction
  function automatic signed [63:0] at_relu(input integer channel, input integer y, input integer x);
    at_relu = at_accumulator(channel, y, x) < 0 ? 0 : at_accumulator(channel, y, x);
  endfunction

  /* verilator lint_off UNUSEDSIGNAL */  // not every step differs from channel to channel
  // v / 2^by, rounded floor
  function automatic signed [63:0] round_floor(input signed [63:0] v, input integer by);
    reg signed [63:0] below, rest, one;
    begin
      one = 64'sd1 <<< by;
      below = v >>> by;
      rest = v - (below <<< by);
      round_floor = 1'b0 ? below + 64'sd1 : below;
    end
  endfunction

  // step0: multiply by 271
  function automatic signed [63:0] step_step0(input signed [63:0] v, input integer channel);
    step_step0 = v * 64'sd271;
  endfunction

  // step1: add value 4057
  function automatic signed [63:0] step_step1(input signed [63:0] v, input integer channel);
    step_step1 = v + 64'sd4057;
  endfunction

  // step2: shift_right by 13, round floor
  function automatic signed [63:0] step_step2(input signed [63:0] v, input integer channel);
    step_step2 = round_floor(v, 32'(64'sd13));
  endfunction

  // step3: clamp low 0, high 15
  function automatic signed [63:0] step_step3(input signed [63:0] v, input integer channel);
    step_step3 = v < 64'sd0 ? 64'sd0 : v > 64'sd15 ? 64'sd15 : v;
  endfunction

  function automatic signed [63:0] at_step0(input integer channel, input integer y, input integer x);
    at_step0 = step_step0(at_accumulator(channel, y, x), channel);
  endfunction

  function automatic signed [63:0] at_step1(input integer channel, input integer y, input integer x);
    at_step1 = step_step1(at_step0(channel, y, x), channel);
  endfunction

  function automatic signed [63:0] at_step2(input integer channel, input integer y, input integer x);
    at_step2 = step_step2(at_step1(channel, y, x), channel);
  endfunction

  function automatic signed [63:0] at_step3(input integer channel, input integer y, input integer x);
    at_step3 = step_step3(at_step2(channel, y, x), channel);
  endfunction

  /* verilator lint_on UNUSEDSIGNAL */

  assign s_weight_tready = state == WEIGHTS;
  assign s_input_tready = state == INPUTS;
  wire waits = (m_psum_tvalid && !m_psum_tready) || (m_accumulator_tvalid && !m_accumulator_tready) || (m_relu_tvalid && !m_relu_tready) || (m_output_tvalid && !m_output_tready);

  always @(posedge clk)
    if (rst) begin
      state <= WEIGHTS;
      at <= 0;
      n <= 0;
      m_psum_tvalid <= 0;
      m_accumulator_tvalid <= 0;
      m_relu_tvalid <= 0;
      m_output_tvalid <= 0;
    end else begin
      if (m_psum_tready) m_psum_tvalid <= 0;
      if (m_accumulator_tready) m_accumulator_tvalid <= 0;
      if (m_relu_tready) m_relu_tvalid <= 0;
      if (m_output_tready) m_output_tvalid <= 0;
      case (state)
        WEIGHTS: if (s_weight_tvalid) begin
          weight_words[at] <= s_weight_tdata;
          at <= s_weight_tlast ? 0 : at + 1;
          if (s_weight_tlast) state <= INPUTS;
        end
        INPUTS: if (s_input_tvalid) begin
          input_words[at] <= s_input_tdata;
          at <= s_input_tlast ? 0 : at + 1;
          if (s_input_tlast) state <= SUMS;
          ot <= 0;
        end
        SUMS: if (!waits) begin
          for (col = 0; col < COL; col = col + 1) begin
            m_psum_tdata[col * PSUM_BITS +: PSUM_BITS] <= PSUM_BITS'(sum_of(col));
            if (used) acc[(col * OY + oy) * OX + ox] <= ACC_WIDTH'(before_of(col) + sum_of(col));
          end
          at <= at + 1;
          if (at == IT * KH * KW * PADDED_Y * PADDED_X - 1) begin
            at <= 0;
            state <= RESULTS;
          end
          m_psum_tvalid <= 1;
          m_psum_tlast <= ot == OT - 1 && at == IT * KH * KW * PADDED_Y * PADDED_X - 1;
        end
        RESULTS: if (!waits) begin
          if (at < OY * OX) begin
            for (col = 0; col < COL; col = col + 1)
              m_accumulator_tdata[col * ACCUMULATOR_BITS +: ACCUMULATOR_BITS] <= ACCUMULATOR_BITS'(at_accumulator(ot * COL + col, at / OX, at % OX));
            m_accumulator_tvalid <= 1;
            m_accumulator_tlast <= ot == OT - 1 && at == OY * OX - 1;
          end
          if (at < OY * OX) begin
            for (col = 0; col < COL; col = col + 1)
              m_relu_tdata[col * RELU_BITS +: RELU_BITS] <= RELU_BITS'(at_relu(ot * COL + col, at / OX, at % OX));
            m_relu_tvalid <= 1;
            m_relu_tlast <= ot == OT - 1 && at == OY * OX - 1;
          end
          if (at < OY * OX) begin
            for (col = 0; col < COL; col = col + 1)
              m_output_tdata[col * OUTPUT_BITS +: OUTPUT_BITS] <= ot * COL + col < OC ? OUTPUT_BITS'(at_step3(ot * COL + col, at / OX, at % OX)) : 0;
            m_output_tvalid <= 1;
            m_output_tlast <= ot == OT - 1 && at == OY * OX - 1;
          end
          at <= at + 1;
          if (at == OY * OX - 1) begin
            at <= 0;
            ot <= ot + 1;
            state <= SUMS;
            if (ot == OT - 1) begin
              n <= n + 1;
              state <= n == N - 1 ? DONE : INPUTS;
            end
          end
        end
        default: ;
      endcase
    end
endmodule
