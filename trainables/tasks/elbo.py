"""The evidence lower bound (ELBO) and its terms, in nats per image.

For an image x, a posterior q(z | x) = N(μ, σ²) and the prior p(z) = N(0, I):

    log p(x) ≥ ELBO(x) = E_q[log p(x | z)] − KL(q(z | x) ‖ p(z))

(Kingma and Welling, 2014, eq. 3). With k codes drawn from q there is a tighter bound,
log p(x) ≥ E[log (1/k) Σᵢ p(x, zᵢ) / q(zᵢ | x)] (Burda et al., 2016, eq. 8).

Shapes: B images, D dimensions of the code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "active_units",
    "bernoulli_nll",
    "cross_entropy",
    "free_bits",
    "gaussian_kl",
    "gaussian_nll",
    "importance_weighted_bound",
    "log_prior_ratio",
    "sample_posterior",
    "squared_error",
]

ACTIVE_VARIANCE = 0.01
"""Variance of a unit's posterior mean over the data above which it counts as active.

Burda et al., 2016, section 5.2.
"""


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² − 1 − log σ²) per dimension: (B, D), (B, D) → (B, D).

    >>> gaussian_kl(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2)).tolist()
    [[0.0, 2.0]]
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)


def squared_error(images: Tensor, reconstruction: Tensor) -> Tensor:
    """The sum of squared errors over an image: (B, …), (B, …) → (B,)."""
    return F.mse_loss(reconstruction, images, reduction="none").flatten(1).sum(1)


def gaussian_nll(images: Tensor, reconstruction: Tensor, log_variance: Tensor) -> Tensor:
    """−log N(x; x̂, σ²I), with its constant, summed over an image: (B, …), (B, …), () → (B,).

    At σ² = ½ this is the sum of squared errors plus the constant ½ n log π for n values per image.
    """
    values = images[0].numel()
    constant = 0.5 * values * (math.log(2 * math.pi) + log_variance)
    return 0.5 * squared_error(images, reconstruction) * torch.exp(-log_variance) + constant


def bernoulli_nll(images: Tensor, reconstruction: Tensor) -> Tensor:
    """−Σ x log x̂ + (1 − x) log (1 − x̂) over an image: (B, …), (B, …) → (B,).

    It is a likelihood only for pixels that are 0 or 1; for grey pixels it is the cross-entropy
    that is commonly used instead.
    """
    return cross_entropy(images, reconstruction).flatten(1).sum(1)


def cross_entropy(images: Tensor, reconstruction: Tensor) -> Tensor:
    """−x log x̂ − (1 − x) log (1 − x̂) per pixel: (B, …), (B, …) → (B, …), float32 or float64.

    It is computed outside `torch.autocast`, within which torch refuses it on a GPU.
    """
    exact = torch.promote_types(reconstruction.dtype, torch.float32)
    with torch.autocast(images.device.type, enabled=False):
        return F.binary_cross_entropy(reconstruction.to(exact), images.to(exact), reduction="none")


def free_bits(kl: Tensor, least: float) -> Tensor:
    """The KL term with free bits, Σ_d max(λ, mean KL of dimension d over the batch): (B, D) → ().

    A dimension whose mean KL is below λ = ``least`` nats gets no gradient (Kingma et al., 2016,
    eq. 15).

    >>> free_bits(torch.tensor([[0.1, 2.0]]), least=0.5).item()
    2.5
    """
    return kl.mean(0).clamp_min(least).sum()


def sample_posterior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """z = μ + σ ε, ε from N(0, I) and torch's global random state: (B, D), (B, D) → (B, D)."""
    return mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)


def log_prior_ratio(code: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log p(z) − log q(z | x); the constants cancel: (B, D), (B, D), (B, D) → (B,)."""
    standardised = (code - mean).square() * torch.exp(-log_variance)
    return 0.5 * (standardised + log_variance - code.square()).sum(1)


def active_units(variance_of_means: Tensor) -> Tensor:
    """Which units are active, Var_x(E_q[z_d | x]) > 0.01: (D,) → (D,) bool."""
    return variance_of_means > ACTIVE_VARIANCE


def importance_weighted_bound(log_weights: Tensor) -> Tensor:
    """log (1/k) Σᵢ wᵢ from the log-weights log p(x, zᵢ) − log q(zᵢ | x): (k, B) → (B,)."""
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))
