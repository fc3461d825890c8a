// Runs `dut_mm` on the memories of a set with the layout 'default', image after image; with the macro PRODUCT on those
// of a set with the layout 'matmul', where WEIGHT is input2, BIAS the addend, and each image has its own.
// Prints DONE with the number of errors and words and with the cycles from start to done (the greatest of all images).
`timescale 1ns / 1ps

module tb_mm;
  parameter ROW = 8, COL = 8, WEIGHT_BITS = 4, INPUT_BITS = 4, BIAS_BITS = 32, PSUM_BITS = 16, ACCUMULATOR_BITS = 16,
            RELU_BITS = 16, OUTPUT_BITS = 4, N = 1, LIMIT = 1000000,
            WEIGHT_WORDS = 1, BIAS_WORDS = 1, INPUT_WORDS = 1, PSUM_WORDS = 1, RESULT_WORDS = 1, OUTPUT_WORDS = 1,
            WR_BITS = 1, RD_BITS = 1;
`ifdef PRODUCT
  localparam LANES = COL, PARTS = N;
`else
  localparam LANES = ROW, PARTS = 1;
`endif

  reg clk, rst, wr_valid, start, rd_valid;
  reg [1:0] wr_select, rd_select;
  reg [31:0] wr_addr, rd_addr;
  reg [WR_BITS-1:0] wr_data;
  wire wr_ready, done;
  wire [RD_BITS-1:0] rd_data;
  reg [LANES*WEIGHT_BITS-1:0] weight [0:WEIGHT_WORDS-1];
  reg [COL*BIAS_BITS-1:0] bias [0:BIAS_WORDS-1];
  reg [ROW*INPUT_BITS-1:0] inputs [0:INPUT_WORDS-1];
  reg [COL*ACCUMULATOR_BITS-1:0] accumulator [0:RESULT_WORDS-1];
  reg [COL*RELU_BITS-1:0] relu [0:RESULT_WORDS-1];
  reg [COL*OUTPUT_BITS-1:0] outputs [0:OUTPUT_WORDS-1];
  reg [8*400-1:0] dir;
  integer n, i, errors, words, cycles, greatest;

  dut_mm dut (
    .clk(clk), .rst(rst), .wr_valid(wr_valid), .wr_ready(wr_ready), .wr_select(wr_select), .wr_addr(wr_addr),
    .wr_data(wr_data), .start(start), .done(done), .rd_valid(rd_valid), .rd_select(rd_select), .rd_addr(rd_addr),
    .rd_data(rd_data)
  );

  always begin
    clk = 0;
    #5;
    clk = 1;
    #5;
  end

  task write(input [1:0] to, input [31:0] addr, input [WR_BITS-1:0] data);
    begin
      wr_valid = 1;
      wr_select = to;
      wr_addr = addr;
      wr_data = data;
      @(negedge clk);
      wr_valid = 0;
    end
  endtask

  task read(input [1:0] from, input [31:0] addr, input [RD_BITS-1:0] want);
    begin
      rd_valid = 1;
      rd_select = from;
      rd_addr = addr;
      @(negedge clk);
      rd_valid = 0;
      words = words + 1;
      if (rd_data !== want) begin
        errors = errors + 1;
        if (errors <= 3) $display("WRONG image %0d select %0d word %0d: got %h want %h", n, from, addr, rd_data, want);
      end
    end
  endtask

  // The part of an image.
  task write_rest(input integer part);
    begin
      for (i = 0; i < WEIGHT_WORDS / PARTS; i = i + 1)
        write(0, i, {{WR_BITS{1'b0}}, weight[part * WEIGHT_WORDS / PARTS + i]});
`ifdef BIAS
      for (i = 0; i < BIAS_WORDS / PARTS; i = i + 1) write(1, i, {{WR_BITS{1'b0}}, bias[part * BIAS_WORDS / PARTS + i]});
`endif
    end
  endtask

  initial begin
    if ($value$plusargs("dir=%s", dir) == 0) $fatal(1, "no +dir");
`ifdef PRODUCT
    $readmemh($sformatf("%0s/input2.hex", dir), weight);
`ifdef BIAS
    $readmemh($sformatf("%0s/addend.hex", dir), bias);
`endif
`else
    $readmemh($sformatf("%0s/weight.hex", dir), weight);
`ifdef BIAS
    $readmemh($sformatf("%0s/bias.hex", dir), bias);
`endif
`endif
    $readmemh($sformatf("%0s/input.hex", dir), inputs);
    $readmemh($sformatf("%0s/accumulator.hex", dir), accumulator);
`ifdef RELU
    $readmemh($sformatf("%0s/relu.hex", dir), relu);
`endif
`ifdef OUTPUT
    $readmemh($sformatf("%0s/output.hex", dir), outputs);
`endif
    {rst, wr_valid, start, rd_valid} = 4'b1000;
    {errors, words, greatest} = 0;
    repeat (4) @(negedge clk);
    rst = 0;
    for (n = 0; n < N; n = n + 1) begin
      if (n < PARTS) write_rest(n);
      for (i = 0; i < INPUT_WORDS / N; i = i + 1) write(2, i, {{WR_BITS{1'b0}}, inputs[n * INPUT_WORDS / N + i]});
      write(2, INPUT_WORDS / N, {WR_BITS{1'b1}});  // outside: nothing may happen
      start = 1;
      @(negedge clk);
      start = 0;
      cycles = 1;
      write(0, 0, {WR_BITS{1'b1}});  // while busy: nothing may happen
      cycles = cycles + 1;
      while (!done && cycles < LIMIT) begin
        @(negedge clk);
        cycles = cycles + 1;
      end
      if (cycles > greatest) greatest = cycles;
      for (i = 0; i < RESULT_WORDS / N; i = i + 1) begin
        read(1, i, {{RD_BITS{1'b0}}, accumulator[n * RESULT_WORDS / N + i]});
`ifdef RELU
        read(2, i, {{RD_BITS{1'b0}}, relu[n * RESULT_WORDS / N + i]});
`endif
      end
`ifdef OUTPUT
      for (i = 0; i < OUTPUT_WORDS / N; i = i + 1) read(3, i, {{RD_BITS{1'b0}}, outputs[n * OUTPUT_WORDS / N + i]});
`endif
    end
    $display("DONE errors=%0d words=%0d cycles=%0d", errors, words, greatest);
    $finish;
  end
endmodule
