// Output-stationary, 2 positions x 2 channels. Activations move east, weights south, the sums stay until a tile is done.
// A convolution of 4 to 3 channels, kernel 2x2, stride 2, on 4x6; each line of the edge is one cycle later than the last.
module os_pe (
  input  logic clk, clear, step,
  input  logic [3:0] from_west,
  input  logic signed [3:0] from_north,
  output logic [3:0] to_east,
  output logic signed [3:0] to_south,
  output logic signed [15:0] sum
);
  always_ff @(posedge clk)
    if (step) begin
      to_east  <= from_west;
      to_south <= from_north;
      sum      <= (clear ? 16'sd0 : sum) + from_north * $signed({1'b0, from_west});
    end
endmodule

module os_2x2 (
  input  logic clk, rst,
  input  logic s_weight_tvalid, s_weight_tlast, s_input_tvalid, s_input_tlast,
  output logic s_weight_tready, s_input_tready,
  input  logic [15:0] s_weight_tdata, s_input_tdata,
  output logic m_accumulator_tvalid, m_accumulator_tlast, m_relu_tvalid, m_relu_tlast,
  input  logic m_accumulator_tready, m_relu_tready,
  output logic [31:0] m_accumulator_tdata, m_relu_tdata
);
  logic [15:0] weights[0:15];  // out tile, tap, column
  logic [15:0] image[0:31];    // y (two bits), x (three bits)
  logic [3:0] weights_in;
  logic [1:0] y_in;
  logic [2:0] x_in;
  logic weighted, pictured;
  assign s_weight_tready = !weighted;
  assign s_input_tready  = !pictured;

  typedef enum logic [1:0] {IDLE, FLOW, SHOW} state_t;
  state_t state;
  logic out;                // tile of output channels
  logic [1:0] pair;         // two output positions
  logic [4:0] beat;         // 16 terms of a sum, 2 beats more until the last element has it
  logic second;             // which of the positions is shown
  wire [2:0] position[0:1];
  assign position[0] = {pair, 1'b0};
  assign position[1] = {pair, 1'b1};

  // the edge: line l gets term beat - l
  wire [3:0] west[0:1];
  wire signed [3:0] north[0:1];
  for (genvar l = 0; l < 2; l++) begin : line
    wire [4:0] term = beat - 5'(l);
    wire oy = position[l] >= 3;
    wire [1:0] ox = oy ? 2'(position[l] - 3'd3) : 2'(position[l]);
    wire [15:0] word = image[{oy, term[3], ox, term[2]}];
    wire [15:0] tap = weights[{out, term[3:2], 1'(l)}];
    assign west[l]  = term[4] ? 4'd0 : word[4*term[1:0]+:4];
    assign north[l] = term[4] ? 4'd0 : tap[4*term[1:0]+:4];
  end

  wire step = state == FLOW;
  wire [3:0] e00, e10, e01, e11;
  wire signed [3:0] s00, s01, s10, s11;
  wire signed [15:0] sums[0:1][0:1];
  os_pe pe00 (clk, beat == 0, step, west[0], north[0], e00, s00, sums[0][0]);
  os_pe pe01 (clk, beat == 1, step, e00, north[1], e01, s01, sums[0][1]);
  os_pe pe10 (clk, beat == 1, step, west[1], s00, e10, s10, sums[1][0]);
  os_pe pe11 (clk, beat == 2, step, e10, s01, e11, s11, sums[1][1]);

  wire last = out && pair == 2 && second;
  wire free = (!m_accumulator_tvalid || m_accumulator_tready) && (!m_relu_tvalid || m_relu_tready);
  wire signed [15:0] left = sums[second][0], right = sums[second][1];

  always_ff @(posedge clk)
    if (rst) begin
      state <= IDLE;
      {weights_in, y_in, x_in, weighted, pictured, out, pair, beat, second} <= '0;
      {m_accumulator_tvalid, m_relu_tvalid} <= '0;
    end else begin
      if (s_weight_tvalid && s_weight_tready) begin
        weights[weights_in] <= s_weight_tdata;
        weights_in <= weights_in + 1;
        weighted <= &weights_in;
      end
      if (s_input_tvalid && s_input_tready) begin
        image[{y_in, x_in}] <= s_input_tdata;
        x_in <= x_in == 5 ? 0 : x_in + 1;
        if (x_in == 5) y_in <= y_in + 1;
        pictured <= x_in == 5 && y_in == 3;
      end
      if (m_accumulator_tready) m_accumulator_tvalid <= 0;
      if (m_relu_tready) m_relu_tvalid <= 0;
      case (state)
        IDLE: if (weighted && pictured) state <= FLOW;
        FLOW: begin
          beat <= beat + 1;
          if (beat == 17) begin
            beat <= 0;
            state <= SHOW;
          end
        end
        SHOW: if (free) begin
          m_accumulator_tdata <= {right, left};
          m_relu_tdata <= {right < 0 ? 16'd0 : right, left < 0 ? 16'd0 : left};
          {m_accumulator_tvalid, m_relu_tvalid} <= '1;
          {m_accumulator_tlast, m_relu_tlast} <= {2{last}};
          second <= !second;
          if (second) begin
            pair  <= pair == 2 ? 0 : pair + 1;
            if (pair == 2) out <= !out;
            state <= last ? IDLE : FLOW;
            if (last) pictured <= 0;
          end
        end
        default: state <= IDLE;
      endcase
    end
endmodule
