// Convolution on an output-stationary systolic array.
//
// Row r keeps output position pt*ROW + r (positions run along oy, then ox), column c output channel ot*COL + c. For each
// output tile `ot` and position tile `pt` all products stream past: for each tap and tile of ROW input channels one
// word of input for each row and one word of weights for each column, read one a cycle in SLOTS slots. A line of the edge
// sends the ROW channels of its word one after the other; as line i got its word in slot i, the streams are skewed as
// the array needs them. Then the sums move north and out, position after position.
// All columns of a tile see the same activations. Where they belong to several groups, the groups' channels stream one
// after the other, and the columns of other groups get weights 0.
`timescale 1ns / 1ps
`default_nettype none

module os_array #(
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
  parameter int ACC_WIDTH        = 16    // bits that hold every accumulator; sums wrap to them
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

  // the sums of products behind it: word after word of COL sums, those of output tile sums_ot
  output wire                            advance,      // every register holds but with it
  input  wire                            results_free,
  output wire                            sums_valid,
  output wire                            sums_last,
  output wire [31:0]                     sums_ot,
  output wire [COL*ACC_WIDTH-1:0]        sums
);
  localparam int ICG   = IC / GROUPS;
  localparam int OCG   = OC / GROUPS;
  localparam int IT    = (ICG + ROW - 1) / ROW;
  localparam int OT    = (OC + COL - 1) / COL;
  localparam int PY    = IY + PAD_TOP + PAD_BOTTOM;
  localparam int PX    = IX + PAD_LEFT + PAD_RIGHT;
  localparam int OY    = (PY - DILATION_Y * (KH - 1) - 1) / STRIDE_Y + 1;
  localparam int OX    = (PX - DILATION_X * (KW - 1) - 1) / STRIDE_X + 1;
  localparam int SLOTS = ROW > COL ? ROW : COL;
  // from the last slot until the last element has added its last product
  localparam int SETTLING = 2 * ROW + COL - SLOTS;

  localparam [1:0] IDLE = 2'd0, STREAM = 2'd1, SETTLE = 2'd2, DRAIN = 2'd3;
  reg [1:0] state;

  // Every register of the pipeline holds while a result waits for its stream.
  assign advance = results_free;
  wire streaming = advance && state == STREAM;
  wire settling = advance && state == SETTLE;
  wire draining = advance && state == DRAIN;

  // ---- for ot, pt: for g, it, kh, kw, slot; then settle; then drain --------------------------------------------------

  wire [31:0] ot, g, it, kh, kw, slot, unused_wait, unused_row;
  wire ot_last, g_last, it_last, kh_last, kw_last, slot_last, settled, row_last;
  wire tap_done = streaming && slot_last;
  wire plane_done = tap_done && kw_last && kh_last;
  wire stream_done = plane_done && it_last && g_last;
  wire tile_done = draining && row_last;
  wire positions_done;  // with tile_done: of this output tile

  axis #(.SIZE(SLOTS)) slot_axis (.clk(clk), .rst(rst), .step(streaming), .at(slot), .last(slot_last));
  axis #(.SIZE(KW)) kw_axis (.clk(clk), .rst(rst), .step(tap_done), .at(kw), .last(kw_last));
  axis #(.SIZE(KH)) kh_axis (.clk(clk), .rst(rst), .step(tap_done && kw_last), .at(kh), .last(kh_last));
  axis #(.SIZE(IT)) it_axis (.clk(clk), .rst(rst), .step(plane_done), .at(it), .last(it_last));
  group_scan #(.COL(COL), .GROUPS(GROUPS), .OCG(OCG)) g_scan (
    .clk(clk), .rst(rst), .step(plane_done && it_last), .ot(ot), .g(g), .last(g_last)
  );
  axis #(.SIZE(OT)) ot_axis (
    .clk(clk), .rst(rst), .step(tile_done && positions_done), .at(ot), .last(ot_last)
  );
  axis #(.SIZE(SETTLING)) settle_axis (.clk(clk), .rst(rst), .step(settling), .at(unused_wait), .last(settled));
  axis #(.SIZE(ROW)) row_axis (.clk(clk), .rst(rst), .step(draining), .at(unused_row), .last(row_last));

  assign busy = state != IDLE;
  assign finished = tile_done && positions_done && ot_last;

  always @(posedge clk)
    if (rst) state <= IDLE;
    else if (advance)
      case (state)
        IDLE:    if (start) state <= STREAM;
        STREAM:  if (stream_done) state <= SETTLE;
        SETTLE:  if (settled) state <= DRAIN;
        default: if (tile_done) state <= finished ? IDLE : STREAM;
      endcase

  // ---- the output position of each slot: from the tile's first one on ------------------------------------------------

  localparam int Y_BITS = $clog2(OY + SLOTS + 1);  // slots past the last position count on
  localparam int X_BITS = $clog2(OX + 1);

  reg [Y_BITS-1:0] oy, first_oy;
  reg [X_BITS-1:0] ox, first_ox;
  wire ox_last = 32'(ox) == OX - 1;
  wire [Y_BITS-1:0] next_oy = ox_last ? oy + 1'b1 : oy;
  wire [X_BITS-1:0] next_ox = ox_last ? 0 : ox + 1'b1;
  wire exists = 32'(oy) < OY;

  assign positions_done = 32'(next_oy) >= OY;

  always @(posedge clk)
    if (rst || (tile_done && positions_done)) begin
      {oy, ox} <= 0;
      {first_oy, first_ox} <= 0;
    end else if (tap_done) {oy, ox} <= {first_oy, first_ox};
    else if (streaming || draining) begin
      {oy, ox} <= {next_oy, next_ox};
      if (tile_done) {first_oy, first_ox} <= {next_oy, next_ox};
    end

  // ---- weights and activations into the array ------------------------------------------------------------------------

  wire [ROW*WEIGHT_BITS-1:0] weights;
  wire [ROW*INPUT_BITS-1:0] activations;
  wire [ROW*INPUT_BITS-1:0] west;
  wire [COL*WEIGHT_BITS-1:0] north;
  wire [31:0] tap = ((ot * IT + it) * KH + kh) * KW + kw;
  wire [31:0] oc = ot * COL + slot;
  reg read_valid, read_group;  // the words were asked for; the column is of the group
  reg [31:0] read_slot;

  always @(posedge clk)
    if (rst) read_valid <= 1'b0;
    else if (advance) begin
      read_valid <= streaming;
      read_slot <= slot;
      read_group <= GROUPS == 1 || (oc >= g * OCG && oc < (g + 1) * OCG);
    end

  memory #(.WIDTH(ROW * WEIGHT_BITS), .WORDS(OT * IT * KH * KW * COL)) weight_memory (
    .clk(clk), .write(weight_write), .write_addr(weight_addr), .write_data(weight_data),
    .read(advance), .read_addr(tap * COL + slot), .read_data(weights)
  );
  input_buffer #(
    .ROW(ROW), .BITS(INPUT_BITS), .IC(IC), .GROUPS(GROUPS), .IY(IY), .IX(IX), .PAD_TOP(PAD_TOP), .PAD_LEFT(PAD_LEFT),
    .ZERO(INPUT_ZERO)
  ) inputs (
    .clk(clk), .write(input_write), .write_addr(input_addr), .write_data(input_data),
    .read(advance), .g(g), .it(it), .py(32'(oy) * STRIDE_Y + kh * DILATION_Y), .px(32'(ox) * STRIDE_X + kw * DILATION_X), .read_data(activations)
  );
  feeder #(.LINES(ROW), .LANES(ROW), .BITS(INPUT_BITS)) west_edge (
    .clk(clk), .rst(rst), .advance(advance), .valid(read_valid), .slot(read_slot), .word(activations), .codes(west)
  );
  feeder #(.LINES(COL), .LANES(ROW), .BITS(WEIGHT_BITS)) north_edge (
    .clk(clk), .rst(rst), .advance(advance), .valid(read_valid && read_group), .slot(read_slot), .word(weights),
    .codes(north)
  );
  os_grid #(
    .ROW(ROW), .COL(COL), .WEIGHT_BITS(WEIGHT_BITS), .WEIGHT_SIGNED(WEIGHT_SIGNED), .INPUT_BITS(INPUT_BITS),
    .INPUT_SIGNED(INPUT_SIGNED), .SUM_BITS(ACC_WIDTH)
  ) grid (
    .clk(clk), .rst(rst), .advance(advance), .shift_sum(draining), .activations(west), .weights(north), .sums(sums)
  );

  // ---- results -------------------------------------------------------------------------------------------------------

  assign sums_valid = draining && exists;
  assign sums_last = ot_last && positions_done;
  assign sums_ot = ot;
endmodule

`default_nettype wire
