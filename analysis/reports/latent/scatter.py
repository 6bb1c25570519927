"""The interactive scatter: the maps, and the image under the pointer."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.latent import Latent
from foldrace.analysis.reports.latent.figures import WARNING
from foldrace.analysis.reports.latent.images import sprite_sheet, thumbnails
from foldrace.analysis.reports.latent.maps import Map
from foldrace.analysis.reports.page import Raw, render
from foldrace.analysis.reports.style import BLUE, class_colour

__all__ = ["scatter"]

_STEPS = 65_535


def scatter(latent: Latent, maps: Sequence[Map]) -> Raw:
    """An interactive figure of all images on the maps; it shows the first map at the start."""
    # in random order, so that no class covers the others
    order = np.random.default_rng(0).permutation(len(latent.codes))
    images = thumbnails(latent.images[order])
    sheet, columns, pitch = sprite_sheet(images)
    data: dict[str, Any] = {
        "count": len(images),
        "maps": [
            {"title": shown.title, "points": _base64(_on_grid(shown.points[order]))}
            for shown in maps
        ],
        "labels": None if latent.labels is None else _base64(latent.labels[order].astype("<u2")),
        "positions": _base64(latent.positions[order].astype("<u4")),
        "names": latent.names,
        "colours": [class_colour(label) for label in range(len(latent.names))] or [BLUE],
        "sheet": f"data:image/webp;base64,{base64.b64encode(sheet).decode()}",
        "columns": columns,
        "pitch": pitch,
        "size": [int(images.shape[3]), int(images.shape[2])],
        "warning": WARNING if any(shown.kind == "tsne" for shown in maps) else "",
    }
    return Raw(render("scatter.html.j2", data=data))


def _on_grid(points: NDArray[np.float64]) -> NDArray[Any]:
    """Points (N, 2) in a square of 65,536 steps a side, aspect ratio kept, y pointing down."""
    centred = points - (points.min(0) + points.max(0)) / 2
    share = centred / max(float(np.ptp(points, axis=0).max()), 1e-12) * (1, -1) + 0.5
    return np.asarray(np.rint(share * _STEPS), "<u2")


def _base64(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode()
