"""The autoencoder as a task: what can be tuned, what is minimised, what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foldrace.errors import InputError
from foldrace.trainables.tasks.parameters import Parameter
from foldrace.trainables.tasks.protocol import Params, SampleShape

if TYPE_CHECKING:
    import torch

__all__ = [
    "NETWORK_PARAMETERS",
    "REFERENCE_DROPOUT",
    "AutoencoderTask",
    "check_sample_shape",
    "dropout_rates",
    "network_arguments",
]

REFERENCE_DROPOUT = {
    "dropout_encoder_1": 0.5,
    "dropout_encoder_2": 0.5,
    "dropout_decoder_1": 0.2,
    "dropout_decoder_2": 0.1,
}
"""The study's four rates, in the order in which an image meets them."""

ACTIVATION_NAMES = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh")
_SMALLEST_SIDE = 8

NETWORK_PARAMETERS = {
    "width": Parameter(
        8, "channels of the first convolution; the others have 2 and 4 times as many", low=1
    ),
    "hidden": Parameter(128, "units of the two hidden linear layers", low=1),
    "activation": Parameter("relu", "nonlinearity", choices=ACTIVATION_NAMES),
    **{
        name: Parameter(None, f"dropout rate in place of the study's {rate:g}", low=0.0, below=1.0)
        for name, rate in REFERENCE_DROPOUT.items()
    },
}
"""What the encoder's and decoder's layers are, in any task that is built of them."""


def dropout_rates(params: Params) -> list[float]:
    """The four rates: each one's own value if given, else the study's times the common factor
    ``dropout``.

    Raises:
        InputError: a rate of 1 or more.
    """
    rates = []
    for name, reference in REFERENCE_DROPOUT.items():
        own = params.get(name)
        rates.append(
            float(own) if own is not None else reference * float(params["dropout"] or 0.0)
        )
    if max(rates) >= 1.0:
        raise InputError(
            "dropout", params["dropout"], f"brings a rate to {max(rates):g}; rates stay below 1"
        )
    return rates


def network_arguments(params: Params) -> dict[str, Any]:
    """The keyword arguments, dropout apart, of `Encoder` and `Decoder`."""
    from foldrace.trainables.tasks.autoencoder_network import ACTIVATIONS

    activation = ACTIVATIONS[str(params["activation"])]
    return {"width": params["width"], "hidden": params["hidden"], "activation": activation}


def check_sample_shape(sample_shape: SampleShape) -> None:
    """Refuses images that three halvings leave nothing of. Raises: InputError."""
    if len(sample_shape) != 3 or min(sample_shape) < 1:
        raise InputError(
            "dataset", sample_shape, "images must have the shape (channels, height, width)"
        )
    if min(sample_shape[1:]) < _SMALLEST_SIDE:
        shown = "×".join(str(n) for n in sample_shape)
        raise InputError(
            "dataset",
            shown,
            "the autoencoder halves an image three times and needs at least"
            f" {_SMALLEST_SIDE}×{_SMALLEST_SIDE} pixels",
            "set dataset.size to enlarge the images",
        )


class AutoencoderTask:
    """Reconstructs images through a narrow code; trials are compared by the mean squared error a
    pixel."""

    objective = "mse"
    objectives = {"mse": (), "loss": ("loss",)}  # noqa: RUF012 (read once, never written)
    parameters = {  # noqa: RUF012 (read once, never written)
        "latent_dim": Parameter(16, "numbers in the code", low=1),
        **NETWORK_PARAMETERS,
        "loss": Parameter(
            "mse", "what is minimised, a mean over pixels", choices=("mse", "bce", "l1")
        ),
        "dropout": Parameter(1.0, "factor on the study's four dropout rates", low=0.0, below=2.0),
    }

    def check(self, params: Params, sample_shape: SampleShape) -> None:
        """Raises: InputError for an image shape or dropout rates that it cannot take."""
        check_sample_shape(sample_shape)
        dropout_rates(params)

    def build(self, params: Params, sample_shape: SampleShape) -> torch.nn.Module:
        """The study's network for ``sample_shape`` (channels, height, width). Raises:
        InputError."""
        from foldrace.trainables.tasks.autoencoder_network import Autoencoder, Decoder, Encoder

        self.check(params, sample_shape)
        rates, common = dropout_rates(params), network_arguments(params)
        latent_dim = int(params["latent_dim"] or 1)
        return Autoencoder(
            Encoder(sample_shape, latent_dim, dropout=rates[:2], **common),
            Decoder(sample_shape, latent_dim, dropout=rates[2:], **common),
        )

    def losses(
        self, model: torch.nn.Module, images: torch.Tensor, params: Params
    ) -> dict[str, torch.Tensor]:
        """``loss`` (the chosen criterion) and ``mse``, each (B,), a mean over the image's pixels
        and channels."""
        from torch.nn import functional as F

        reconstruction = model(images)
        mse = F.mse_loss(reconstruction, images, reduction="none").flatten(1).mean(1)
        if params["loss"] == "mse":
            return {"loss": mse, "mse": mse}
        criterion = F.binary_cross_entropy if params["loss"] == "bce" else F.l1_loss
        loss = criterion(reconstruction, images, reduction="none").flatten(1).mean(1)
        return {"loss": loss, "mse": mse.detach()}

    def reconstruct(
        self, model: torch.nn.Module, images: torch.Tensor, params: Params
    ) -> torch.Tensor:
        """(B, C, H, W) in [0, 1] → the same shape."""
        reconstruction: torch.Tensor = model(images)
        return reconstruction

    def encode(self, model: torch.nn.Module, images: torch.Tensor, params: Params) -> torch.Tensor:
        """(B, C, H, W) → the codes, (B, latent_dim)."""
        network: Any = model
        codes: torch.Tensor = network.encoder(images)
        return codes

    def decode(self, model: torch.nn.Module, codes: torch.Tensor, params: Params) -> torch.Tensor:
        """(B, latent_dim) → (B, C, H, W) in [0, 1]."""
        network: Any = model
        images: torch.Tensor = network.decoder(codes)
        return images
