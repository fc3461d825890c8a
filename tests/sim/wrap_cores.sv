// What a core of 3x3 taps does whose weights and pixels are written, which says `finished`, and whose sums are read.
module sums_in_memory #(
  parameter int CIN = 4, COUT = 4, H = 2, W = 2, K = 1, W_BITS = 8, X_BITS = 8
) (
  input  logic               clk_i,
  input  logic               rst_ni,
  input  logic               weight_we_i,
  input  logic [15:0]        weight_addr_i,  // ((co*CIN + ci)*K + ky)*K + kx
  input  logic [W_BITS-1:0]  weight_data_i,
  input  logic               pixel_we_i,
  input  logic [15:0]        pixel_addr_i,   // (ci*H + y)*W + x
  input  logic [X_BITS-1:0]  pixel_data_i,
  input  logic               start_i,
  output logic               finished_o,
  output logic               unused_irq_o,
  input  logic [15:0]        rd_addr_i,      // (co*H + y)*W + x
  output logic signed [31:0] rd_data_o
);
  logic signed [W_BITS-1:0] weights[CIN*COUT*K*K];
  logic [X_BITS-1:0] pixels[CIN*H*W];
  logic signed [31:0] sums[COUT*H*W];
  logic busy;
  int at, sum, py, px;
  assign unused_irq_o = busy;
  always @(posedge clk_i) begin
    rd_data_o <= sums[rd_addr_i];
    if (weight_we_i) weights[weight_addr_i] <= weight_data_i;
    if (pixel_we_i) pixels[pixel_addr_i] <= pixel_data_i;
    if (!rst_ni) begin
      busy <= 0;
      finished_o <= 0;
    end else if (start_i) begin
      busy <= 1;
      at <= 0;
      finished_o <= 0;
    end else if (busy) begin  // a sum a clock
      sum = 0;
      for (int ci = 0; ci < CIN; ci++)
        for (int ky = 0; ky < K; ky++)
          for (int kx = 0; kx < K; kx++) begin
            py = at / W % H + ky - K / 2;
            px = at % W + kx - K / 2;
            if (py >= 0 && py < H && px >= 0 && px < W)
              sum += weights[((at / (H * W) * CIN + ci) * K + ky) * K + kx] * int'(pixels[(ci * H + py) * W + px]);
          end
      sums[at] <= sum;
      at <= at + 1;
      if (at == COUT * H * W - 1) {busy, finished_o} <= 2'b01;
    end
  end
endmodule
