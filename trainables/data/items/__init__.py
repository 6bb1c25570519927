"""Map-style data sets of PyTorch: their items as fields, in memory or read when needed."""
