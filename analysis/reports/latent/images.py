"""The test images as thumbnails: on one sheet for the page's script, and placed on a map."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foldrace.analysis.records.latent import Latent
from foldrace.analysis.reports.latent.maps import Map
from foldrace.analysis.reports.page import Picture
from foldrace.analysis.reports.tiles import tile

__all__ = ["image_map", "sprite_sheet", "thumbnails"]

_LONGEST_SIDE = 32
_MAP_WIDTH = 760
_CELLS = 25
# bytes; as base64 a third more, so that the whole report stays below 8 MB
_LARGEST_SHEET = 3_500_000
_LOSSLESS_PIXELS = 1_000_000
_QUALITIES = (85, 70, 50, 30, 10)
_BLOCK = 8


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images (N, C, H, W) with one channel or three, reduced to at most 32 pixels a side."""
    images = images[:, :3] if images.shape[1] >= 3 else images[:, :1]
    count, channels, height, width = images.shape
    factor = _LONGEST_SIDE / max(height, width)
    if factor >= 1:
        return images
    size = max(1, round(width * factor)), max(1, round(height * factor))
    planes = [
        np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX))
        for plane in images.reshape(-1, height, width)
    ]
    return np.array(planes, np.uint8).reshape(count, channels, size[1], size[0])


def image_map(latent: Latent, shown: Map) -> Picture:
    """A map on a grid: each cell shows the image that is nearest to its centre."""
    images = thumbnails(latent.images)
    fitting = _MAP_WIDTH // (images.shape[-1] + 2)
    cells = max(4, min(_CELLS, fitting, int(1.5 * len(images) ** 0.5)))
    places = shown.points - shown.points.min(0)
    places /= max(float(places.max()), 1e-12)
    # centre the narrower direction
    places += (1 - np.ptp(places, axis=0)) / 2
    columns, rows = np.minimum((places * cells).astype(np.int64), cells - 1).T
    distances = np.square(places * cells - np.stack([columns, rows], 1) - 0.5).sum(1)
    grid: list[list[NDArray[np.uint8] | None]] = [[None] * cells for _ in range(cells)]
    # the nearest image of a cell is the last to be written
    for at in np.argsort(-distances, kind="stable"):
        grid[cells - 1 - rows[at]][columns[at]] = images[at]
    grid = [row for row in grid if any(image is not None for image in row)]
    return Picture(
        "image-map",
        "The map, made of its images",
        "The t-SNE map on a grid: each cell shows the test image nearest to its centre. Look for"
        " gradual changes.",
        "The t-SNE map drawn with test images instead of dots.",
        _encoded(Image.fromarray(tile(grid).pixels), "png", optimize=True),
    )


def sprite_sheet(images: NDArray[np.uint8]) -> tuple[bytes, int, tuple[int, int]]:
    """All images (N, C, H, W) on one WebP sheet.

    Small sheets are lossless; larger ones get the best of five qualities that stays below 3.5 MB.
    Cells start at multiples of eight pixels, so that no compression block covers two images.

    Returns:
        The sheet, the number of columns, and the (width, height) of a cell in pixels.
    """
    count, channels, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    across, down = (_BLOCK * math.ceil(side / _BLOCK) for side in (width, height))
    sheet = np.zeros((down * math.ceil(count / columns), across * columns, channels), np.uint8)
    for at, image in enumerate(images):
        top, left = down * (at // columns), across * (at % columns)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    picture = Image.fromarray(sheet if channels == 3 else sheet[..., 0])
    if sheet.size <= _LOSSLESS_PIXELS:
        return _encoded(picture, "webp", method=2, lossless=True), columns, (across, down)
    made = b""
    for quality in _QUALITIES:
        made = _encoded(picture, "webp", method=2, quality=quality)
        if len(made) <= _LARGEST_SHEET:
            break
    return made, columns, (across, down)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, format=kind, **options)
    return target.getvalue()
