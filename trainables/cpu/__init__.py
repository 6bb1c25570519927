"""Layers and kernels with which small convolutional networks train faster on a CPU."""
