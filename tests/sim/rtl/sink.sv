// Compares an AXI4-Stream with the words of a file; with +pause=P it is not ready in P of 100 cycles.
// It also holds the stream to the rules: what is offered stays until it is taken, and nothing is X.
`timescale 1ns / 1ps

module sink #(parameter WIDTH = 8, WORDS = 1, IMAGE = 1, SEED = 1, FILE = "") (
  input wire clk, input wire rst,
  input wire tvalid, output reg tready, input wire [WIDTH-1:0] tdata, input wire tlast, output wire done
);
  reg [WIDTH-1:0] words [0:WORDS-1];
  reg [8*400-1:0] dir;
  integer at, errors, pause, seed;
  reg waited, waited_last;
  reg [WIDTH-1:0] waited_data;

  assign done = at == WORDS;

  initial begin
    if ($value$plusargs("dir=%s", dir) == 0) $fatal(1, "no +dir");
    if ($value$plusargs("pause=%d", pause) == 0) pause = 0;
    if ($value$plusargs("seed=%d", seed) == 0) seed = 0;
    seed = seed * 100 + SEED;
    $readmemh($sformatf("%0s/%0s", dir, FILE), words);
    errors = 0;
  end

  task wrong(input [8*40-1:0] what);
    begin
      errors = errors + 1;
      if (errors <= 3) $display("WRONG %0s word=%0d: %0s, got %h want %h", FILE, at, what, tdata, words[at]);
    end
  endtask

  always @(posedge clk)
    if (rst) begin
      at <= 0;
      tready <= 0;
      waited <= 0;
    end else begin
      tready <= $dist_uniform(seed, 0, 99) >= pause;
      if (tvalid === 1'bx) wrong("tvalid is X");
      if (waited && (tvalid !== 1'b1 || tdata !== waited_data || tlast !== waited_last)) wrong("did not wait");
      waited <= tvalid && !tready;
      waited_data <= tdata;
      waited_last <= tlast;
      if (tvalid && tready) begin
        if (at >= WORDS) wrong("one word too many");
        else if (tdata !== words[at]) wrong("data");
        if (tlast !== ((at + 1) % IMAGE == 0)) wrong("tlast");
        at <= at + 1;
      end
    end
endmodule
