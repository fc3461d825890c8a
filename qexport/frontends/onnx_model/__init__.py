"""ONNX files: QDQ, QOperator and QONNX graphs become layers of integers, each with what follows it, without running.

Others use `reading.read_model`, `walk.walk` (the layers, in the order of computation) and `capture` (with inputs).
"""
