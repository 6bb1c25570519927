"""The report on variational autoencoders."""
