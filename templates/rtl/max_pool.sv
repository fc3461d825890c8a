// The largest of each window of a plane that comes row by row, a word of all columns a time: first along the row, in a
// register, then down, in a memory of a row. Padding does not count. Gives one word a cycle, and takes one a cycle but
// where several windows end in the last column or row: it holds the last word until the others are given, too.
`timescale 1ns / 1ps
`default_nettype none

module max_pool #(
  parameter int COL      = 8,
  parameter int WIDTH    = 8,
  parameter int OT       = 1,
  parameter int OT_BITS  = 1,
  parameter int Y        = 4,  // the plane
  parameter int X        = 4,
  parameter int PAD_TOP  = 0,
  parameter int PAD_LEFT = 0,
  parameter int KERNEL_Y = 2,
  parameter int KERNEL_X = 2,
  parameter int STRIDE_Y = 2,
  parameter int STRIDE_X = 2,
  parameter int OUT_Y    = 2,  // the pooled plane
  parameter int OUT_X    = 2,
  parameter int VISITS_Y = 1,  // windows that end in the last row, one at least
  parameter int VISITS_X = 1
) (
  input  wire                 clk,
  input  wire                 rst,
  input  wire                 advance,
  input  wire                 valid,
  output wire                 hold,     // the word is needed once more
  input  wire [OT_BITS-1:0]   ot,
  input  wire [COL*WIDTH-1:0] data,
  output wire                 next_valid,
  output wire                 next_last,
  output wire [OT_BITS-1:0]   next_ot,
  output wire [COL*WIDTH-1:0] next_data
);
  // as many windows are open at a time
  localparam int X_SLOTS = (KERNEL_X + STRIDE_X - 1) / STRIDE_X;
  localparam int Y_SLOTS = (KERNEL_Y + STRIDE_Y - 1) / STRIDE_Y;

  wire step = advance && valid;
  wire x_last, x_leaves, unused_x_again, unused_y_last, y_again, y_leaves, column_last;
  // A row that is visited again gives a word for each column, from the memory.
  wire row_ended = y_again ? column_last : x_last && x_leaves;
  wire [X_SLOTS-1:0] x_opens, x_covers, x_closes;
  wire [Y_SLOTS-1:0] y_opens, y_covers, y_closes;

  pool_scan #(
    .SIZE(X), .PAD(PAD_LEFT), .KERNEL(KERNEL_X), .STRIDE(STRIDE_X), .OUT(OUT_X), .SLOTS(X_SLOTS),
    .VISITS(VISITS_X)
  ) x_scan (
    .clk(clk), .rst(rst), .step(step && !y_again), .last(x_last), .again(unused_x_again), .leaves(x_leaves),
    .opens(x_opens), .covers(x_covers), .closes(x_closes)
  );
  pool_scan #(
    .SIZE(Y), .PAD(PAD_TOP), .KERNEL(KERNEL_Y), .STRIDE(STRIDE_Y), .OUT(OUT_Y), .SLOTS(Y_SLOTS),
    .VISITS(VISITS_Y)
  ) y_scan (
    .clk(clk), .rst(rst), .step(step && row_ended), .last(unused_y_last), .again(y_again), .leaves(y_leaves),
    .opens(y_opens), .covers(y_covers), .closes(y_closes)
  );

  assign hold = valid && !(row_ended ? y_leaves : !y_again && x_leaves);

  // ---- along the row -------------------------------------------------------------------------------------------------

  wire row_done = valid && (y_again || x_closes != 0);
  wire [31:0] column;
  wire [COL*WIDTH-1:0] row_data;
  reg row_valid, row_again;
  reg [OT_BITS-1:0] row_ot;
  reg [31:0] row_column;
  reg [Y_SLOTS-1:0] row_opens, row_covers, row_closes;
  reg [COL*WIDTH-1:0] row_largest;

  axis #(.SIZE(OUT_X)) x_axis (
    .clk(clk), .rst(rst), .step(advance && row_done), .at(column), .last(column_last)
  );

  always @(posedge clk)
    if (rst) row_valid <= 1'b0;
    else if (advance) begin
      row_valid <= row_done;
      row_again <= y_again;
      row_ot <= ot;
      row_column <= column;
      row_opens <= y_opens;
      row_covers <= y_covers;
      row_closes <= y_closes;
      row_largest <= row_data;
    end

  genvar s, c;
  generate
    for (c = 0; c < COL; c = c + 1) begin : lane
      wire signed [WIDTH-1:0] value = data[c*WIDTH +: WIDTH];
      wire [WIDTH-1:0] found [0:X_SLOTS];
      assign found[0] = 0;
      for (s = 0; s < X_SLOTS; s = s + 1) begin : slot
        reg signed [WIDTH-1:0] largest;
        wire signed [WIDTH-1:0] larger = x_opens[s] || value > largest ? value : largest;
        always @(posedge clk)
          if (step && !y_again && x_covers[s]) largest <= larger;
        assign found[s+1] = x_closes[s] ? larger : found[s];
      end
      assign row_data[c*WIDTH +: WIDTH] = found[X_SLOTS];
    end
  endgenerate

  wire unused_column = &row_column;

  // ---- down the rows -------------------------------------------------------------------------------------------------

  wire [31:0] unused_place;
  wire place_last;

  generate
    for (s = 0; s < Y_SLOTS; s = s + 1) begin : window
      wire write = advance && row_valid && row_covers[s];
      wire [COL*WIDTH-1:0] above, larger, found;
      if (OUT_X > 1) begin : row
        memory #(.WIDTH(COL * WIDTH), .WORDS(OUT_X)) largest (
          .clk(clk), .write(write), .write_addr(row_column), .write_data(larger),
          .read(advance), .read_addr(column), .read_data(above)
        );
      end else begin : row
        reg [COL*WIDTH-1:0] largest;  // a memory would give the word from before the last one
        assign above = largest;
        always @(posedge clk)
          if (write) largest <= larger;
      end
      for (c = 0; c < COL; c = c + 1) begin : lane
        wire signed [WIDTH-1:0] old = above[c*WIDTH +: WIDTH];
        wire signed [WIDTH-1:0] value = row_largest[c*WIDTH +: WIDTH];
        assign larger[c*WIDTH +: WIDTH] = !row_again && (row_opens[s] || value > old) ? value : old;
      end
      if (s == 0) begin : chosen
        assign found = larger;
      end else begin : chosen
        assign found = row_closes[s] ? larger : window[s-1].found;
      end
    end
  endgenerate

  axis #(.SIZE(OUT_Y * OUT_X)) places (
    .clk(clk), .rst(rst), .step(advance && next_valid), .at(unused_place), .last(place_last)
  );

  assign next_valid = row_valid && row_closes != 0;
  assign next_last = place_last && 32'(row_ot) == OT - 1;
  assign next_ot = row_ot;
  assign next_data = window[Y_SLOTS-1].found;
endmodule

`default_nettype wire
