// Matrix product on an output-stationary systolic array.
//
// Row r keeps row mt*ROW + r of the product, column c its column pt*COL + c. For each tile of rows `mt` and of columns
// `pt` all products stream past: for each k a word of input2, column c delayed by c, and for each ROW of them one word of
// input for each row, read one a cycle. Line i of the west edge gets its word in slot i and sends the ROW values one
// after the other. Then the sums move north, row after row, into a buffer: when all tiles of columns have been, it gives
// the words of the tile's rows in the order of the results.
`timescale 1ns / 1ps
`default_nettype none

module os_product #(
  parameter int ROW           = 8,
  parameter int COL           = 8,
  parameter int M             = 8,
  parameter int K             = 8,
  parameter int OC            = 8,    // columns of the product
  parameter int INPUT_BITS    = 8,
  parameter int INPUT_SIGNED  = 1,
  parameter int INPUT_ZERO    = 0,    // the code of real zero
  parameter int INPUT2_BITS   = 8,
  parameter int INPUT2_SIGNED = 1,
  parameter int INPUT2_ZERO   = 0,
  parameter int ACC_WIDTH     = 16    // bits that hold every accumulator; sums wrap to them
) (
  input  wire                       clk,
  input  wire                       rst,

  // words of the memories input and input2 of one image, to be written while not busy
  input  wire                       input_write,
  input  wire [31:0]                input_addr,
  input  wire [ROW*INPUT_BITS-1:0]  input_data,
  input  wire                       input2_write,
  input  wire [31:0]                input2_addr,
  input  wire [COL*INPUT2_BITS-1:0] input2_data,

  input  wire                       start,     // hold it until busy
  output wire                       busy,
  output wire                       finished,  // in the last busy cycle

  // the sums of products: word after word of COL sums, those of tile sums_ot of columns
  output wire                       advance,   // every register holds but with it
  input  wire                       results_free,
  output wire                       sums_valid,
  output wire                       sums_last,
  output wire [31:0]                sums_ot,
  output wire [COL*ACC_WIDTH-1:0]   sums
);
  localparam int MT = (M + ROW - 1) / ROW;
  localparam int KT = (K + ROW - 1) / ROW;
  localparam int PT = (OC + COL - 1) / COL;
  // from the last slot until the last element has added its last product
  localparam int SETTLING = ROW + COL;
  // a code less its zero point needs a bit more
  localparam int WEST_BITS  = INPUT_BITS + (INPUT_ZERO != 0 ? 1 : 0);
  localparam int NORTH_BITS = INPUT2_BITS + (INPUT2_ZERO != 0 ? 1 : 0);

  localparam [2:0] IDLE = 3'd0, STREAM = 3'd1, SETTLE = 3'd2, DRAIN = 3'd3, GIVE = 3'd4, GIVEN = 3'd5;
  reg [2:0] state;

  // Every register of the pipeline holds while a result waits for its stream.
  assign advance = results_free;
  wire streaming = advance && state == STREAM;
  wire settling = advance && state == SETTLE;
  wire draining = advance && state == DRAIN;
  wire giving = advance && state == GIVE;
  wire given = advance && state == GIVEN;

  // ---- for mt: for pt: for kt, slot; then settle; then drain; then give the rows' words -------------------------------

  wire [31:0] mt, pt, kt, slot, unused_wait, row, given_row, given_pt;
  wire mt_last, pt_last, kt_last, slot_last, settled, row_last, given_row_last, given_pt_last;

  axis #(.SIZE(ROW)) slot_axis (.clk(clk), .rst(rst), .step(streaming), .at(slot), .last(slot_last));
  axis #(.SIZE(KT)) kt_axis (.clk(clk), .rst(rst), .step(streaming && slot_last), .at(kt), .last(kt_last));
  axis #(.SIZE(SETTLING)) settle_axis (.clk(clk), .rst(rst), .step(settling), .at(unused_wait), .last(settled));
  axis #(.SIZE(ROW)) row_axis (.clk(clk), .rst(rst), .step(draining), .at(row), .last(row_last));
  axis #(.SIZE(PT)) pt_axis (.clk(clk), .rst(rst), .step(draining && row_last), .at(pt), .last(pt_last));
  axis #(.SIZE(PT)) given_pt_axis (.clk(clk), .rst(rst), .step(giving), .at(given_pt), .last(given_pt_last));
  axis #(.SIZE(ROW)) given_row_axis (
    .clk(clk), .rst(rst), .step(giving && given_pt_last), .at(given_row), .last(given_row_last)
  );
  axis #(.SIZE(MT)) mt_axis (.clk(clk), .rst(rst), .step(given), .at(mt), .last(mt_last));

  assign busy = state != IDLE;
  assign finished = given && mt_last;

  always @(posedge clk)
    if (rst) state <= IDLE;
    else if (advance)
      case (state)
        IDLE:    if (start) state <= STREAM;
        STREAM:  if (slot_last && kt_last) state <= SETTLE;
        SETTLE:  if (settled) state <= DRAIN;
        DRAIN:   if (row_last) state <= pt_last ? GIVE : STREAM;
        GIVE:    if (given_row_last && given_pt_last) state <= GIVEN;
        default: state <= mt_last ? IDLE : STREAM;
      endcase

  // ---- both operands into the array ----------------------------------------------------------------------------------

  wire [31:0] m = mt * ROW + slot;
  wire [31:0] k = kt * ROW + slot;
  wire [ROW*INPUT_BITS-1:0] input_codes;
  wire [COL*INPUT2_BITS-1:0] input2_codes;
  wire [ROW*WEST_BITS-1:0] input_values, west;
  wire [COL*NORTH_BITS-1:0] input2_values, north;
  reg input_asked, input2_asked;  // words were asked for
  reg [31:0] asked_slot;
  reg [COL*NORTH_BITS-1:0] north_word;

  always @(posedge clk)
    if (rst) begin
      {input_asked, input2_asked} <= 2'b00;
      north_word <= 0;
    end else if (advance) begin
      input_asked <= streaming && m < M;
      input2_asked <= streaming && k < K;
      asked_slot <= slot;
      north_word <= input2_asked ? input2_values : 0;
    end

  memory #(.WIDTH(ROW * INPUT_BITS), .WORDS(M * KT)) input_memory (
    .clk(clk), .write(input_write), .write_addr(input_addr), .write_data(input_data),
    .read(advance), .read_addr(m * KT + kt), .read_data(input_codes)
  );
  memory #(.WIDTH(COL * INPUT2_BITS), .WORDS(PT * K)) input2_memory (
    .clk(clk), .write(input2_write), .write_addr(input2_addr), .write_data(input2_data),
    .read(advance), .read_addr(pt * K + k), .read_data(input2_codes)
  );
  integers #(
    .LANES(ROW), .BITS(INPUT_BITS), .SIGNED(INPUT_SIGNED), .ZERO(INPUT_ZERO), .OUT_BITS(WEST_BITS)
  ) input_integers (.codes(input_codes), .values(input_values));
  integers #(
    .LANES(COL), .BITS(INPUT2_BITS), .SIGNED(INPUT2_SIGNED), .ZERO(INPUT2_ZERO), .OUT_BITS(NORTH_BITS)
  ) input2_integers (.codes(input2_codes), .values(input2_values));
  feeder #(.LINES(ROW), .LANES(ROW), .BITS(WEST_BITS)) west_edge (
    .clk(clk), .rst(rst), .advance(advance), .valid(input_asked), .slot(asked_slot), .word(input_values), .codes(west)
  );
  skew #(.LANES(COL), .BITS(NORTH_BITS)) north_skew (
    .clk(clk), .rst(rst), .advance(advance), .from(north_word), .to(north)
  );

  wire [COL*ACC_WIDTH-1:0] row_sums;

  os_grid #(
    .ROW(ROW), .COL(COL), .WEIGHT_BITS(NORTH_BITS), .WEIGHT_SIGNED(INPUT2_ZERO != 0 || INPUT2_SIGNED != 0 ? 1 : 0),
    .INPUT_BITS(WEST_BITS), .INPUT_SIGNED(INPUT_ZERO != 0 || INPUT_SIGNED != 0 ? 1 : 0), .SUM_BITS(ACC_WIDTH)
  ) grid (
    .clk(clk), .rst(rst), .advance(advance), .shift_sum(draining), .activations(west), .weights(north), .sums(row_sums)
  );

  // ---- results -------------------------------------------------------------------------------------------------------

  wire [31:0] given_m = mt * ROW + given_row;
  reg exists, last;
  reg [31:0] ot;

  memory #(.WIDTH(COL * ACC_WIDTH), .WORDS(ROW * PT)) buffer (
    .clk(clk), .write(draining), .write_addr(row * PT + pt), .write_data(row_sums),
    .read(advance), .read_addr(given_row * PT + given_pt), .read_data(sums)
  );

  always @(posedge clk)
    if (rst) exists <= 1'b0;
    else if (advance) begin
      exists <= giving && given_m < M;
      last <= given_m == M - 1 && given_pt_last;
      ot <= given_pt;
    end

  assign sums_valid = advance && exists;
  assign sums_last = last;
  assign sums_ot = ot;
endmodule

`default_nettype wire
