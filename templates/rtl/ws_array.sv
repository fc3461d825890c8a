// Convolution on a weight-stationary systolic array.
//
// For each output tile `ot`, input-channel tile `it` and tap (kh, kw) there is one pass: the tile's weights are shifted
// in, then the whole padded plane streams past them, west to east, and the psums leave in the south. A psum that meets an
// output is added to the accumulator memory at (oy, ox); in the tile's last pass the sum goes on to the results.
// All columns of a tile see the same activations. Where they belong to several groups, each padded position is
// streamed once for each group, and every column keeps the psum of its own.
`timescale 1ns / 1ps
`default_nettype none

module ws_array #(
  parameter int ROW              = 8,
  parameter int COL              = 8,
  parameter int IC               = 8,
  parameter int OC               = 8,
  parameter int GROUPS           = 1,
  parameter int IY               = 4,
  parameter int IX               = 4,
  parameter int KH               = 3,
  parameter int KW               = 3,
  parameter int STRIDE_Y         = 1,
  parameter int STRIDE_X         = 1,
  parameter int PAD_TOP          = 1,
  parameter int PAD_BOTTOM       = 1,
  parameter int PAD_LEFT         = 1,
  parameter int PAD_RIGHT        = 1,
  parameter int DILATION_Y       = 1,
  parameter int DILATION_X       = 1,
  parameter int WEIGHT_BITS      = 4,
  parameter int WEIGHT_SIGNED    = 1,
  parameter int INPUT_BITS       = 4,
  parameter int INPUT_SIGNED     = 0,
  parameter int INPUT_ZERO       = 0,    // the code of real zero, which stands in the padding
  parameter int ACC_WIDTH        = 16,   // bits that hold every accumulator; sums wrap to them
  parameter int PSUM_BITS        = 16
) (
  input  wire                            clk,
  input  wire                            rst,

  // words of the memories weight and input (of one image), to be written while not busy
  input  wire                            weight_write,
  input  wire [31:0]                     weight_addr,
  input  wire [ROW*WEIGHT_BITS-1:0]      weight_data,
  input  wire                            input_write,
  input  wire [31:0]                     input_addr,
  input  wire [ROW*INPUT_BITS-1:0]       input_data,

  input  wire                            start,     // hold it until busy
  output wire                            busy,
  output wire                            finished,  // in the last busy cycle, with the last sums

  output wire                            psum_tvalid,
  input  wire                            psum_tready,
  output wire [COL*PSUM_BITS-1:0]        psum_tdata,
  output wire                            psum_tlast,
  // the sums of products behind it: word after word of COL sums, those of output tile sums_ot
  output wire                            advance,      // every register holds but with it
  input  wire                            results_free,
  output wire                            sums_valid,
  output wire                            sums_last,
  output wire [31:0]                     sums_ot,
  output wire [COL*ACC_WIDTH-1:0]        sums
);
  localparam int ICG = IC / GROUPS;
  localparam int OCG = OC / GROUPS;
  localparam int IT  = (ICG + ROW - 1) / ROW;
  localparam int OT  = (OC + COL - 1) / COL;
  localparam int PY  = IY + PAD_TOP + PAD_BOTTOM;
  localparam int PX  = IX + PAD_LEFT + PAD_RIGHT;
  localparam int OY  = (PY - DILATION_Y * (KH - 1) - 1) / STRIDE_Y + 1;
  localparam int OX  = (PX - DILATION_X * (KW - 1) - 1) / STRIDE_X + 1;
  // psums and accumulators are exact modulo 2^their width, and either may be the wider
  localparam int SUM_BITS = PSUM_BITS > ACC_WIDTH ? PSUM_BITS : ACC_WIDTH;
  localparam int LATENCY  = ROW + COL;  // from an address of the input buffer to the psums

  localparam [1:0] IDLE = 2'd0, WEIGHTS = 2'd1, STREAM = 2'd2, DRAIN = 2'd3;
  reg [1:0] state;

  // Every register of the pipeline holds while a result waits for its stream.
  wire psum_free;
  assign advance = psum_free && results_free;

  // ---- passes: for ot, it, kh, kw ------------------------------------------------------------------------------------

  wire [31:0] ot, it, kh, kw;
  wire ot_last, it_last, kh_last, kw_last;
  wire pass_done;
  wire last_pass = it_last && kh_last && kw_last;  // of the output tile
  wire first_pass = it == 0 && kh == 0 && kw == 0;

  axis #(.SIZE(KW)) kw_axis (.clk(clk), .rst(rst), .step(pass_done), .at(kw), .last(kw_last));
  axis #(.SIZE(KH)) kh_axis (.clk(clk), .rst(rst), .step(pass_done && kw_last), .at(kh), .last(kh_last));
  axis #(.SIZE(IT)) it_axis (.clk(clk), .rst(rst), .step(pass_done && kw_last && kh_last), .at(it), .last(it_last));
  axis #(.SIZE(OT)) ot_axis (.clk(clk), .rst(rst), .step(pass_done && last_pass), .at(ot), .last(ot_last));

  // ---- within a pass: COL words of weights, then the plane, then what is still in the array --------------------------

  wire [31:0] col, g, py, px;
  wire col_last, g_last, py_last, px_last;
  wire weighting = advance && state == WEIGHTS;
  wire streaming = advance && state == STREAM;
  wire row_done = streaming && g_last && px_last;
  reg [LATENCY-1:0] in_flight;  // bit i: a word of activations was asked for i+1 cycles ago

  axis #(.SIZE(COL)) col_axis (.clk(clk), .rst(rst), .step(weighting), .at(col), .last(col_last));
  group_scan #(.COL(COL), .GROUPS(GROUPS), .OCG(OCG)) g_scan (
    .clk(clk), .rst(rst), .step(streaming), .ot(ot), .g(g), .last(g_last)
  );
  axis #(.SIZE(PX)) px_axis (.clk(clk), .rst(rst), .step(streaming && g_last), .at(px), .last(px_last));
  axis #(.SIZE(PY)) py_axis (.clk(clk), .rst(rst), .step(row_done), .at(py), .last(py_last));

  assign busy = state != IDLE;
  assign pass_done = advance && state == DRAIN && in_flight == 0;  // its last sum is being added
  assign finished = pass_done && last_pass && ot_last;

  always @(posedge clk)
    if (rst) begin
      state <= IDLE;
      in_flight <= 0;
    end else if (advance) begin
      in_flight <= {in_flight[LATENCY-2:0], streaming};
      case (state)
        IDLE:    if (start) state <= WEIGHTS;
        WEIGHTS: if (col_last) state <= STREAM;
        STREAM:  if (row_done && py_last) state <= DRAIN;
        default: if (pass_done) state <= finished ? IDLE : WEIGHTS;
      endcase
    end

  // ---- weights and activations into the array ------------------------------------------------------------------------

  wire [ROW*WEIGHT_BITS-1:0] weights;
  wire [ROW*INPUT_BITS-1:0] activations;
  wire [COL*SUM_BITS-1:0] psums;
  wire [31:0] tap = ((ot * IT + it) * KH + kh) * KW + kw;
  reg shift_weight;

  always @(posedge clk)
    if (advance) shift_weight <= weighting;

  // the word that enters first moves on to the last column
  memory #(.WIDTH(ROW * WEIGHT_BITS), .WORDS(OT * IT * KH * KW * COL)) weight_memory (
    .clk(clk), .write(weight_write), .write_addr(weight_addr), .write_data(weight_data),
    .read(advance), .read_addr(tap * COL + COL - 1 - col), .read_data(weights)
  );
  input_buffer #(
    .ROW(ROW), .BITS(INPUT_BITS), .IC(IC), .GROUPS(GROUPS), .IY(IY), .IX(IX), .PAD_TOP(PAD_TOP), .PAD_LEFT(PAD_LEFT),
    .ZERO(INPUT_ZERO)
  ) inputs (
    .clk(clk), .write(input_write), .write_addr(input_addr), .write_data(input_data),
    .read(advance), .g(g), .it(it), .py(py), .px(px), .read_data(activations)
  );
  ws_grid #(
    .ROW(ROW), .COL(COL), .WEIGHT_BITS(WEIGHT_BITS), .WEIGHT_SIGNED(WEIGHT_SIGNED), .INPUT_BITS(INPUT_BITS),
    .INPUT_SIGNED(INPUT_SIGNED), .SUM_BITS(SUM_BITS)
  ) grid (
    .clk(clk), .rst(rst), .advance(advance), .shift_weight(shift_weight), .weights(weights), .activations(activations),
    .psums(psums)
  );

  // ---- psums out of the array: the same walk over the plane, LATENCY cycles later ------------------------------------

  wire arrives = advance && in_flight[LATENCY-1];
  wire [31:0] psum_g, oy, ox;
  wire psum_g_last, psum_py_last, psum_px_last, meets_y, meets_x;
  wire psum_whole = arrives && psum_g_last;
  wire restart = state == WEIGHTS;  // the tap of the next pass stands

  group_scan #(.COL(COL), .GROUPS(GROUPS), .OCG(OCG)) psum_g_scan (
    .clk(clk), .rst(rst), .step(arrives), .ot(ot), .g(psum_g), .last(psum_g_last)
  );
  tap_scan #(.SIZE(PX), .OUT(OX), .STRIDE(STRIDE_X), .DILATION(DILATION_X)) x_scan (
    .clk(clk), .restart(restart), .step(psum_whole), .tap(kw), .last(psum_px_last), .meets(meets_x), .out(ox)
  );
  tap_scan #(.SIZE(PY), .OUT(OY), .STRIDE(STRIDE_Y), .DILATION(DILATION_Y)) y_scan (
    .clk(clk), .restart(restart), .step(psum_whole && psum_px_last), .tap(kh), .last(psum_py_last), .meets(meets_y),
    .out(oy)
  );

  // One stage: the columns' psums come together, the accumulators that they belong to are read.
  reg [COL*SUM_BITS-1:0] psum;
  reg psum_valid, psum_last, meets, sum_last;
  reg [31:0] address;
  wire [COL*ACC_WIDTH-1:0] accumulators;

  always @(posedge clk)
    if (rst) psum_valid <= 1'b0;
    else if (advance) begin
      psum_valid <= psum_whole;
      psum_last <= ot_last && last_pass && psum_py_last && psum_px_last;
      meets <= meets_y && meets_x;
      sum_last <= ot_last && oy == OY - 1 && ox == OX - 1;
      address <= oy * OX + ox;
    end

  // Next stage: the psums go out, the sums into the accumulator memory or, in the last pass, on to the results.
  wire add = advance && psum_valid && meets;

  memory #(.WIDTH(COL * ACC_WIDTH), .WORDS(OY * OX)) accumulator_memory (
    .clk(clk), .write(add), .write_addr(address), .write_data(sums),
    .read(advance), .read_addr(oy * OX + ox), .read_data(accumulators)
  );

  wire [COL*PSUM_BITS-1:0] psum_word;
  genvar c;
  generate
    for (c = 0; c < COL; c = c + 1) begin : column
      // Groups come in ascending order, so that a column ends with its own; columns past OC see weights 0 only.
      always @(posedge clk)
        if (arrives && (GROUPS == 1 || ot * COL + c >= psum_g * OCG))
          psum[c*SUM_BITS +: SUM_BITS] <= psums[c*SUM_BITS +: SUM_BITS];
      assign psum_word[c*PSUM_BITS +: PSUM_BITS] = psum[c*SUM_BITS +: PSUM_BITS];
      assign sums[c*ACC_WIDTH +: ACC_WIDTH] =
        psum[c*SUM_BITS +: ACC_WIDTH] + (first_pass ? {ACC_WIDTH{1'b0}} : accumulators[c*ACC_WIDTH +: ACC_WIDTH]);
    end
  endgenerate

  stream_out #(.WIDTH(COL * PSUM_BITS)) psum_out (
    .clk(clk), .rst(rst), .advance(advance), .valid(psum_valid), .data(psum_word), .last(psum_last),
    .free(psum_free), .tvalid(psum_tvalid), .tready(psum_tready), .tdata(psum_tdata), .tlast(psum_tlast)
  );
  assign sums_valid = add && last_pass;
  assign sums_last = sum_last;
  assign sums_ot = ot;
endmodule

`default_nettype wire
