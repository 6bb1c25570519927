"""The network of the variational autoencoder: the autoencoder's layers and a variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["VariationalAutoencoder"]

# Beyond these bounds exp() exceeds what float32 can sum over an image.
_LOG_VARIANCE = (-20.0, 10.0)


class VariationalAutoencoder(nn.Module):
    """An encoder that gives the posterior q(z | x) = N(μ, σ²), and a decoder.

    Args:
        encoder: (B, C, H, W) → (B, 2·D): D means, then D log-variances.
        decoder: (B, D) → (B, C, H, W), the likelihood's mean.
        variance: σ² > 0 of the Gaussian likelihood; the initial value if it is learned.
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
        """(B, C, H, W) → mean and log-variance of q(z | x), each (B, D)."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct from the posterior's mean: (B, C, H, W) → (B, C, H, W)."""
        reconstruction: Tensor = self.decoder(self.posterior(images)[0])
        return reconstruction
