// The register behind which a result waits for its AXI4-Stream to be ready.
// The whole pipeline moves on with `advance`, which may be high only while every such register is `free`; so tvalid and
// tdata come from flip-flops and stay as they are until tready.
`timescale 1ns / 1ps
`default_nettype none

module stream_out #(
  parameter int WIDTH = 8
) (
  input  wire             clk,
  input  wire             rst,
  input  wire             advance,
  input  wire             valid,
  input  wire [WIDTH-1:0] data,
  input  wire             last,
  output wire             free,
  output reg              tvalid,
  input  wire             tready,
  output reg  [WIDTH-1:0] tdata,
  output reg              tlast
);
  assign free = !tvalid || tready;

  always @(posedge clk) begin
    if (rst) tvalid <= 1'b0;
    else if (advance) tvalid <= valid;
    else if (tready) tvalid <= 1'b0;  // taken, while another stream holds the pipeline
    if (advance && valid) begin
      tdata <= data;
      tlast <= last;
    end
  end
endmodule

`default_nettype wire
