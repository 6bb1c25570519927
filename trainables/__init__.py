"""Trains folds: tasks, data sets, optimizers, cross-validation, and a Ray trainable."""
