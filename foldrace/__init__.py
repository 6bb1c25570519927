"""Cross-validated hyperparameter search of PyTorch models at cluster scale."""
