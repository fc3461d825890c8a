// The design under test, to be replaced by yours: a behavioural integer convolution, one multiplication a cycle.
// Keep the module name, the ports and the word formats; order and timing of the results are free.
//   - after `start`, read weights and inputs: *_data answers *_addr within the cycle;
//   - deliver each word of psum and of the results once: *_valid high for one cycle with address and data;
//   - then hold `done` high;
//   - until then keep each *_addr below its *_WORDS, and finish within TIMEOUT_CYCLES.
// Lane 0 of a word, the most significant, is the array's last row or column.
`timescale 1ns / 1ps

module dut (
  input  wire clk,
  input  wire rst,
  input  wire start,
  output reg  done,
  output reg  [31:0] weight_addr,
  input  wire [features_33_pkg::WEIGHT_WORD_BITS-1:0] weight_data,
  output reg  [31:0] input_addr,
  input  wire [features_33_pkg::INPUT_WORD_BITS-1:0] input_data,
  output reg  psum_valid,
  output reg  [31:0] psum_addr,
  output reg  [features_33_pkg::PSUM_WORD_BITS-1:0] psum_data,
  output reg  out_valid,
  output reg  [31:0] out_addr,
  output reg  [features_33_pkg::ACCUMULATOR_WORD_BITS-1:0] accumulator_data,
  output reg  [features_33_pkg::RELU_WORD_BITS-1:0] relu_data
);
  import features_33_pkg::*;

  reg signed [ACC_WIDTH-1:0] acc [0:COL*OY*OX-1];  // the accumulators of one output tile
  reg signed [63:0] sum, value;
  reg [PSUM_WORD_BITS-1:0] psum_word;
  reg [ACCUMULATOR_WORD_BITS-1:0] accumulator_word;
  reg [RELU_WORD_BITS-1:0] relu_word;
  integer n, ot, it, kh, kw, py, px, col, r, oc, channel, oy, ox, at;

  wire [WEIGHT_BITS-1:0] weight_lane = weight_data[r * WEIGHT_BITS +: WEIGHT_BITS];
  wire [INPUT_BITS-1:0] input_lane = input_data[(channel % ROW) * INPUT_BITS +: INPUT_BITS];
  wire signed [63:0] weight_code = {{64-WEIGHT_BITS{weight_lane[WEIGHT_BITS-1]}}, weight_lane};
  wire signed [63:0] input_code = {{64-INPUT_BITS{1'b0}}, input_lane};

  // One cycle; each output is assigned once in it.
  task tick(input psum_now, input out_now);
    begin
      psum_valid <= psum_now;
      out_valid <= out_now;
      @(posedge clk);
    end
  endtask

  always begin
    weight_addr = 0;
    input_addr = 0;
    r = 0;
    channel = 0;
    done <= 0;
    psum_valid <= 0;
    out_valid <= 0;
    @(posedge clk);
    while (rst !== 1'b0 || start !== 1'b1) @(posedge clk);
    for (n = 0; n < N; n = n + 1)
      for (ot = 0; ot < OT; ot = ot + 1) begin
        for (col = 0; col < COL; col = col + 1) begin
          value = 0;
          for (at = 0; at < OY * OX; at = at + 1) acc[col * OY * OX + at] = value[ACC_WIDTH-1:0];
        end
        for (it = 0; it < IT; it = it + 1)
          for (kh = 0; kh < KH; kh = kh + 1)
            for (kw = 0; kw < KW; kw = kw + 1)
              for (py = 0; py < PY; py = py + 1)
                for (px = 0; px < PX; px = px + 1) begin
                  for (col = 0; col < COL; col = col + 1) begin
                    oc = ot * COL + col;
                    sum = 0;
                    for (r = 0; r < ROW && it * ROW + r < ICG && oc < OC; r = r + 1)
                      if (py >= PAD_TOP && py < PAD_TOP + IY && px >= PAD_LEFT && px < PAD_LEFT + IX) begin
                        channel = (oc / (OC / GROUPS)) * ICG + it * ROW + r;
                        weight_addr = (((ot * IT + it) * KH + kh) * KW + kw) * COL + col;
                        input_addr = ((n * CT + channel / ROW) * IY + py - PAD_TOP) * IX + px - PAD_LEFT;
                        tick(1'b0, 1'b0);
                        sum = sum + weight_code * input_code;
                      end
                    psum_word[col * PSUM_BITS +: PSUM_BITS] = sum[PSUM_BITS-1:0];
                    // Which output this tap's psum belongs to, if to any.
                    oy = (py - kh * DILATION_Y) / STRIDE_Y;
                    ox = (px - kw * DILATION_X) / STRIDE_X;
                    if (py == oy * STRIDE_Y + kh * DILATION_Y && px == ox * STRIDE_X + kw * DILATION_X &&
                        oy >= 0 && ox >= 0 && oy < OY && ox < OX) begin
                      at = (col * OY + oy) * OX + ox;
                      acc[at] = acc[at] + sum[ACC_WIDTH-1:0];
                    end
                  end
                  psum_data <= psum_word;
                  psum_addr <= ((((n * OT + ot) * IT + it) * KH + kh) * KW + kw) * PY * PX + py * PX + px;
                  tick(1'b1, 1'b0);
                end
        for (oy = 0; oy < OY; oy = oy + 1)
          for (ox = 0; ox < OX; ox = ox + 1) begin
            for (col = 0; col < COL; col = col + 1) begin
              value = {{64-ACC_WIDTH{acc[(col * OY + oy) * OX + ox][ACC_WIDTH-1]}}, acc[(col * OY + oy) * OX + ox]};
              accumulator_word[col * ACCUMULATOR_BITS +: ACCUMULATOR_BITS] = value[ACCUMULATOR_BITS-1:0];
              if (value < 0) value = 0;
              relu_word[col * RELU_BITS +: RELU_BITS] = value[RELU_BITS-1:0];
            end
            accumulator_data <= accumulator_word;
            relu_data <= relu_word;
            out_addr <= ((n * OT + ot) * OY + oy) * OX + ox;
            tick(1'b0, 1'b1);
          end
      end
    psum_valid <= 0;
    out_valid <= 0;
    done <= 1;
    while (rst === 1'b0) @(posedge clk);
  end
endmodule
