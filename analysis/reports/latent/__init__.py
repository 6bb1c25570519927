"""The report on a latent space."""
