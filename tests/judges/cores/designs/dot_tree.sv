// A dot product of eight channels in a cycle: eight multipliers, a tree of adders in three registers, one adder that
// joins the tiles of input channels. For linear layers with signed codes. The whole pipeline waits for the result.
module dot_tree (
  input  wire        clk,
  input  wire        rst,
  input  wire        s_weight_tvalid,
  output wire        s_weight_tready,
  input  wire [31:0] s_weight_tdata,
  input  wire        s_weight_tlast,
  input  wire        s_bias_tvalid,
  output wire        s_bias_tready,
  input  wire [95:0] s_bias_tdata,
  input  wire        s_bias_tlast,
  input  wire        s_input_tvalid,
  output wire        s_input_tready,
  input  wire [31:0] s_input_tdata,
  input  wire        s_input_tlast,
  output reg         m_accumulator_tvalid,
  input  wire        m_accumulator_tready,
  output reg  [47:0] m_accumulator_tdata,
  output reg         m_accumulator_tlast
);
  // 12 channels in two tiles of 8, 5 outputs in two tiles of 3
  localparam TILES = 2, OUTS = 2, COLUMNS = 3;

  reg [31:0] weights[0:OUTS*TILES*COLUMNS-1];
  reg [95:0] biases[0:OUTS-1];
  reg [31:0] vector[0:TILES-1];
  reg [3:0] weights_in;
  reg biases_in, words_in, all_weights, all_biases, whole;
  assign s_weight_tready = !all_weights;
  assign s_bias_tready   = !all_biases;
  assign s_input_tready  = !whole;

  wire go = !m_accumulator_tvalid || m_accumulator_tready;

  // what enters the pipeline: for each tile of outputs, each column, each tile of inputs
  reg out, tile;
  reg [1:0] column;
  wire issue = all_weights && all_biases && whole;
  wire last_tile = tile == TILES - 1;
  wire last_column = last_tile && column == COLUMNS - 1;
  wire last_out = last_column && out == OUTS - 1;
  wire [31:0] w = weights[{out, 2'b0} + {out, 1'b0} + (tile ? 4'd3 : 4'd0) + column];
  wire [31:0] v = vector[tile];
  wire [95:0] b = biases[out];

  reg signed [7:0] p[0:7];  // products
  reg signed [8:0] a[0:3];
  reg signed [10:0] d;
  reg [2:0] valid, first, ends, full, lasts;
  reg signed [15:0] bias[0:2];
  reg signed [15:0] sum;
  wire signed [15:0] next = (first[2] ? bias[2] : sum) + d;

  integer i;
  always @(posedge clk)
    if (rst) begin
      weights_in <= 0;
      biases_in <= 0;
      words_in <= 0;
      all_weights <= 0;
      all_biases <= 0;
      whole <= 0;
      out <= 0;
      tile <= 0;
      column <= 0;
      valid <= 0;
      m_accumulator_tvalid <= 0;
    end else begin
      if (s_weight_tvalid && s_weight_tready) begin
        weights[weights_in] <= s_weight_tdata;
        weights_in <= weights_in + 1;
        if (weights_in == OUTS * TILES * COLUMNS - 1) all_weights <= 1;
      end
      if (s_bias_tvalid && s_bias_tready) begin
        biases[biases_in] <= s_bias_tdata;
        biases_in <= 1;
        if (biases_in) all_biases <= 1;
      end
      if (s_input_tvalid && s_input_tready) begin
        vector[words_in] <= s_input_tdata;
        words_in <= !words_in;
        if (words_in) whole <= 1;
      end
      if (go) begin
        m_accumulator_tvalid <= 0;
        for (i = 0; i < 8; i = i + 1) p[i] <= $signed(w[4*i+:4]) * $signed(v[4*i+:4]);
        for (i = 0; i < 4; i = i + 1) a[i] <= p[2*i] + p[2*i+1];
        d <= a[0] + a[1] + a[2] + a[3];
        valid <= {valid[1:0], issue};
        first <= {first[1:0], !tile};
        ends <= {ends[1:0], last_tile};
        lasts <= {lasts[1:0], last_out};
        full <= {full[1:0], last_column};
        bias[0] <= b[32*column+:16];
        bias[1] <= bias[0];
        bias[2] <= bias[1];
        if (issue) begin
          tile <= !tile;
          if (last_tile) column <= last_column ? 0 : column + 1;
          if (last_column) out <= !out;
          if (last_out) whole <= 0;
        end
        if (valid[2]) begin
          sum <= next;
          if (ends[2]) m_accumulator_tdata <= {next, m_accumulator_tdata[47:16]};  // column 0 comes first
          m_accumulator_tvalid <= ends[2] && full[2];
          m_accumulator_tlast <= lasts[2];
        end
      end
    end
endmodule
