"""Text that is generated for simulators: benches, stubs, packages, reference RTL; and the interface of a design.

Imports sets and below.
"""
