"""Grids of small images as one picture with transparent gaps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.reports.axes import bare

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Tiles", "show", "tile"]

_GAP, _WIDE_GAP = 2, 10


@dataclass(frozen=True)
class Tiles:
    """A grid of images as one image.

    Attributes:
        pixels: (height, width, 4) uint8, RGBA; the gaps are transparent.
        rows, columns: the first pixel of each row and of each column.
        size: (height, width) of one image.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    size: tuple[int, int]

    @property
    def row_centres(self) -> NDArray[np.float64]:
        """The middle of each row, in pixels."""
        return np.asarray(self.rows + (self.size[0] - 1) / 2)

    @property
    def column_centres(self) -> NDArray[np.float64]:
        """The middle of each column, in pixels."""
        return np.asarray(self.columns + (self.size[1] - 1) / 2)


def tile(
    rows: Sequence[Sequence[NDArray[np.uint8] | None]] | NDArray[np.uint8],
    *,
    wide_before: Collection[int] = (),
    tight_before: Collection[int] = (),
) -> Tiles:
    """Puts images into a grid.

    Args:
        rows: of equal lengths; images (C, H, W) uint8 of one shape, C of 1 or 3. None leaves a
            cell empty.
        wide_before: the columns before which the gap is wide.
        tight_before: the columns before which there is no gap.
    """
    height, width = next(image.shape[1:] for row in rows for image in row if image is not None)
    gaps = [0, *(_gap(column, wide_before, tight_before) for column in range(1, len(rows[0])))]
    lefts = np.cumsum(gaps) + width * np.arange(len(gaps))
    tops = np.arange(len(rows)) * (height + _GAP)
    pixels = np.zeros((tops[-1] + height, lefts[-1] + width, 4), np.uint8)
    for top, row in zip(tops, rows, strict=True):
        for left, image in zip(lefts, row, strict=True):
            if image is not None:
                pixels[top : top + height, left : left + width] = _rgba(image)
    return Tiles(pixels, tops, lefts, (height, width))


def _gap(column: int, wide: Collection[int], tight: Collection[int]) -> int:
    if column in tight:
        return 0
    return _WIDE_GAP if column in wide else _GAP


def _rgba(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    pixels = np.full((*image.shape[1:], 4), 255, np.uint8)
    pixels[..., :3] = (image[:3] if len(image) >= 3 else image[:1]).transpose(1, 2, 0)
    return pixels


def show(axes: Axes, tiles: Tiles, **options: Any) -> None:
    """Draws a grid without smoothing, frame and ticks; ticks can be set in pixels afterwards."""
    axes.imshow(tiles.pixels, interpolation="none", **options)
    bare(axes)
