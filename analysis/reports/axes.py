"""What several figures do with their axes: a logarithm where it helps, names at the lines'
ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["fit_losses", "key", "label_ends", "log_if_decade", "log_ticks", "whole_ticks"]

_LABEL = 9.0  # points


def log_if_decade(
    axes: Axes, values: Iterable[float], which: Literal["x", "y"] = "y", ratio: float = 10
) -> bool:
    """Makes an axis logarithmic if the finite ones of the values are positive and span a decade
    (or ``ratio``); says whether."""
    finite = np.array([value for value in values if np.isfinite(value)])
    spans = bool(len(finite)) and finite.min() > 0 and finite.max() >= ratio * finite.min()
    if spans:
        axes.set(**{f"{which}scale": "log"})
        log_ticks(axes, which)
    return bool(spans)


def log_ticks(axes: Axes, which: Literal["x", "y"], *, room: float = 1.0) -> None:
    """Ticks of a logarithmic axis as plain numbers: 0.01, 0.02, 0.05, the closer the less it
    spans.

    Args:
        room: of the width that a figure's only panel has; with less of it there are fewer ticks.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    ratio = (high / low) ** (1 / room) if low > 0 else 1.0
    subs = (
        (1.0,)
        if ratio > 1000
        else (1.0, 2.0, 5.0)
        if ratio > 20
        else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    )
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def fit_losses(axes: Axes, values: Iterable[float], ratio: float = 10) -> None:
    """Limits of the y axis that hold the finite values with a margin; logarithmic if they span a
    decade (``ratio``)."""
    finite = np.array([value for value in values if np.isfinite(value)])
    if log_if_decade(axes, finite, ratio=ratio):
        axes.set_ylim(finite.min() / 1.15, finite.max() * 1.25)
        log_ticks(axes, "y")
    elif len(finite):
        margin = 0.12 * (finite.max() - finite.min()) or 0.05 * abs(finite.max()) or 1.0
        axes.set_ylim(finite.min() - margin, finite.max() + margin)


def whole_ticks(axes: Axes) -> None:
    """An x axis that counts: whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names lines at the right edge, each as near to its end as the others let it. Call it once
    the limits are set.

    Args:
        ends: y at the end, text, colour of each line.
    """
    from scipy.optimize import isotonic_regression

    if not ends:
        return
    transform = axes.yaxis.get_transform()
    low, high, *places = transform.transform(
        np.array([*axes.get_ylim(), *(y for y, _, _ in ends)])
    )
    shares = np.clip((np.array(places) - low) / (high - low), 0, 1)
    order = np.argsort(shares, kind="stable")
    gaps = np.arange(len(ends)) * 1.25 * _LABEL * axes.figure.dpi / 72 / axes.bbox.height
    spread = isotonic_regression(shares[order] - gaps).x + gaps
    spread -= max(0.0, spread[-1] - 1)
    for share, at in zip(spread, order, strict=True):
        _, text, colour = ends[at]
        axes.annotate(
            text,
            (1, share),
            xycoords="axes fraction",
            xytext=(5, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=_LABEL,
            fontweight="bold",
            annotation_clip=False,
        )


def key(axes: Axes, names: Sequence[tuple[str, str]], *, beyond: bool = False) -> None:
    """What the colours mean, as words of these colours in a row above the axes.

    Args:
        beyond: the row may be wider than the axes, above their neighbours; a title of the figure
            makes room for it.
    """
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    words: list[Artist] = [
        TextArea(text, textprops={"color": colour, "fontsize": 9, "fontweight": "bold"})
        for text, colour in names
    ]
    row = HPacker(children=words, pad=0, sep=12)
    box = axes.add_artist(
        AnchoredOffsetbox(
            "lower left",
            child=row,
            frameon=False,
            pad=0,
            borderpad=0,
            bbox_to_anchor=(0, 1.02),
            bbox_transform=axes.transAxes,
        )
    )
    box.set_in_layout(not beyond)
