"""Training: a fold's loop, cross-validation along a ladder, splits, optimizers, seeds."""
