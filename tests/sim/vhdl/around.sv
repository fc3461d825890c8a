// Verilog around the entity conv, with the ports of the bench.
module around (
  input clk, rst, s_weight_tvalid, s_weight_tlast, s_input_tvalid, s_input_tlast, m_accumulator_tready,
  input [31:0] s_weight_tdata, s_input_tdata,
  output s_weight_tready, s_input_tready, m_accumulator_tvalid, m_accumulator_tlast,
  output [127:0] m_accumulator_tdata
);
  conv core (.rst_n(!rst), .*);
endmodule
