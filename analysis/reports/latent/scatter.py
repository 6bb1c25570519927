"""The interactive scatter: maps to switch between, and the image under the pointer. It asks
nothing of any network."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.latent import Latent
from foldrace.analysis.reports.latent.figures import WARNING, thumbnails
from foldrace.analysis.reports.latent.maps import Map
from foldrace.analysis.reports.page import Raw, render
from foldrace.analysis.reports.style import BLUE, PALETTE

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["scatter", "sprite_sheet"]

_LARGEST_SHEET = 3_500_000  # bytes; a third more as text: the whole report stays below 8 MB
_LOSSLESS_PIXELS = 1_000_000
_QUALITIES = (85, 70, 50, 30, 10)
_BLOCK = 8
_STEPS = 65_535


def scatter(latent: Latent, maps: Sequence[Map]) -> Raw:
    """A figure with all images on the maps, the first one shown at the beginning."""
    order = np.random.default_rng(0).permutation(len(latent.codes))  # so that no class lies on top
    images = thumbnails(latent.images[order])
    sheet, columns, pitch = sprite_sheet(images)
    data: dict[str, Any] = {
        "count": len(images),
        "maps": [
            {"title": shown.title, "points": _text(_places(shown.points[order]))} for shown in maps
        ],
        "labels": None if latent.labels is None else _text(latent.labels[order].astype(np.uint16)),
        "positions": _text(latent.positions[order].astype(np.uint32)),
        "names": latent.names,
        "colours": [PALETTE[at % len(PALETTE)] for at in range(len(latent.names))] or [BLUE],
        "sheet": f"data:image/webp;base64,{base64.b64encode(sheet).decode()}",
        "columns": columns,
        "pitch": pitch,
        "size": [int(images.shape[3]), int(images.shape[2])],
        "warning": WARNING if any(shown.kind == "tsne" for shown in maps) else "",
    }
    return Raw(render("scatter.html.j2", data=data))


def sprite_sheet(images: NDArray[np.uint8]) -> tuple[bytes, int, tuple[int, int]]:
    """All images (N, C, H, W) as one WebP: its bytes, how many stand in a row, and the (width,
    height) of a place.

    Small sheets are lossless; larger ones get the best quality of a few that stays below 3.5 MB.
    Places start at multiples of eight pixels, so that no block of the compression holds parts of
    two images.
    """
    count, _, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    across, down = (_BLOCK * math.ceil(side / _BLOCK) for side in (width, height))
    sheet = np.zeros(
        (down * math.ceil(count / columns), across * columns, images.shape[1]), np.uint8
    )
    for at, image in enumerate(images):
        top, left = down * (at // columns), across * (at % columns)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return _compressed(sheet), columns, (across, down)


def _compressed(sheet: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    picture = Image.fromarray(sheet if sheet.shape[2] == 3 else sheet[..., 0])
    if sheet.size <= _LOSSLESS_PIXELS:
        return _webp(picture, lossless=True)
    made = b""
    for quality in _QUALITIES:
        made = _webp(picture, quality=quality)
        if len(made) <= _LARGEST_SHEET:
            break
    return made


def _webp(picture: Image.Image, **options: Any) -> bytes:
    target = io.BytesIO()
    picture.save(target, format="webp", method=2, **options)
    return target.getvalue()


def _places(points: NDArray[np.float64]) -> NDArray[np.uint16]:
    """(N, 2) points in a square of 65,536 steps a side, their shape kept and upright on a
    screen."""
    centred = points - (points.min(0) + points.max(0)) / 2
    share = centred / max(float(np.ptp(points, axis=0).max()), 1e-12) * (1, -1) + 0.5
    return np.asarray(np.rint(share * _STEPS), np.uint16)


def _text(values: NDArray[Any]) -> str:
    """The bytes of an array, little-endian, as base64."""
    return base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes()).decode()
