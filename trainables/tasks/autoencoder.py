"""The autoencoder: its parameters, its loss, and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foldrace.trainables.tasks.encoder_decoder import NETWORK_PARAMETERS, EncoderDecoderTask
from foldrace.trainables.tasks.parameters import Parameter
from foldrace.trainables.tasks.protocol import Params, SampleShape

if TYPE_CHECKING:
    import torch

__all__ = ["AutoencoderTask"]


class AutoencoderTask(EncoderDecoderTask):
    """Reconstructs images from a short code.

    The objective is ``mse``, the mean squared error per pixel.
    """

    objective = "mse"
    objectives = {"mse": (), "loss": ("loss",)}  # noqa: RUF012 (never changed)
    parameters = {  # noqa: RUF012 (never changed)
        "latent_dim": Parameter(16, "length of the code", low=1),
        **NETWORK_PARAMETERS,
        "loss": Parameter(
            "mse", "the loss to minimise, a mean over pixels", choices=("mse", "bce", "l1")
        ),
        "dropout": Parameter(
            1.0, "factor on the reference study's four dropout rates", low=0.0, below=2.0
        ),
    }

    def build(self, params: Params, sample_shape: SampleShape) -> torch.nn.Module:
        """The reference study's network for images of (channels, height, width).

        Raises:
            InputError: see `EncoderDecoderTask.check`.
        """
        from foldrace.trainables.tasks.autoencoder_network import Autoencoder

        return Autoencoder(*self.networks(params, sample_shape))

    def losses(
        self, model: torch.nn.Module, images: torch.Tensor, params: Params
    ) -> dict[str, torch.Tensor]:
        """``loss`` (the chosen loss) and ``mse``, each (B,): means over pixels and channels."""
        from torch.nn import functional as F

        from foldrace.trainables.tasks.elbo import cross_entropy

        reconstruction = model(images)
        mse = F.mse_loss(reconstruction, images, reduction="none").flatten(1).mean(1)
        if params["loss"] == "mse":
            return {"loss": mse, "mse": mse}
        if params["loss"] == "bce":
            each = cross_entropy(images, reconstruction)
        else:
            each = F.l1_loss(reconstruction, images, reduction="none")
        return {"loss": each.flatten(1).mean(1), "mse": mse.detach()}

    def encode(self, model: torch.nn.Module, images: torch.Tensor, params: Params) -> torch.Tensor:
        """(B, C, H, W) → the codes, (B, latent_dim)."""
        network: Any = model
        codes: torch.Tensor = network.encoder(images)
        return codes
