"""The maps of a code as figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.latent import Latent
from foldrace.analysis.reports.axes import bare
from foldrace.analysis.reports.latent.maps import STARTS, Map, Maps
from foldrace.analysis.reports.page import Figure, draw
from foldrace.analysis.reports.style import BLUE, INK, PAPER, class_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = [
    "WARNING",
    "code_figure",
    "line_figure",
    "map_figure",
    "panels_figure",
    "spread_boxes",
]

_MOST_NAMED = 30

WARNING = (
    "t-SNE keeps neighbours and little else: the sizes, densities and distances of groups say"
    " nothing about the code."
)


def map_figure(latent: Latent, shown: Map) -> Figure:
    """The t-SNE map of all images."""
    caption = f"Each dot is one of {len(latent.codes):,} test images, placed by {shown.title}"
    if latent.names:
        caption += "; its colour is its class, and each name is at the median of its class"

    def plot(canvas: Canvas) -> None:
        _plane(canvas, shown.points, latent)

    alt = f"A t-SNE map of {len(latent.codes)} test images{_groups(latent)}."
    return draw("tsne", "t-SNE of the code", f"{caption}. {WARNING}", alt, plot, size=(7.2, 6.2))


def code_figure(latent: Latent, shown: Map) -> Figure:
    """The code itself if it has two dimensions, else its first two principal components."""
    if shown.kind == "code":
        name, title = "code", "The code itself"
        caption = (
            "The two numbers of the code as the decoder gets them; distances are true to scale."
        )
        axis_names = ["first code number", "second code number"]
    else:
        shares = shown.points.var(0) / latent.codes.var(0, dtype=np.float64).sum()
        name, title = "pca", "The code along its two directions of largest variance (PCA)"
        caption = (
            f"The first two principal components have {100 * shares.sum():.0f} % of the variance"
            f" of the code's {latent.dimension} numbers. Distances are true to scale within these"
            " two directions; groups that overlap here may be separate in the others."
        )
        axis_names = [
            f"component {number} ({100 * share:.0f} % of the variance)"
            for number, share in enumerate(shares, 1)
        ]

    def plot(canvas: Canvas) -> None:
        _plane(canvas, shown.points, latent, axis_names)

    alt = f"{title}: {len(latent.codes)} test images in two dimensions{_groups(latent)}."
    return draw(name, title, caption, alt, plot, size=(7.2, 5.6))


def line_figure(latent: Latent, shown: Map) -> Figure:
    """A code of one number, with one row per class."""

    def plot(canvas: Canvas) -> None:
        axes = canvas.add_subplot()
        rows = (
            latent.labels if latent.labels is not None else np.zeros(len(latent.codes), np.int64)
        )
        spread = shown.points[:, 1] / max(float(np.ptp(shown.points[:, 1])), 1e-12) * 0.7 - 0.35
        _dots(axes, np.stack([latent.codes[:, 0], rows + spread], 1), latent)
        axes.set_yticks(range(len(latent.names)), latent.names)
        axes.set(xlabel="the code", ylim=(max(len(latent.names), 1) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)

    caption = (
        "A code of one number needs no map. The height within a row has no meaning; it only"
        " spreads the dots."
    )
    height = 1.4 + 0.32 * max(len(latent.names), 1)
    alt = f"The code's single number for {len(latent.codes)} test images{_groups(latent)}."
    return draw("code", "The code itself", caption, alt, plot, size=(7.2, height))


def panels_figure(latent: Latent, maps: Maps) -> Figure:
    """Small t-SNE maps: one row per perplexity, one column per start."""
    assert maps.chosen is not None
    chosen, total = maps.chosen, len(latent.codes)
    labels = None if latent.labels is None else latent.labels[chosen]
    columns = len(STARTS)
    rows = len(maps.panels) // columns

    def plot(canvas: Canvas) -> None:
        for place, panel in enumerate(maps.panels):
            axes = canvas.add_subplot(rows, columns, place + 1)
            _scatter(axes, panel.points, labels, 2.0)
            _bare(axes)
            start = "random start" if panel.random_start else f"seed {panel.seed}"
            title = (
                f"perplexity {panel.perplexity:g}, {start}\nkeeps {100 * panel.recall:.0f} % of"
                " neighbours"
            )
            axes.set_title(title, fontsize=8, fontweight="normal")

    of = (
        f"the same {len(chosen):,} images"
        if len(chosen) == total
        else f"a fixed {len(chosen):,} of {total:,} images"
    )
    caption = (
        f"Each panel maps {of}; its title says which share of the ten nearest neighbours in the"
        f" code it keeps. Two panels of a row have {100 * maps.agreement:.0f} % of them in common."
        " The first two columns start from the principal components with a little noise, the last"
        " one from noise alone: what moves there owes its place to the start, not to the code."
    )
    alt = (
        f"{len(maps.panels)} small t-SNE maps of the same images: {rows} perplexities, {columns}"
        " starts each."
    )
    return draw(
        "panels",
        "Other perplexities, other starts",
        caption,
        alt,
        plot,
        size=(7.2, 0.1 + 2.5 * rows),
    )


def _groups(latent: Latent) -> str:
    return f", coloured by {len(latent.names)} classes" if latent.names else ""


def _plane(
    canvas: Canvas, points: NDArray[np.float64], latent: Latent, axis_names: Sequence[str] = ()
) -> None:
    """A map with its classes named; without axes unless they have names."""
    axes: Axes = canvas.add_subplot()
    _dots(axes, points, latent)
    if axis_names:
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    else:
        _bare(axes)
    if latent.labels is not None and len(latent.names) <= _MOST_NAMED:
        _name_classes(canvas, axes, points, latent.labels, latent.names)


def _dots(axes: Axes, points: NDArray[np.float64], latent: Latent) -> None:
    _scatter(axes, points, latent.labels, float(np.clip(50_000 / len(points), 3.0, 30.0)))


def _scatter(
    axes: Axes, points: NDArray[np.float64], labels: NDArray[np.int64] | None, size: float
) -> None:
    """Dots in random order, so that no class covers the others."""
    order = np.random.default_rng(0).permutation(len(points))
    colours = BLUE if labels is None else [class_colour(label) for label in labels[order]]
    axes.scatter(
        points[order, 0],
        points[order, 1],
        s=size,
        c=colours,
        alpha=0.75,
        linewidths=0,
        rasterized=True,
    )


def _bare(axes: Axes) -> None:
    bare(axes)
    axes.set_aspect("equal", adjustable="datalim")


def _name_classes(
    canvas: Canvas,
    axes: Axes,
    points: NDArray[np.float64],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
) -> None:
    """Each class's name at its median, moved up or down until no two names overlap."""
    medians = [np.median(points[labels == label], axis=0) for label in range(len(names))]
    texts = [
        axes.text(
            medians[label][0],
            medians[label][1],
            name,
            ha="center",
            va="center",
            fontsize=8.5,
            color=INK,
            fontweight="bold",
            zorder=5,
            bbox={
                "boxstyle": "round,pad=0.25",
                "facecolor": PAPER,
                "edgecolor": class_colour(label),
                "linewidth": 1.4,
                "alpha": 0.88,
            },
        )
        for label, name in enumerate(names)
    ]
    canvas.draw_without_rendering()
    boxes = [
        box.get_window_extent().padded(2)
        for text in texts
        if (box := text.get_bbox_patch()) is not None
    ]
    centres = np.array([[(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] for box in boxes])
    apart = spread_boxes(centres, np.array([[box.width, box.height] for box in boxes]))
    for text, place in zip(texts, axes.transData.inverted().transform(apart), strict=True):
        text.set_position(place)
    # a later layout would move the axes but not the names
    canvas.set_layout_engine(None)


def spread_boxes(
    centres: NDArray[np.float64], sizes: NDArray[np.float64], rounds: int = 200
) -> NDArray[np.float64]:
    """Moves boxes up and down, in small steps, until no two overlap.

    Args:
        centres: (L, 2), x and y.
        sizes: (L, 2), width and height.
        rounds: over all pairs, at most.

    Returns:
        (L, 2), the new centres.
    """
    places = centres.copy()
    for _ in range(rounds):
        moved = False
        for one in range(len(places)):
            for other in range(one):
                gap = places[one] - places[other]
                overlap = (sizes[one] + sizes[other]) / 2 - np.abs(gap)
                if (overlap > 0.01).all():
                    step = overlap[1] / 2 * (1 if gap[1] >= 0 else -1)
                    places[one, 1] += step
                    places[other, 1] -= step
                    moved = True
        if not moved:
            break
    return places
