// Takes WORDS words of an AXI4-Stream and gives each its address; then `full`, until `clear`.
// tready does not depend on tvalid. tlast is not looked at: the number of words is known.
`timescale 1ns / 1ps
`default_nettype none

module stream_in #(
  parameter int WORDS = 2
) (
  input  wire        clk,
  input  wire        rst,
  input  wire        clear,
  input  wire        tvalid,
  output wire        tready,
  output wire        write,
  output wire [31:0] addr,
  output reg         full
);
  wire last;

  assign tready = !full;
  assign write = tvalid && tready;

  axis #(.SIZE(WORDS)) word (.clk(clk), .rst(rst), .step(write), .at(addr), .last(last));

  always @(posedge clk)
    if (rst || clear) full <= 1'b0;
    else if (write && last) full <= 1'b1;
endmodule

`default_nettype wire
