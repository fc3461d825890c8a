// What follows the sums of products: bias, ReLU, requantization, and the streams of the three results.
`timescale 1ns / 1ps

module results #(
  parameter int COL              = 8,
  parameter int OT               = 1,
  parameter int ACC_WIDTH        = 16,   // bits that hold every accumulator
  parameter int HAS_BIAS         = 0,
  parameter int BIAS_BITS        = 32,
  parameter int ACCUMULATOR_BITS = 16,
  parameter int RELU_BITS        = 16,
  parameter int OUTPUT_BITS      = 4,
  parameter int OUTPUT_MIN       = 0,
  parameter int OUTPUT_MAX       = 15,
  parameter bit signed [63:0] MUL = 64'sd1,
  parameter bit signed [63:0] ADD = 64'sd0,
  parameter int SHIFT            = 1
) (
  input  wire                            clk,
  input  wire                            rst,
  input  wire                            bias_write,
  input  wire [31:0]                     bias_addr,
  input  wire [COL*BIAS_BITS-1:0]        bias_data,

  input  wire                            advance,
  input  wire                            valid,
  input  wire                            last,
  input  wire [31:0]                     ot,    // steady for two cycles before `valid`
  input  wire [COL*ACC_WIDTH-1:0]        sums,
  output wire                            free,

  output wire                            accumulator_tvalid,
  input  wire                            accumulator_tready,
  output wire [COL*ACCUMULATOR_BITS-1:0] accumulator_tdata,
  output wire                            accumulator_tlast,
  output wire                            relu_tvalid,
  input  wire                            relu_tready,
  output wire [COL*RELU_BITS-1:0]        relu_tdata,
  output wire                            relu_tlast,
  output wire                            output_tvalid,
  input  wire                            output_tready,
  output wire [COL*OUTPUT_BITS-1:0]      output_tdata,
  output wire                            output_tlast
);
  wire [COL*BIAS_BITS-1:0] biases;
  wire [COL*ACCUMULATOR_BITS-1:0] accumulator_word;
  wire [COL*RELU_BITS-1:0] relu_word;
  wire [COL*OUTPUT_BITS-1:0] output_word;
  wire accumulator_free, relu_free, output_free;

  assign free = accumulator_free && relu_free && output_free;

  memory #(.WIDTH(COL * BIAS_BITS), .WORDS(OT)) bias (
    .clk(clk), .write(bias_write), .write_addr(bias_addr), .write_data(bias_data),
    .read(1'b1), .read_addr(ot), .read_data(biases)
  );

  genvar c;
  generate
    for (c = 0; c < COL; c = c + 1) begin : column
      /* verilator lint_off UNUSEDSIGNAL */  // what lies above the width wraps
      wire signed [BIAS_BITS-1:0] bias_code = HAS_BIAS != 0 ? biases[c*BIAS_BITS +: BIAS_BITS] : {BIAS_BITS{1'b0}};
      wire signed [ACC_WIDTH-1:0] accumulator = sums[c*ACC_WIDTH +: ACC_WIDTH] + ACC_WIDTH'(bias_code);
      wire signed [ACC_WIDTH-1:0] relu = accumulator[ACC_WIDTH-1] ? {ACC_WIDTH{1'b0}} : accumulator;
      // MUL, ADD and SHIFT are those that give the network's own rounding for every accumulator
      wire signed [63:0] scaled = (64'(accumulator) * MUL + ADD) >>> SHIFT;
      wire signed [63:0] low = scaled < 64'(OUTPUT_MIN) ? 64'(OUTPUT_MIN) : scaled;
      wire signed [63:0] code = low > 64'(OUTPUT_MAX) ? 64'(OUTPUT_MAX) : low;
      /* verilator lint_on UNUSEDSIGNAL */
      assign accumulator_word[c*ACCUMULATOR_BITS +: ACCUMULATOR_BITS] = ACCUMULATOR_BITS'(accumulator);
      assign relu_word[c*RELU_BITS +: RELU_BITS] = RELU_BITS'(relu);
      assign output_word[c*OUTPUT_BITS +: OUTPUT_BITS] = OUTPUT_BITS'(code);
    end
  endgenerate

  stream_out #(.WIDTH(COL * ACCUMULATOR_BITS)) accumulator_out (
    .clk(clk), .rst(rst), .advance(advance), .valid(valid), .data(accumulator_word), .last(last),
    .free(accumulator_free), .tvalid(accumulator_tvalid), .tready(accumulator_tready), .tdata(accumulator_tdata),
    .tlast(accumulator_tlast)
  );
  stream_out #(.WIDTH(COL * RELU_BITS)) relu_out (
    .clk(clk), .rst(rst), .advance(advance), .valid(valid), .data(relu_word), .last(last),
    .free(relu_free), .tvalid(relu_tvalid), .tready(relu_tready), .tdata(relu_tdata), .tlast(relu_tlast)
  );
  stream_out #(.WIDTH(COL * OUTPUT_BITS)) output_out (
    .clk(clk), .rst(rst), .advance(advance), .valid(valid), .data(output_word), .last(last),
    .free(output_free), .tvalid(output_tvalid), .tready(output_tready), .tdata(output_tdata), .tlast(output_tlast)
  );
endmodule
