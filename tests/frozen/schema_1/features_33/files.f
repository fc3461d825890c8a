features_33_pkg.sv
tb_features_33.sv
dut.sv
