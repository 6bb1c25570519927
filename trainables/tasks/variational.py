"""The variational autoencoder: its parameters, its loss, and its metrics.

Trials are compared by the ELBO at β = 1, whatever β they trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foldrace.trainables.tasks.encoder_decoder import NETWORK_PARAMETERS, EncoderDecoderTask
from foldrace.trainables.tasks.parameters import Parameter
from foldrace.trainables.tasks.protocol import Means, Params, SampleShape, numbered

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["VariationalTask"]


def _beta(params: Params, epoch: float | None) -> float:
    """β at ``epoch`` of the training, while it warms up; its final value in evaluation."""
    beta, warm_up = float(params["beta"] or 0.0), float(params["warm_up"] or 0.0)
    return beta if epoch is None or epoch >= warm_up else beta * epoch / warm_up


class VariationalTask(EncoderDecoderTask):
    """Minimises the negative log-likelihood plus β times the KL divergence, in nats per image.

    Metrics, all means over images:

    * ``reconstruction``: negative log-likelihood of the image given a sampled code.
    * ``kl``; ``elbo`` and ``negative_elbo``, both at β = 1.
    * ``squared_error``: sum of squares, from a sampled code.
    * ``mse``: per pixel; from the posterior's mean in evaluation, from a sampled code in training.
    * In evaluation also ``kl_0``, ``kl_1``, … per dimension of the code, and ``active_units``.
    """

    objective = "negative_elbo"
    objectives = {  # noqa: RUF012 (never changed)
        "negative_elbo": ("likelihood",),
        "mse": (),
        "loss": ("likelihood", "beta", "warm_up", "free_bits"),
    }
    prior = "normal"
    parameters = {  # noqa: RUF012 (never changed)
        **NETWORK_PARAMETERS,
        "latent_dim": Parameter(8, "length of the code", low=1),
        "dropout": Parameter(
            0.0, "factor on the reference study's four dropout rates", low=0.0, below=2.0
        ),
        "likelihood": Parameter(
            "gaussian", "likelihood of a pixel, given the code", choices=("gaussian", "bernoulli")
        ),
        "variance": Parameter(
            0.5,
            "σ² of the Gaussian likelihood; at 0.5 its negative logarithm is the sum of squares"
            " plus a constant",
            above=0.0,
        ),
        "learned_variance": Parameter(False, "train σ² with the weights, starting at `variance`"),
        "beta": Parameter(1.0, "weight of the KL term in training", low=0.0),
        "warm_up": Parameter(
            0.0, "epochs over which β rises linearly from 0 to its value", low=0.0
        ),
        "free_bits": Parameter(
            0.0, "nats per dimension below which the KL term is not reduced", low=0.0
        ),
    }

    def build(self, params: Params, sample_shape: SampleShape) -> torch.nn.Module:
        """The network for images of (channels, height, width).

        Raises:
            InputError: see `EncoderDecoderTask.check`.
        """
        from foldrace.trainables.tasks.variational_network import VariationalAutoencoder

        return VariationalAutoencoder(
            *self.networks(params, sample_shape, outputs_per_code=2),
            variance=float(params["variance"] or 0.5),
            learned=bool(params["learned_variance"]),
        )

    def losses(
        self, model: torch.nn.Module, images: Tensor, params: Params, epoch: float | None = None
    ) -> dict[str, Tensor]:
        """The terms of a batch, (B,), and in evaluation some per dimension of the code, (B, D).

        Args:
            images: (B, C, H, W) in [0, 1].
            epoch: epochs trained so far, with their fraction, for the warm-up of β.
        """
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
        """Adds ``elbo``, the KL per dimension and ``active_units`` to the means of the terms."""
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
        """(B, C, H, W) → the posterior's means, (B, latent_dim)."""
        vae: Any = model
        mean: Tensor = vae.posterior(images)[0]
        return mean

    def bound(
        self, model: torch.nn.Module, images: Tensor, params: Params, samples: int
    ) -> Tensor:
        """The importance-weighted bound on log p(x), (B,), in nats (Burda et al., 2016).

        Args:
            samples: codes drawn per image; the bound is tighter the more there are.
        """
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
