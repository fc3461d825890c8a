// Walks one axis of a plane and says of which windows of a pool a place is the first, any, or the last one.
// Windows lie at 0, STRIDE, ... of the padded axis; SLOTS of them can be open, slot s has windows s, s + SLOTS, ...
// They close in their order, one at a time: where several end at or behind the last place, it is visited once for each.
`timescale 1ns / 1ps
`default_nettype none

module pool_scan #(
  parameter int SIZE   = 4,  // places
  parameter int PAD    = 0,  // in front of them
  parameter int KERNEL = 2,
  parameter int STRIDE = 2,
  parameter int OUT    = 2,  // windows
  parameter int SLOTS  = 1,
  parameter int VISITS = 1   // of the last place
) (
  input  wire             clk,
  input  wire             rst,
  input  wire             step,
  output wire             last,
  output wire             again,    // the place was visited before
  output wire             leaves,   // this visit of the place is the last one
  output wire [SLOTS-1:0] opens,
  output wire [SLOTS-1:0] covers,
  output wire [SLOTS-1:0] closes
);
  localparam int BITS = $clog2(PAD + SIZE + KERNEL + (OUT + SLOTS) * STRIDE);

  reg [BITS-1:0] place;  // on the padded axis
  reg [SLOTS-1:0] turn;  // whose window is the next one to close
  wire ended = last && leaves;

  assign last = place == BITS'(PAD + SIZE - 1);

  always @(posedge clk)
    if (rst || (step && ended)) place <= BITS'(PAD);
    else if (step && leaves) place <= place + 1'b1;

  always @(posedge clk)
    if (rst || (step && ended)) turn <= SLOTS'(1);
    else if (step && closes != 0) turn <= SLOTS'({turn, turn} >> (SLOTS - 1));

  generate
    if (VISITS > 1) begin : several
      wire [31:0] visit;
      wire visit_last;
      axis #(.SIZE(VISITS)) visits (.clk(clk), .rst(rst), .step(step && last), .at(visit), .last(visit_last));
      assign again = visit != 0;
      assign leaves = !last || visit_last;
    end else begin : one
      assign again = 1'b0;
      assign leaves = 1'b1;
    end
  endgenerate

  genvar s;
  generate
    for (s = 0; s < SLOTS; s = s + 1) begin : slot
      reg [BITS-1:0] first;  // place of its window
      assign covers[s] = first <= place && place < first + BITS'(KERNEL) && first <= BITS'((OUT - 1) * STRIDE);
      assign opens[s] = covers[s] && (place == BITS'(PAD) || place == first);
      assign closes[s] = covers[s] && turn[s] && (last || place == first + BITS'(KERNEL - 1));
      always @(posedge clk)
        if (rst || (step && ended)) first <= BITS'(s * STRIDE);
        else if (step && closes[s]) first <= first + BITS'(SLOTS * STRIDE);
    end
  endgenerate
endmodule

`default_nettype wire
