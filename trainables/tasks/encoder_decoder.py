"""What the built-in autoencoders share: their encoder and decoder, and the parameters of these."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foldrace.errors import InputError
from foldrace.trainables.tasks.parameters import Parameter
from foldrace.trainables.tasks.protocol import Params, SampleShape

if TYPE_CHECKING:
    import torch

    from foldrace.trainables.tasks.autoencoder_network import Decoder, Encoder

__all__ = [
    "ACTIVATION_NAMES",
    "NETWORK_PARAMETERS",
    "REFERENCE_DROPOUT",
    "EncoderDecoderTask",
    "dropout_rates",
]

REFERENCE_DROPOUT = {
    "dropout_encoder_1": 0.5,
    "dropout_encoder_2": 0.5,
    "dropout_decoder_1": 0.2,
    "dropout_decoder_2": 0.1,
}
"""The four dropout rates of the reference study, in the order of the layers."""

ACTIVATION_NAMES = ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh")
_SMALLEST_SIDE = 8

NETWORK_PARAMETERS = {
    "width": Parameter(
        8, "channels of the first convolution; the others have 2 and 4 times as many", low=1
    ),
    "hidden": Parameter(128, "units of the two hidden linear layers", low=1),
    "activation": Parameter("relu", "activation function", choices=ACTIVATION_NAMES),
    **{
        name: Parameter(
            None, f"dropout rate, instead of the reference study's {rate:g}", low=0.0, below=1.0
        )
        for name, rate in REFERENCE_DROPOUT.items()
    },
}
"""The parameters of the layers of `Encoder` and `Decoder`."""


def dropout_rates(params: Params) -> list[float]:
    """The four dropout rates, in the order of the layers.

    A rate is the parameter of its name if that is set, else the reference study's rate times the
    factor ``dropout``.

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
        rule = f"makes a dropout rate {max(rates):g}; a rate must be below 1"
        raise InputError("dropout", params["dropout"], rule)
    return rates


class EncoderDecoderTask:
    """Base class of the built-in tasks: an `Encoder`, a code, and a `Decoder`."""

    def check(self, params: Params, sample_shape: SampleShape) -> None:
        """Refuse images that three strided convolutions reduce to nothing, and wrong dropout.

        Raises:
            InputError: not (channels, height, width), a side below 8 pixels, or a dropout rate
                of 1 or more.
        """
        if len(sample_shape) != 3 or min(sample_shape) < 1:
            rule = "images must have the shape (channels, height, width)"
            hint = "call an array of grey images images, and they have one channel"
            raise InputError("dataset", sample_shape, rule, hint)
        if min(sample_shape[1:]) < _SMALLEST_SIDE:
            shown = "×".join(str(n) for n in sample_shape)
            rule = (
                "the autoencoder halves an image three times and needs at least"
                f" {_SMALLEST_SIDE}×{_SMALLEST_SIDE} pixels"
            )
            raise InputError("dataset", shown, rule, "set dataset.size to enlarge the images")
        dropout_rates(params)

    def networks(
        self, params: Params, sample_shape: SampleShape, *, outputs_per_code: int = 1
    ) -> tuple[Encoder, Decoder]:
        """An encoder with ``outputs_per_code`` outputs for each number of the code, and a decoder.

        Raises:
            InputError: see `check`.
        """
        from foldrace.trainables.tasks.autoencoder_network import ACTIVATIONS, Decoder, Encoder

        self.check(params, sample_shape)
        rates = dropout_rates(params)
        common: dict[str, Any] = {
            "width": params["width"],
            "hidden": params["hidden"],
            "activation": ACTIVATIONS[str(params["activation"])],
        }
        latent_dim = int(params["latent_dim"] or 1)
        return (
            Encoder(sample_shape, outputs_per_code * latent_dim, dropout=rates[:2], **common),
            Decoder(sample_shape, latent_dim, dropout=rates[2:], **common),
        )

    def reconstruct(
        self, model: torch.nn.Module, images: torch.Tensor, params: Params
    ) -> torch.Tensor:
        """Encode and decode: (B, C, H, W) in [0, 1] → the same shape."""
        reconstruction: torch.Tensor = model(images)
        return reconstruction

    def decode(self, model: torch.nn.Module, codes: torch.Tensor, params: Params) -> torch.Tensor:
        """(B, latent_dim) → (B, C, H, W) in [0, 1]."""
        network: Any = model
        images: torch.Tensor = network.decoder(codes)
        return images
