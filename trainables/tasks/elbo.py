"""The evidence lower bound and its parts, in nats an image.

For an image x, a posterior q(z | x) = N(μ, σ²) and the prior p(z) = N(0, I):

    log p(x) ≥ ELBO(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))

(Kingma and Welling, 2014) and, with k codes drawn from q, the tighter bound
log p(x) ≥ E[log (1/k) Σᵢ p(x, zᵢ) / q(zᵢ | x)] (Burda et al., 2016).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "active_units",
    "bernoulli_nll",
    "free_bits",
    "gaussian_kl",
    "gaussian_nll",
    "importance_weighted_bound",
    "log_prior_ratio",
    "sample_posterior",
    "squared_error",
]

ACTIVE_VARIANCE = 0.01
"""A unit is active if its posterior mean varies by more than this over the data (Burda et al.,
2016, section 5.2)."""


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1 − log σ²), each dimension for itself: (B, D), (B, D)
    → (B, D)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def squared_error(images: Tensor, reconstruction: Tensor) -> Tensor:
    """The sum of squares over an image: (B, …), (B, …) → (B,)."""
    return F.mse_loss(reconstruction, images, reduction="none").flatten(1).sum(1)


def gaussian_nll(images: Tensor, reconstruction: Tensor, log_variance: Tensor) -> Tensor:
    """−log N(x; x̂, σ²I) with its constant, summed over an image: (B, …), (B, …), () → (B,).

    At σ² = ½ it is the sum of squares plus the constant ½ n log π, with n values an image.
    """
    values = images[0].numel()
    constant = 0.5 * values * (math.log(2 * math.pi) + log_variance)
    return 0.5 * squared_error(images, reconstruction) * torch.exp(-log_variance) + constant


def bernoulli_nll(images: Tensor, reconstruction: Tensor) -> Tensor:
    """−Σ x log x̂ + (1 − x) log (1 − x̂) over an image: (B, …), (B, …) → (B,).

    A likelihood in earnest for pixels that are 0 or 1; for grey ones it is the usual
    cross-entropy.
    """
    return F.binary_cross_entropy(reconstruction, images, reduction="none").flatten(1).sum(1)


def free_bits(kl: Tensor, least: float) -> Tensor:
    """The KL term under free bits: Σ_d max(λ, the batch's mean KL of dimension d) (Kingma et al.,
    2016, eq. 15).

    (B, D) → (): dimensions that cost less than ``least`` nats are not pushed any further down.
    """
    return kl.mean(0).clamp_min(least).sum()


def sample_posterior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """z = μ + σ ε with ε from N(0, I), of torch's global random state: (B, D), (B, D) → (B, D)."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def log_prior_ratio(code: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log p(z) − log q(z | x) of a code; the constants cancel: three times (B, D) → (B,)."""
    standardised = (code - mean).square() * torch.exp(-log_variance)
    return 0.5 * (standardised + log_variance - code.square()).sum(1)


def active_units(variance_of_means: Tensor) -> Tensor:
    """Which units the data move: Var_x(E_q[z_d | x]) > 0.01, (D,) → (D,) bool (Burda et al.,
    2016)."""
    return variance_of_means > ACTIVE_VARIANCE


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log (1/k) Σᵢ wᵢ from the log-weights log p(x, zᵢ) − log q(zᵢ | x): (k, B) → (B,)."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
