"""Training: one fold, cross-validation along a ladder, splits, optimizers, seeds."""
