"""The convolutional autoencoder of the reference study, for any image of at least 8×8 pixels.

With images of (1, 28, 28), width 8 and hidden 128 it is exactly the study's network. Other shapes
keep its layers: three 3×3 convolutions of stride 2 in the encoder, and in the decoder three
transposed convolutions whose padding restores each spatial size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from foldrace.trainables.cpu import layers
from foldrace.trainables.tasks.protocol import SampleShape

__all__ = ["ACTIVATIONS", "Autoencoder", "Decoder", "Encoder", "spatial_sizes"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def spatial_sizes(size: int) -> tuple[int, int, int, int]:
    """The length of a side before and after each of the three convolutions.

    The first two are padded by 1. The last is padded only where its input is smaller than its
    kernel.

    >>> spatial_sizes(28), spatial_sizes(8)
    ((28, 14, 7, 3), (8, 4, 2, 1))
    """
    first = (size - 1) // 2 + 1
    second = (first - 1) // 2 + 1
    third = (second - 3) // 2 + 1 if second >= 3 else (second - 1) // 2 + 1
    return size, first, second, third


def _restoring(small: tuple[int, int], large: tuple[int, int]) -> dict[str, Any]:
    """The arguments of a 3×3 transposed convolution that turns images of ``small`` into ``large``.

    Both sizes are (rows, columns).
    """
    # after = 2·before + 1 − 2·padding + output_padding, where both paddings are 0 or 1
    sides = tuple(zip(small, large, strict=True))
    padding = tuple(0 if after > 2 * before else 1 for before, after in sides)
    extra = tuple(
        after - 2 * before - 1 + 2 * pad
        for (before, after), pad in zip(sides, padding, strict=True)
    )
    return {"stride": 2, "padding": padding, "output_padding": extra}


class Encoder(layers.Sequential):
    """(B, C, H, W) in [0, 1] → (B, outputs).

    Args:
        width: channels of the first convolution.
        hidden: units of the hidden linear layer.
        dropout: the two dropout rates.
    """

    def __init__(
        self,
        sample_shape: SampleShape,
        outputs: int,
        *,
        width: int = 8,
        hidden: int = 128,
        dropout: Sequence[float] = (0.5, 0.5),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        channels, height, length = sample_shape
        rows, columns = spatial_sizes(height), spatial_sizes(length)
        last = (0 if rows[2] >= 3 else 1, 0 if columns[2] >= 3 else 1)
        super().__init__(
            layers.Conv2d(channels, width, 3, stride=2, padding=1),
            activation(),
            layers.Dropout(dropout[0]),
            layers.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            layers.BatchNorm2d(2 * width),
            activation(),
            layers.Dropout(dropout[1]),
            layers.Conv2d(2 * width, 4 * width, 3, stride=2, padding=last),
            activation(),
            nn.Flatten(),
            nn.Linear(4 * width * rows[3] * columns[3], hidden),
            activation(),
            nn.Linear(hidden, outputs),
        )


class Decoder(layers.Sequential):
    """(B, latent_dim) → (B, C, H, W) in [0, 1]. The arguments are those of `Encoder`."""

    def __init__(
        self,
        sample_shape: SampleShape,
        latent_dim: int,
        *,
        width: int = 8,
        hidden: int = 128,
        dropout: Sequence[float] = (0.2, 0.1),
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        channels, height, length = sample_shape
        rows, columns = spatial_sizes(height)[::-1], spatial_sizes(length)[::-1]
        sizes = pairwise(zip(rows, columns, strict=True))
        first, second, third = (_restoring(small, large) for small, large in sizes)
        super().__init__(
            nn.Linear(latent_dim, hidden),
            activation(),
            nn.Linear(hidden, 4 * width * rows[0] * columns[0]),
            activation(),
            nn.Unflatten(1, (4 * width, rows[0], columns[0])),
            layers.ConvTranspose2d(4 * width, 2 * width, 3, **first),
            layers.BatchNorm2d(2 * width),
            layers.Dropout(dropout[0]),
            activation(),
            layers.ConvTranspose2d(2 * width, width, 3, **second),
            layers.BatchNorm2d(width),
            layers.Dropout(dropout[1]),
            activation(),
            layers.ConvTranspose2d(width, channels, 3, **third),
            nn.Sigmoid(),
        )


class Autoencoder(nn.Module):
    """Encoder and decoder; ``forward`` reconstructs (B, C, H, W) → (B, C, H, W)."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(images))
        return reconstruction
