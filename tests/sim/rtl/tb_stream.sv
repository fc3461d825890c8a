// Runs `dut` on the memories of a set with the layout 'default': every stream against its file, in any rhythm.
// Prints DONE with the number of errors and words and with the cycles from the first word of input until the one behind
// the last image could come; a result that comes more than LATENCY later is an error.
`timescale 1ns / 1ps

module tb_stream;
  parameter ROW = 8, COL = 8, WEIGHT_BITS = 4, INPUT_BITS = 4, BIAS_BITS = 32, PSUM_BITS = 16, ACCUMULATOR_BITS = 16,
            RELU_BITS = 16, OUTPUT_BITS = 4, N = 1, LIMIT = 1000000,
            WEIGHT_WORDS = 1, BIAS_WORDS = 1, INPUT_WORDS = 1, PSUM_WORDS = 1, RESULT_WORDS = 1, LATENCY = 0;

  reg clk, rst;
  integer cycle, begun, pause;
  always begin
    clk = 0;
    #5;
    clk = 1;
    #5;
  end

  wire weight_tvalid, weight_tready, weight_tlast, weight_done;
  wire [ROW*WEIGHT_BITS-1:0] weight_tdata;
  source #(.WIDTH(ROW * WEIGHT_BITS), .WORDS(WEIGHT_WORDS), .IMAGE(WEIGHT_WORDS), .SEED(1), .FILE("weight.hex")) weight (
    .clk(clk), .rst(rst), .enable(1'b1), .tvalid(weight_tvalid), .tready(weight_tready), .tdata(weight_tdata),
    .tlast(weight_tlast), .done(weight_done));
`ifdef BIAS
  wire bias_tvalid, bias_tready, bias_tlast, bias_done;
  wire [COL*BIAS_BITS-1:0] bias_tdata;
  source #(.WIDTH(COL * BIAS_BITS), .WORDS(BIAS_WORDS), .IMAGE(BIAS_WORDS), .SEED(2), .FILE("bias.hex")) bias (
    .clk(clk), .rst(rst), .enable(1'b1), .tvalid(bias_tvalid), .tready(bias_tready), .tdata(bias_tdata),
    .tlast(bias_tlast), .done(bias_done));
`else
  wire bias_done = 1;
`endif
  // without pauses the input begins when the rest is in, so that the cycles are those of the images alone
  wire input_tvalid, input_tready, input_tlast, input_done;
  wire [ROW*INPUT_BITS-1:0] input_tdata;
  source #(.WIDTH(ROW * INPUT_BITS), .WORDS(INPUT_WORDS), .IMAGE(INPUT_WORDS / N), .SEED(3), .FILE("input.hex")) inputs (
    .clk(clk), .rst(rst), .enable(pause != 0 || (weight_done && bias_done)), .tvalid(input_tvalid),
    .tready(input_tready), .tdata(input_tdata), .tlast(input_tlast), .done(input_done));

`ifdef PSUM
  wire psum_tvalid, psum_tready, psum_tlast, psum_done;
  wire [COL*PSUM_BITS-1:0] psum_tdata;
  sink #(.WIDTH(COL * PSUM_BITS), .WORDS(PSUM_WORDS), .IMAGE(PSUM_WORDS / N), .SEED(4), .FILE("psum.hex")) psum (
    .clk(clk), .rst(rst), .tvalid(psum_tvalid), .tready(psum_tready), .tdata(psum_tdata), .tlast(psum_tlast),
    .done(psum_done));
  wire [31:0] psum_errors = psum.errors, psum_at = psum.at;
`else
  wire psum_done = 1;
  wire [31:0] psum_errors = 0, psum_at = 0;
`endif
  wire accumulator_tvalid, accumulator_tready, accumulator_tlast, accumulator_done;
  wire [COL*ACCUMULATOR_BITS-1:0] accumulator_tdata;
  sink #(.WIDTH(COL * ACCUMULATOR_BITS), .WORDS(RESULT_WORDS), .IMAGE(RESULT_WORDS / N), .SEED(5),
         .FILE("accumulator.hex")) accumulator (
    .clk(clk), .rst(rst), .tvalid(accumulator_tvalid), .tready(accumulator_tready), .tdata(accumulator_tdata),
    .tlast(accumulator_tlast), .done(accumulator_done));
  wire relu_tvalid, relu_tready, relu_tlast, relu_done;
  wire [COL*RELU_BITS-1:0] relu_tdata;
  sink #(.WIDTH(COL * RELU_BITS), .WORDS(RESULT_WORDS), .IMAGE(RESULT_WORDS / N), .SEED(6), .FILE("relu.hex")) relu (
    .clk(clk), .rst(rst), .tvalid(relu_tvalid), .tready(relu_tready), .tdata(relu_tdata), .tlast(relu_tlast),
    .done(relu_done));
`ifdef OUTPUT
  wire output_tvalid, output_tready, output_tlast, output_done;
  wire [COL*OUTPUT_BITS-1:0] output_tdata;
  sink #(.WIDTH(COL * OUTPUT_BITS), .WORDS(RESULT_WORDS), .IMAGE(RESULT_WORDS / N), .SEED(7), .FILE("output.hex")) outputs (
    .clk(clk), .rst(rst), .tvalid(output_tvalid), .tready(output_tready), .tdata(output_tdata), .tlast(output_tlast),
    .done(output_done));
  wire [31:0] output_errors = outputs.errors, output_at = outputs.at;
`else
  wire output_done = 1;
  wire [31:0] output_errors = 0, output_at = 0;
`endif

  dut dut (
    .clk(clk), .rst(rst),
    .s_weight_tvalid(weight_tvalid), .s_weight_tready(weight_tready), .s_weight_tdata(weight_tdata),
    .s_weight_tlast(weight_tlast),
`ifdef BIAS
    .s_bias_tvalid(bias_tvalid), .s_bias_tready(bias_tready), .s_bias_tdata(bias_tdata), .s_bias_tlast(bias_tlast),
`endif
    .s_input_tvalid(input_tvalid), .s_input_tready(input_tready), .s_input_tdata(input_tdata),
    .s_input_tlast(input_tlast),
`ifdef PSUM
    .m_psum_tvalid(psum_tvalid), .m_psum_tready(psum_tready), .m_psum_tdata(psum_tdata), .m_psum_tlast(psum_tlast),
`endif
`ifdef OUTPUT
    .m_output_tvalid(output_tvalid), .m_output_tready(output_tready), .m_output_tdata(output_tdata),
    .m_output_tlast(output_tlast),
`endif
    .m_accumulator_tvalid(accumulator_tvalid), .m_accumulator_tready(accumulator_tready),
    .m_accumulator_tdata(accumulator_tdata), .m_accumulator_tlast(accumulator_tlast),
    .m_relu_tvalid(relu_tvalid), .m_relu_tready(relu_tready), .m_relu_tdata(relu_tdata), .m_relu_tlast(relu_tlast)
  );

  wire all_done = psum_done && accumulator_done && relu_done && output_done;
  integer last_result, ready_again;
  reg was_ready;

  initial begin
    if ($value$plusargs("pause=%d", pause) == 0) pause = 0;
    rst = 1;
    cycle = 0;
    begun = -1;
    repeat (4) @(negedge clk);
    rst = 0;
    while (!all_done && cycle < LIMIT) @(negedge clk);
    repeat (50) @(negedge clk);  // for words too many
    $display("DONE errors=%0d words=%0d cycles=%0d",
             psum_errors + accumulator.errors + relu.errors + output_errors + (pause == 0 && last_result > ready_again + LATENCY),
             psum_at + accumulator.at + relu.at + output_at, ready_again - begun);
    $finish;
  end

  always @(posedge clk)
    if (!rst) begin
      cycle <= cycle + 1;
      was_ready <= input_tready;
      if (input_tvalid && input_tready && begun < 0) begun <= cycle;
      if (input_tready && !was_ready) ready_again <= cycle;
      if ((accumulator_tvalid && accumulator_tready) || (relu_tvalid && relu_tready)) last_result <= cycle;
`ifdef OUTPUT
      if (output_tvalid && output_tready) last_result <= cycle;
`endif
    end
endmodule
