"""The report on a comparison of optimizers."""
