"""Small images side by side, as one picture whose gaps let the page's own colour through."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Tiles", "show", "tile"]

_GAP, _WIDE_GAP = 2, 10


@dataclass(frozen=True)
class Tiles:
    """A grid of images as one.

    Attributes:
        pixels: (height, width, 4) uint8, RGBA; the gaps are transparent.
        rows, columns: where each row's and each column's first pixel is.
        size: (height, width) of one image.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    size: tuple[int, int]

    @property
    def row_centres(self) -> NDArray[np.float64]:
        return np.asarray(self.rows + (self.size[0] - 1) / 2)

    @property
    def column_centres(self) -> NDArray[np.float64]:
        return np.asarray(self.columns + (self.size[1] - 1) / 2)


def tile(
    rows: Sequence[Sequence[NDArray[np.uint8] | None]] | NDArray[np.uint8],
    *,
    wide_before: Collection[int] = (),
    tight_before: Collection[int] = (),
) -> Tiles:
    """Rows of equally many images (C, H, W) uint8, C of 1 or 3, all of one shape; None leaves a
    place empty.

    Args:
        wide_before, tight_before: the columns before which the gap is wide, or there is none.
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
    colours = image.transpose(1, 2, 0)
    if colours.shape[2] < 3:
        colours = np.repeat(colours[..., :1], 3, axis=2)
    return np.concatenate(
        [colours[..., :3], np.full((*colours.shape[:2], 1), 255, np.uint8)], axis=2
    )


def show(axes: Axes, tiles: Tiles, **options: Any) -> None:
    """Draws the grid pixel by pixel, without a frame; ticks can be set in pixels."""
    axes.imshow(tiles.pixels, interpolation="none", **options)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_yticks([])
