"""Image grids of the VAE report: samples, traversals, interpolations, best and worst."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.evidence import Evidence
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import INK, MUTED
from foldrace.analysis.reports.tiles import Tiles, show, tile

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "best_and_worst",
    "class_name",
    "interpolations",
    "manifold",
    "prior_samples",
    "traversals",
]

_ROWS = 16
_PAIRS = 4
_WIDTH = 7.2


def prior_samples(evidence: Evidence) -> Figure | None:
    """Decoded samples from the prior, in whole rows of ten; None without samples."""
    samples = evidence.get("prior_samples")
    if samples is None or not len(samples):
        return None
    columns = min(10, len(samples))
    rows = len(samples) // columns
    tiles = tile(samples[: rows * columns].reshape(rows, columns, *samples.shape[1:]))
    caption = (
        "Codes drawn from N(0, I), decoded. If these look worse than the reconstructions, the"
        " encoder's codes do not cover the prior."
    )

    def plot(figure: Canvas) -> None:
        show(figure.add_subplot(), tiles)

    alt = f"{rows * columns} images decoded from random codes"
    return draw(
        "prior-samples",
        "Samples from the prior",
        caption,
        alt,
        plot,
        size=_size(tiles, 0.1, 0.1, width=5.0),
    )


def traversals(evidence: Evidence) -> Figure | None:
    """One dimension of the code moved at a time, one row each, the largest KL on top."""
    images = evidence.get("traversals")
    if images is None or not len(images):
        return None
    dimensions, values = evidence["traversal_dims"], evidence["traversal_values"]
    kl = evidence.get("kl_per_dimension")
    if kl is not None:
        order = np.argsort(-kl[dimensions], kind="stable")
        images, dimensions = images[order], dimensions[order]
    images, dimensions = images[:_ROWS], dimensions[:_ROWS]
    tiles = tile(images)
    labels, carries = [], []
    for dimension in dimensions:
        on = bool(evidence["active"][dimension]) if "active" in evidence else True
        text = f"z{dimension}" + (f" · {kl[dimension]:.2f} nats" if kl is not None else "")
        labels.append(text if on else f"{text} · inactive")
        carries.append(on)
    caption = (
        "Each row moves one number of the code, with the others at 0, the prior's mean; the number"
        " at a row is the dimension's KL. The decoder ignores a dimension in whose row nothing"
        " changes."
    )

    def plot(figure: Canvas) -> None:
        axes = figure.add_subplot()
        show(axes, tiles)
        axes.set_yticks(tiles.row_centres, labels)
        for text, on in zip(axes.get_yticklabels(), carries, strict=True):
            text.set_color(INK if on else MUTED)
        marked = range(0, len(values), 2 if len(values) % 2 and len(values) > 5 else 1)
        axes.set_xticks(
            tiles.column_centres[marked], [f"{values[at]:g}".replace("-", "−") for at in marked]
        )
        axes.set_xlabel("value of the dimension, in standard deviations of the prior")

    alt = f"{len(labels)} rows of images, each along one dimension of the code"
    return draw(
        "traversals", "One dimension at a time", caption, alt, plot, size=_size(tiles, 0.6, 1.6)
    )


def interpolations(evidence: Evidence) -> Figure | None:
    """Decoded codes between those of two test images, which are shown at the ends."""
    between, ends = evidence.get("interpolations"), evidence.get("interpolation_ends")
    if between is None or ends is None or not len(between) or "images" not in evidence:
        return None
    originals = evidence["images"][ends]  # (P, 2, C, H, W)
    rows = np.concatenate([originals[:, :1], between, originals[:, 1:]], axis=1)
    last = rows.shape[1] - 1
    tiles = tile(rows, wide_before=(1, last))
    caption = (
        "The outermost images are from the test set; between them are decoded codes on the"
        " straight line from the code of one to that of the other. Good codes give plausible"
        " images all the way."
    )

    def plot(figure: Canvas) -> None:
        axes = figure.add_subplot()
        show(axes, tiles)
        axes.set_yticks(tiles.row_centres, _ends(evidence, ends[:, 0]))
        twin = axes.secondary_yaxis("right")
        twin.set_yticks(tiles.row_centres, _ends(evidence, ends[:, 1]))
        twin.spines[:].set_visible(False)
        twin.tick_params(length=0)
        centres = tiles.column_centres
        axes.xaxis.tick_top()
        axes.set_xticks(
            [centres[0], centres[1:-1].mean(), centres[-1]],
            ["test image", "decoded, from code to code", "test image"],
        )

    alt = f"{len(rows)} rows that lead from one test image to another"
    return draw(
        "interpolations",
        "Between two test images",
        caption,
        alt,
        plot,
        size=_size(tiles, 0.4, 2.0),
    )


def manifold(evidence: Evidence) -> Figure | None:
    """Decoded codes over the whole plane, for a code of two dimensions."""
    images = evidence.get("manifold")
    if images is None or not len(images):
        return None
    side = len(images)
    tiles = tile(images)
    caption = (
        f"The code has two dimensions, so all of it can be shown: {side} × {side} codes at equal"
        " steps of the prior's probability, decoded. Each image covers the same share of the"
        " prior."
    )

    def plot(figure: Canvas) -> None:
        axes = figure.add_subplot()
        show(axes, tiles)
        marked = np.arange(0, side, max(1, side // 5))
        shares = [f"{100 * (place + 0.5) / side:.0f} %" for place in marked]
        axes.set_xticks(tiles.column_centres[marked], shares)
        axes.set_yticks(tiles.row_centres[side - 1 - marked], shares)
        axes.set(xlabel="z0, quantile of the prior", ylabel="z1, quantile of the prior")

    return draw(
        "manifold",
        "The two-dimensional code, decoded",
        caption,
        f"{side} by {side} decoded codes",
        plot,
        size=_size(tiles, 0.6, 0.6, width=6.0),
    )


def best_and_worst(evidence: Evidence) -> Figure | None:
    """For each class, the test images with the smallest and the largest errors."""
    if not {"images", "shown", "shown_reconstructions", "errors"} <= set(evidence) or not len(
        evidence["shown"]
    ):
        return None
    rows, names = [], []
    for name, places in _shown_rows(evidence):
        originals = evidence["images"][evidence["shown"][places]]
        made = evidence["shown_reconstructions"][places]
        half, empty = len(places) // 2, [None] * (2 * (_PAIRS - len(places) // 2))
        pairs = [image for pair in zip(originals, made, strict=True) for image in pair]
        rows.append([*pairs[: 2 * half], *empty, *pairs[2 * half :], *empty])
        names.append(name)
    tiles = tile(rows, tight_before=range(1, 4 * _PAIRS, 2), wide_before=(2 * _PAIRS,))
    caption = (
        "Pairs of a test image and, at its right, its reconstruction: on the left those with the"
        " smallest error, on the right those with the largest."
    )
    if any(names):
        caption += (
            " The number at a class is the mean squared error per pixel over its test images."
        )

    def plot(figure: Canvas) -> None:
        axes = figure.add_subplot()
        show(axes, tiles)
        axes.set_yticks(tiles.row_centres, names)
        centres = tiles.column_centres
        axes.xaxis.tick_top()
        halves = [centres[: 2 * _PAIRS].mean(), centres[2 * _PAIRS :].mean()]
        axes.set_xticks(halves, ["best", "worst"])

    alt = (
        f"{len(rows)} rows of test images beside their reconstructions, the best on the left, the"
        " worst on the right"
    )
    return draw(
        "best-and-worst",
        "Best and worst reconstructions",
        caption,
        alt,
        plot,
        size=_size(tiles, 0.4, 1.5 if any(names) else 0.1),
    )


def _shown_rows(evidence: Evidence) -> list[tuple[str, NDArray[np.int64]]]:
    """Names and rows of indices into ``shown``: the best, then as many of the worst."""
    errors, labels = evidence["errors"], evidence.get("labels")
    shown = evidence["shown"]
    groups = np.zeros(len(shown), int) if labels is None else labels[shown]
    rows = []
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        best, worst = places[: len(places) // 2], places[len(places) // 2 :]
        name = ""
        if labels is not None:
            name = f"{class_name(evidence, int(group))}  {errors[labels == group].mean():.4f}"
        for start in range(0, len(best), _PAIRS):
            part = slice(start, start + _PAIRS)
            rows.append((name if not start else "", np.concatenate([best[part], worst[part]])))
    return rows


def class_name(evidence: Evidence, label: int) -> str:
    """The name of a class, or its number if it has no name."""
    names = evidence.get("class_names")
    return str(names[label]) if names is not None and label < len(names) else f"class {label}"


def _ends(evidence: Evidence, chosen: NDArray[np.int64]) -> list[str]:
    labels = evidence.get("labels")
    return (
        [""] * len(chosen)
        if labels is None
        else [class_name(evidence, int(labels[index])) for index in chosen]
    )


def _size(
    tiles: Tiles, above_below: float, beside: float, width: float = _WIDTH
) -> tuple[float, float]:
    """The (width, height) in inches of a figure with a grid and room for its labels."""
    height, columns = tiles.pixels.shape[:2]
    return width, (width - beside) * height / columns + above_below
