// Walks one axis of a plane and says of which windows of a pool a place is the first, any, or the last one.
// Windows lie at 0, STRIDE, ... of the padded axis; SLOTS of them can be open, slot s has windows s, s + SLOTS, ...
`timescale 1ns / 1ps
`default_nettype none

module pool_scan #(
  parameter int SIZE   = 4,  // places
  parameter int PAD    = 0,  // in front of them; windows end at the last place at the latest
  parameter int KERNEL = 2,
  parameter int STRIDE = 2,
  parameter int OUT    = 2,  // windows
  parameter int SLOTS  = 1
) (
  input  wire             clk,
  input  wire             rst,
  input  wire             step,
  output wire             last,
  output wire [SLOTS-1:0] opens,
  output wire [SLOTS-1:0] covers,
  output wire [SLOTS-1:0] closes
);
  localparam int BITS = $clog2(PAD + SIZE + KERNEL + (OUT + SLOTS) * STRIDE);

  reg [BITS-1:0] place;  // on the padded axis

  assign last = place == BITS'(PAD + SIZE - 1);

  always @(posedge clk)
    if (rst || (step && last)) place <= BITS'(PAD);
    else if (step) place <= place + 1'b1;

  genvar s;
  generate
    for (s = 0; s < SLOTS; s = s + 1) begin : slot
      reg [BITS-1:0] first;  // place of its window
      assign covers[s] = first <= place && place < first + BITS'(KERNEL) && first <= BITS'((OUT - 1) * STRIDE);
      assign opens[s] = covers[s] && (place == BITS'(PAD) || place == first);
      assign closes[s] = covers[s] && (last || place == first + BITS'(KERNEL - 1));
      always @(posedge clk)
        if (rst || (step && last)) first <= BITS'(s * STRIDE);
        else if (step && closes[s]) first <= first + BITS'(SLOTS * STRIDE);
    end
  endgenerate
endmodule

`default_nettype wire
