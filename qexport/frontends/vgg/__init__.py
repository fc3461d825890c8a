"""The VGG family for CIFAR-10: quantizers, network, checkpoints, pictures, captures."""
