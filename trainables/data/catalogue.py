"""The data sets with a name: what each must be, where it may come from, and how it is fetched,
verified and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Parts
from foldrace.trainables.data.sources import (
    IDX_FILES,
    PACKAGE,
    Source,
    apt_source,
    idx_sha256,
    installed_source,
    torchvision_source,
)
from foldrace.trainables.data.store import (
    DamagedError,
    read_stored,
    staging,
    stored_path,
    write_stored,
)

__all__ = ["CATALOGUE", "Downloadable", "obtain"]


@dataclass(frozen=True)
class Downloadable:
    """A data set with a name.

    Attributes:
        counts: training and test images.
        sample_shape: (channels, height, width).
        idx_sha256: the SHA-256 sums of the original idx files, unpacked, by part; empty where
            torchvision's own MD5 sums are the check.
    """

    name: str
    description: str
    counts: tuple[int, int]
    sample_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    sources: Sequence[Source]
    advice: str
    idx_sha256: Mapping[str, str] = field(default_factory=dict)


def obtain(entry: Downloadable, data_dir: Path, notify: Callable[[str], None]) -> Parts:
    """The data set from the data folder, fetched if it is not there or no longer what was stored.

    Args:
        notify: is told, in one line each, what is tried and what came of it.

    Raises:
        DataError: no source gave it (says which were tried, and why each failed), or it cannot be
            stored.
    """
    parts = _intact(entry, data_dir, notify)
    if parts is None:
        with staging(entry.name, data_dir, notify) as stage:
            # While this process waited, another may have fetched it.
            parts = _intact(entry, data_dir, lambda _: None) or _fetch(
                entry, data_dir, stage, notify
            )
    return replace(parts, class_names=entry.class_names)


def _intact(entry: Downloadable, data_dir: Path, notify: Callable[[str], None]) -> Parts | None:
    try:
        parts = read_stored(entry.name, data_dir)
        if parts is not None:
            _verify(entry, parts)
        return parts
    except (DamagedError, ValueError) as error:
        path = stored_path(entry.name, data_dir)
        notify(f"{entry.name}: the stored copy {path} is damaged ({error}): fetching it anew")
        return None


def _fetch(
    entry: Downloadable, data_dir: Path, stage: Path, notify: Callable[[str], None]
) -> Parts:
    begun = time.monotonic()
    failures = []
    for number, source in enumerate(entry.sources):
        notify(f"{entry.name}: trying {source.name}")
        folder = stage / str(number)
        folder.mkdir()
        try:
            parts = source.read(folder)
            _verify(entry, parts)
        except Exception as error:  # whatever stops one source, the next may work
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            failures.append(f"{source.name}: {reason}")
            notify(f"{entry.name}: not from {source.name} ({reason})")
            continue
        try:
            write_stored(entry.name, parts, data_dir, stage)
        except OSError as error:
            raise DataError(
                "dataset", entry.name, f"cannot be stored in {data_dir}: {error}"
            ) from error
        notify(f"{entry.name}: fetched from {parts.source} in {time.monotonic() - begun:.1f} s")
        return parts
    rule = f"cannot be fetched; tried {len(failures)}: " + "; ".join(failures)
    hint = (
        f"{entry.advice}, or copy {entry.name}.npz from a data folder that has it into {data_dir}"
    )
    raise DataError("dataset", entry.name, rule, hint)


def _verify(entry: Downloadable, parts: Parts) -> None:
    """Raises ValueError if ``parts`` are not the data set."""
    for part, count in zip(("images", "test_images"), entry.counts, strict=True):
        array, expected = getattr(parts, part), (count, *entry.sample_shape)
        if array is None or array.shape != expected:
            raise ValueError(
                f"{part} have shape {None if array is None else array.shape}, not {expected}"
            )
    for part, count in zip(("labels", "test_labels"), entry.counts, strict=True):
        array = getattr(parts, part)
        if (
            array is None
            or array.shape != (count,)
            or array.min() < 0
            or array.max() >= len(entry.class_names)
        ):
            raise ValueError(
                f"{part} are not {count} numbers from 0 to {len(entry.class_names) - 1}"
            )
    for part, pinned in entry.idx_sha256.items():
        found = idx_sha256(getattr(parts, part))
        if found != pinned:
            raise ValueError(f"the SHA-256 sum of {IDX_FILES[part]} is {found}, not {pinned}")


_ONLINE = "try again with a network connection"

CATALOGUE: dict[str, Downloadable] = {
    entry.name: entry
    for entry in (
        Downloadable(
            name="fashion-mnist",
            description="grey pictures of ten kinds of clothes",
            counts=(60_000, 10_000),
            sample_shape=(1, 28, 28),
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            sources=(torchvision_source("FashionMNIST"), installed_source(), apt_source()),
            advice=f"{_ONLINE}, install Debian's package {PACKAGE}",
            idx_sha256={
                "images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "test_images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "test_labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            },
        ),
        Downloadable(
            name="mnist",
            description="handwritten digits",
            counts=(60_000, 10_000),
            sample_shape=(1, 28, 28),
            class_names=tuple(str(n) for n in range(10)),
            sources=(torchvision_source("MNIST"),),
            advice=_ONLINE,
        ),
        Downloadable(
            name="kmnist",
            description="ten cursive Japanese characters",
            counts=(60_000, 10_000),
            sample_shape=(1, 28, 28),
            class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            sources=(torchvision_source("KMNIST"),),
            advice=_ONLINE,
        ),
        Downloadable(
            name="cifar10",
            description="colour photographs of ten kinds of things",
            counts=(50_000, 10_000),
            sample_shape=(3, 32, 32),
            class_names=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            sources=(torchvision_source("CIFAR10"),),
            advice=_ONLINE,
        ),
    )
}
"""The data sets with a name, by name, that must be fetched once."""
