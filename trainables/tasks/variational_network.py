"""The variational autoencoder's network: the autoencoder's trunk with two heads, and a
likelihood."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["VariationalAutoencoder"]

_LOG_VARIANCE = (-20.0, 10.0)


class VariationalAutoencoder(nn.Module):
    """An encoder of twice the code's size (means, then log-variances), and a decoder.

    Args:
        encoder: (B, C, H, W) → (B, 2·D).
        decoder: (B, D) → (B, C, H, W), the likelihood's mean.
        variance: of the Gaussian likelihood, σ² > 0; what it starts from if it is learned.
        learned: train σ², one number for all pixels, with the weights (Rybkin et al., 2021).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        variance: float = 0.5,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.log_variance: Tensor
        start = torch.tensor(math.log(variance))
        if learned:
            self.log_variance = nn.Parameter(start)
        else:
            self.register_buffer("log_variance", start)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each (B, D)."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        return mean, log_variance.clamp(
            *_LOG_VARIANCE
        )  # beyond, exp() leaves what float32 can add up

    def forward(self, images: Tensor) -> Tensor:
        """The reconstruction from the posterior's mean: (B, C, H, W) → (B, C, H, W)."""
        reconstruction: Tensor = self.decoder(self.posterior(images)[0])
        return reconstruction
