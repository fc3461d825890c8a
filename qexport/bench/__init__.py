"""Text that is generated for simulators: benches, stubs, packages, reference RTL; and the interface of a design.

Each of sv, stub, cocotb_bench and rtl renders a folder of `templates/`, the one that its name begins with.
Imports sets and below.
"""
