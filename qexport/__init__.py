"""qexport: test vectors of quantized PyTorch layers that an RTL engineer can trust."""

__version__ = "0.2.0.dev0"
