"""The named data sets: what each one is, and where it can be fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foldrace.trainables.data.arrays import Parts
from foldrace.trainables.data.named.sources import (
    PACKAGE,
    Source,
    apt_source,
    installed_source,
    read_digits,
    torchvision_source,
)

__all__ = ["CATALOGUE", "NamedDataset"]

_ONLINE = "try again with a network connection"
_FASHION_CLASSES = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag"
_CIFAR_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"


@dataclass(frozen=True)
class NamedDataset:
    """A data set that a sweep file can name.

    Attributes:
        counts: numbers of training and test images.
        sample_shape: (channels, height, width), as it is loaded by default.
        class_names: the name of label i at position i.
        sources: where it can be fetched, in the order in which they are tried.
        advice: what to do if no source works.
        digest: SHA-256, in hex, of the arrays (see `foldrace.trainables.data.parts.digest`); empty
            if torchvision's MD5 sums are the only check.
        built_in: returns a data set that an installed package contains; None if it is fetched.
    """

    name: str
    description: str
    counts: tuple[int, int]
    sample_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sources: Sequence[Source] = ()
    advice: str = _ONLINE
    digest: str = ""
    built_in: Callable[[], Parts] | None = None


CATALOGUE: dict[str, NamedDataset] = {
    entry.name: entry
    for entry in (
        NamedDataset(
            name="fashion-mnist",
            description="grey pictures of ten kinds of clothes",
            counts=(60_000, 10_000),
            sample_shape=(1, 28, 28),
            class_names=(*_FASHION_CLASSES.split(), "Ankle boot"),
            sources=(torchvision_source("FashionMNIST"), installed_source(), apt_source()),
            advice=f"{_ONLINE}, install Debian's package {PACKAGE}",
            digest="51d447afe0dc13b946784b37e1ed9a5f27a0ca35224e53348e7d00533c344bd2",
        ),
        NamedDataset(
            name="mnist",
            description="handwritten digits",
            counts=(60_000, 10_000),
            sample_shape=(1, 28, 28),
            class_names=tuple("0123456789"),
            sources=(torchvision_source("MNIST"),),
        ),
        NamedDataset(
            name="kmnist",
            description="ten cursive Japanese characters",
            counts=(60_000, 10_000),
            sample_shape=(1, 28, 28),
            class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            sources=(torchvision_source("KMNIST"),),
        ),
        NamedDataset(
            name="cifar10",
            description="colour photographs of ten kinds of things",
            counts=(50_000, 10_000),
            sample_shape=(3, 32, 32),
            class_names=tuple(_CIFAR_CLASSES.split()),
            sources=(torchvision_source("CIFAR10"),),
        ),
        NamedDataset(
            name="digits",
            description="handwritten digits, small (scikit-learn's; a tenth held out)",
            counts=(1617, 180),
            sample_shape=(1, 28, 28),
            class_names=tuple("0123456789"),
            built_in=read_digits,
        ),
    )
}
"""The named data sets by name."""
