// Sends the words of a file as an AXI4-Stream; with +pause=P a word waits in P of 100 cycles before it is offered.
`timescale 1ns / 1ps

module source #(parameter WIDTH = 8, WORDS = 1, IMAGE = 1, SEED = 1, FILE = "") (
  input wire clk, input wire rst, input wire enable,
  output reg tvalid, input wire tready, output reg [WIDTH-1:0] tdata, output reg tlast, output wire done
);
  reg [WIDTH-1:0] words [0:WORDS-1];
  reg [8*400-1:0] dir;
  integer at, pause, seed;

  assign done = at == WORDS && !tvalid;

  initial begin
    if ($value$plusargs("dir=%s", dir) == 0) $fatal(1, "no +dir");
    if ($value$plusargs("pause=%d", pause) == 0) pause = 0;
    if ($value$plusargs("seed=%d", seed) == 0) seed = 0;
    seed = seed * 100 + SEED;
    $readmemh($sformatf("%0s/%0s", dir, FILE), words);
  end

  always @(posedge clk)
    if (rst) begin
      at <= 0;
      tvalid <= 0;
    end else if (!tvalid || tready) begin
      tvalid <= 0;
      if (enable && at < WORDS && $dist_uniform(seed, 0, 99) >= pause) begin
        tvalid <= 1;
        tdata <= words[at];
        tlast <= (at + 1) % IMAGE == 0;
        at <= at + 1;
      end
    end
endmodule
