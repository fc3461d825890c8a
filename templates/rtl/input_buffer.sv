// Holds the input of one image and answers with the ROW channels that stand in front of the array: channels
// it*ROW .. it*ROW + ROW-1 of group g at padded position (py, px); ZERO in the padding and past the group's channels.
// One bank for each lane, because a group may begin in the middle of a word: then the lanes in front of its first
// channel come from the word behind, and the lanes are turned.
`timescale 1ns / 1ps
`default_nettype none

module input_buffer #(
  parameter int ROW      = 8,
  parameter int BITS     = 4,
  parameter int IC       = 8,
  parameter int GROUPS   = 1,
  parameter int IY       = 4,
  parameter int IX       = 4,
  parameter int PAD_TOP  = 1,
  parameter int PAD_LEFT = 1,
  parameter int ZERO     = 0   // what stands in the padding
) (
  input  wire                clk,
  input  wire                write,
  input  wire [31:0]         write_addr,
  input  wire [ROW*BITS-1:0] write_data,
  input  wire                read,
  input  wire [31:0]         g,
  input  wire [31:0]         it,
  input  wire [31:0]         py,
  input  wire [31:0]         px,
  output wire [ROW*BITS-1:0] read_data  // one cycle after the address
);
  localparam int ICG   = IC / GROUPS;
  localparam int WORDS = (IC + ROW - 1) / ROW * IY * IX;

  // divisions by a constant, gone where there is one group
  wire [31:0] channel = g * ICG + it * ROW;
  wire [31:0] ct = GROUPS == 1 ? it : channel / ROW;
  wire [31:0] turn = GROUPS == 1 ? 0 : channel % ROW;
  wire [31:0] iy = py - PAD_TOP;  // unsigned: above the plane it is very large
  wire [31:0] ix = px - PAD_LEFT;

  wire [31:0] word = (ct * IY + iy) * IX + ix;

  wire [ROW*BITS-1:0] lanes;
  reg  in_plane;
  reg  [$clog2(ROW + 1)-1:0] turned;
  reg  [ROW-1:0] used;  // lanes that hold a channel of the group

  wire [2*ROW*BITS-1:0] twice = {lanes, lanes};
  wire [ROW*BITS-1:0] aligned = twice[32'(turned)*BITS +: ROW*BITS];

  genvar r;
  generate
    for (r = 0; r < ROW; r = r + 1) begin : lane
      memory #(.WIDTH(BITS), .WORDS(WORDS)) bank (
        .clk(clk), .write(write), .write_addr(write_addr), .write_data(write_data[r*BITS +: BITS]),
        .read(read), .read_addr(r < turn ? word + IY * IX : word), .read_data(lanes[r*BITS +: BITS])
      );
      always @(posedge clk)
        if (read) used[r] <= it * ROW + r < ICG;
      assign read_data[r*BITS +: BITS] = in_plane && used[r] ? aligned[r*BITS +: BITS] : BITS'(ZERO);
    end
  endgenerate

  always @(posedge clk)
    if (read) begin
      in_plane <= iy < IY && ix < IX;
      turned <= ($clog2(ROW + 1))'(turn);
    end
endmodule

`default_nettype wire
