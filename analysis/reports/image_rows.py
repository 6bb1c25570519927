"""Rows of small images with a name each, such as originals above their reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.tiles import show, tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["ImageRow", "draw_image_rows"]

ImageRow = tuple[str, NDArray[np.uint8], str]
"""A row's name, its images (M, C, H, W), and the colour of the name."""

_WIDTH, _WIDEST = 6.2, 0.62  # of the grid and of an image, in inches


def draw_image_rows(
    name: str, title: str, caption: str, rows: Sequence[ImageRow], alt: str
) -> Figure:
    """A figure of at least one row; all rows are cut to the shortest."""
    count = min(len(images) for _, images, _ in rows)
    tiles = tile(np.stack([images[:count] for _, images, _ in rows]))

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        show(axes, tiles)
        axes.set_yticks(tiles.row_centres, [label for label, _, _ in rows])
        for text, (_, _, colour) in zip(axes.get_yticklabels(), rows, strict=True):
            text.set(color=colour, fontweight="bold")

    height, width = tiles.pixels.shape[:2]
    shown = min(_WIDTH, _WIDEST * count)
    size = (7.2, shown * height / width + 0.1)
    return draw(name, title, caption, alt, plot, size=size)
