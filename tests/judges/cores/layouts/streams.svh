// Streams for the small designs here: what comes in is kept, word by word; what goes out is read from a memory.
`define IN(NAME, BITS) \
  input wire s_``NAME``_tvalid, output wire s_``NAME``_tready, \
  input wire [BITS-1:0] s_``NAME``_tdata, input wire s_``NAME``_tlast
`define OUT(NAME, BITS) \
  output wire m_``NAME``_tvalid, input wire m_``NAME``_tready, \
  output wire [BITS-1:0] m_``NAME``_tdata, output wire m_``NAME``_tlast

// WORDS words of BITS bits, tlast with every EVERY-th one; a tlast elsewhere inverts all results.
`define TAKE(NAME, WORDS, BITS, EVERY) \
  reg [BITS-1:0] NAME [0:WORDS-1]; \
  integer NAME``_count; \
  reg NAME``_strange; \
  wire NAME``_full = NAME``_count == WORDS; \
  assign s_``NAME``_tready = !NAME``_full; \
  always @(posedge clk) \
    if (rst) begin \
      NAME``_count <= 0; \
      NAME``_strange <= 0; \
    end else if (s_``NAME``_tvalid && s_``NAME``_tready) begin \
      NAME[NAME``_count] <= s_``NAME``_tdata; \
      NAME``_count <= NAME``_count + 1; \
      if (s_``NAME``_tlast != (NAME``_count % (EVERY) == (EVERY) - 1)) NAME``_strange <= 1; \
    end

// `done`: all words stand in NAME; `strange`: some tlast came where none should.
`define GIVE(NAME, WORDS, BITS, EVERY) \
  reg [BITS-1:0] NAME [0:WORDS-1]; \
  integer NAME``_count; \
  assign m_``NAME``_tvalid = done && NAME``_count < WORDS; \
  assign m_``NAME``_tdata = NAME[NAME``_count < WORDS ? NAME``_count : 0] ^ {BITS{strange}}; \
  assign m_``NAME``_tlast = NAME``_count % (EVERY) == (EVERY) - 1; \
  always @(posedge clk) \
    if (rst) NAME``_count <= 0; \
    else if (m_``NAME``_tvalid && m_``NAME``_tready) NAME``_count <= NAME``_count + 1;
