"""The convolutional autoencoder of the reference study, for any image of at least 8×8 pixels.

At (1, 28, 28), width 8 and hidden 128 it is the study's network to the letter; other shapes keep
its layers and derive the spatial sizes. Every spatial size goes through three strided 3×3
convolutions, and each transposed convolution on the way back is given the padding that restores
the size before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

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
    """One side's length before and after each of the three convolutions: 28 → (28, 14, 7, 3), 8 →
    (8, 4, 2, 1).

    The first two are padded by 1; the last is not, unless it would have nothing left to look at.
    """
    first = (size - 1) // 2 + 1
    second = (first - 1) // 2 + 1
    third = (second - 3) // 2 + 1 if second >= 3 else (second - 1) // 2 + 1
    return size, first, second, third


def _way_back(small: int, large: int) -> tuple[int, int]:
    """(padding, output_padding) with which a 3×3 transposed convolution of stride 2 turns
    ``small`` into ``large``."""
    # large = 2·small + 1 − 2·padding + output_padding, both of them 0 or 1
    padding = 0 if large > 2 * small else 1
    return padding, large - 2 * small - 1 + 2 * padding


class Encoder(layers.Sequential):
    """(B, C, H, W) in [0, 1] → (B, outputs)."""

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
    """(B, latent_dim) → (B, C, H, W) in [0, 1]."""

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
        ways = [
            (_way_back(*row), _way_back(*column))
            for row, column in zip(pairwise(rows), pairwise(columns), strict=True)
        ]
        paddings = [(row[0], column[0]) for row, column in ways]
        extras = [(row[1], column[1]) for row, column in ways]
        super().__init__(
            nn.Linear(latent_dim, hidden),
            activation(),
            nn.Linear(hidden, 4 * width * rows[0] * columns[0]),
            activation(),
            nn.Unflatten(1, (4 * width, rows[0], columns[0])),
            layers.ConvTranspose2d(
                4 * width, 2 * width, 3, stride=2, padding=paddings[0], output_padding=extras[0]
            ),
            layers.BatchNorm2d(2 * width),
            layers.Dropout(dropout[0]),
            activation(),
            layers.ConvTranspose2d(
                2 * width, width, 3, stride=2, padding=paddings[1], output_padding=extras[1]
            ),
            layers.BatchNorm2d(width),
            layers.Dropout(dropout[1]),
            activation(),
            layers.ConvTranspose2d(
                width, channels, 3, stride=2, padding=paddings[2], output_padding=extras[2]
            ),
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
