"""Any PyTorch module: one forward pass is watched, and each convolution and linear layer becomes a capture.

Others use `capture.capture_module` and, for the command line, `loading`.
"""
