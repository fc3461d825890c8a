"""The PyTorch half of qexport: networks, training and capture. Nothing outside this folder imports torch."""
