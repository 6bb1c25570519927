"""The variational autoencoder as a task: trials are compared by the ELBO at β = 1, whatever β they
trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foldrace.trainables.tasks.autoencoder import (
    NETWORK_PARAMETERS,
    check_sample_shape,
    dropout_rates,
    network_arguments,
)
from foldrace.trainables.tasks.parameters import Parameter
from foldrace.trainables.tasks.protocol import Means, Params, SampleShape, numbered

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["VariationalTask"]


def _beta(params: Params, epoch: float | None) -> float:
    """β in training at ``epoch``; its whole value in evaluation."""
    beta, warm_up = float(params["beta"] or 0.0), float(params["warm_up"] or 0.0)
    return beta if epoch is None or epoch >= warm_up else beta * epoch / warm_up


class VariationalTask:
    """Minimises reconstruction + β·KL, in nats an image, means over the batch.

    Figures, means over images: ``reconstruction`` (the negative log-likelihood of a sampled code's
    reconstruction), ``kl``, ``elbo`` and its negative, ``squared_error`` (the sum of squares,
    sampled code), ``mse`` (a mean over pixels; of the posterior's mean in evaluation, of the
    sampled code in training), and in evaluation ``kl_0``, ``kl_1``, … a dimension and
    ``active_units``.
    """

    objective = "negative_elbo"
    objectives = {  # noqa: RUF012 (read once, never written)
        "negative_elbo": ("likelihood",),
        "mse": (),
        "loss": ("likelihood", "beta", "warm_up", "free_bits"),
    }
    prior = "normal"
    parameters = {  # noqa: RUF012
        **NETWORK_PARAMETERS,
        "latent_dim": Parameter(8, "numbers in the code", low=1),
        "dropout": Parameter(0.0, "factor on the study's four dropout rates", low=0.0, below=2.0),
        "likelihood": Parameter(
            "gaussian", "of a pixel, given the code", choices=("gaussian", "bernoulli")
        ),
        "variance": Parameter(
            0.5,
            "σ² of the Gaussian likelihood; at 0.5 its negative logarithm is the sum of squares"
            " and a constant",
            above=0.0,
        ),
        "learned_variance": Parameter(False, "train σ² with the weights, from `variance` on"),
        "beta": Parameter(1.0, "weight of the KL term in training", low=0.0),
        "warm_up": Parameter(
            0.0, "epochs over which β rises from 0 to its value, step by step", low=0.0
        ),
        "free_bits": Parameter(
            0.0, "nats a dimension that the KL term lets pass for nothing", low=0.0
        ),
    }

    def check(self, params: Params, sample_shape: SampleShape) -> None:
        """Raises: InputError for an image shape or dropout rates that it cannot take."""
        check_sample_shape(sample_shape)
        dropout_rates(params)

    def build(self, params: Params, sample_shape: SampleShape) -> torch.nn.Module:
        """The network for ``sample_shape`` (channels, height, width). Raises: InputError."""
        from foldrace.trainables.tasks.autoencoder_network import Decoder, Encoder
        from foldrace.trainables.tasks.variational_network import VariationalAutoencoder

        self.check(params, sample_shape)
        rates, common = dropout_rates(params), network_arguments(params)
        latent_dim = int(params["latent_dim"] or 1)
        return VariationalAutoencoder(
            Encoder(sample_shape, 2 * latent_dim, dropout=rates[:2], **common),
            Decoder(sample_shape, latent_dim, dropout=rates[2:], **common),
            variance=float(params["variance"] or 0.5),
            learned=bool(params["learned_variance"]),
        )

    def losses(
        self, model: torch.nn.Module, images: Tensor, params: Params, epoch: float | None = None
    ) -> dict[str, Tensor]:
        """The terms of a batch; ``epoch`` (trained so far, with its fraction) moves β while it
        warms up."""
        from torch.nn import functional as F

        from foldrace.trainables.tasks import elbo

        vae: Any = model
        mean, log_variance = vae.posterior(images)
        reconstruction = vae.decoder(elbo.sample_posterior(mean, log_variance))
        nll = self._nll(vae, images, reconstruction, params)
        kl = elbo.gaussian_kl(mean, log_variance)
        penalty = kl.sum(1)
        if params["free_bits"]:
            penalty = elbo.free_bits(kl, float(params["free_bits"])).expand(len(images))
        squared = elbo.squared_error(images, reconstruction).detach()
        terms = {
            "loss": nll + _beta(params, epoch) * penalty,
            "negative_elbo": (nll + kl.sum(1)).detach(),
            "reconstruction": nll.detach(),
            "kl": kl.detach().sum(1),
            "squared_error": squared,
        }
        if model.training:
            return {**terms, "mse": squared / images[0].numel()}
        from_mean = F.mse_loss(vae.decoder(mean), images, reduction="none").flatten(1).mean(1)
        return {
            **terms,
            "mse": from_mean,
            "kl_each": kl,
            "code": mean,
            "code_squared": mean.square(),
        }

    def summarise(self, means: Means, params: Params) -> dict[str, float]:
        """With the ELBO itself, the KL a dimension, and the active units, from the code's first
        two moments."""
        import torch

        from foldrace.trainables.tasks.elbo import active_units

        scalars = {name: value for name, value in means.items() if isinstance(value, float)}
        scalars["elbo"] = -scalars["negative_elbo"]
        if "code" in means:
            code, squared = (
                torch.tensor(means[name], dtype=torch.float64) for name in ("code", "code_squared")
            )
            scalars["active_units"] = float(active_units(squared - code.square()).sum())
            scalars |= numbered("kl", means["kl_each"])
        return scalars

    def encode(self, model: torch.nn.Module, images: Tensor, params: Params) -> Tensor:
        """The posterior's means: (B, C, H, W) → (B, D)."""
        vae: Any = model
        mean: Tensor = vae.posterior(images)[0]
        return mean

    def decode(self, model: torch.nn.Module, codes: Tensor, params: Params) -> Tensor:
        """(B, D) → (B, C, H, W)."""
        vae: Any = model
        images: Tensor = vae.decoder(codes)
        return images

    def bound(
        self, model: torch.nn.Module, images: Tensor, params: Params, samples: int
    ) -> Tensor:
        """The importance-weighted bound on log p(x) with that many codes an image (Burda et al.,
        2016): (B,)."""
        import torch

        from foldrace.trainables.tasks import elbo

        vae: Any = model
        mean, log_variance = vae.posterior(images)
        log_weights = []
        for _ in range(samples):
            code = elbo.sample_posterior(mean, log_variance)
            nll = self._nll(vae, images, vae.decoder(code), params)
            log_weights.append(elbo.log_prior_ratio(code, mean, log_variance) - nll)
        return elbo.importance_weighted_bound(torch.stack(log_weights))

    def _nll(self, vae: Any, images: Tensor, reconstruction: Tensor, params: Params) -> Tensor:
        from foldrace.trainables.tasks import elbo

        if params["likelihood"] == "bernoulli":
            return elbo.bernoulli_nll(images, reconstruction)
        return elbo.gaussian_nll(images, reconstruction, vae.log_variance)

    def reconstruct(self, model: torch.nn.Module, images: Tensor, params: Params) -> Tensor:
        """(B, C, H, W) in [0, 1] → the same shape, through the posterior's mean."""
        reconstruction: Tensor = model(images)
        return reconstruction
