"""What is trained: tasks, data sets, folds, optimizers, the training loop, cross-validation, and a
thin Ray adapter."""
