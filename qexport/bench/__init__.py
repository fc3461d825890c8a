"""Text that is generated for simulators: benches, stubs, packages, reference RTL; and the interface of a design.

Each of sv, stub, cocotb_bench and rtl renders the folder of `templates/` that bears its name (cocotb_bench: cocotb).

Imports sets and below.
"""
