"""Axes: logarithmic scales, ticks, limits, labels at the ends of lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from foldrace.trainables.tasks.objective import Objective

__all__ = [
    "bare",
    "fit_losses",
    "in_own_sign",
    "key",
    "label_ends",
    "log_if_decade",
    "log_ticks",
    "whole_ticks",
]

# points
_LABEL_SIZE = 9.0


def bare(axes: Axes) -> None:
    """Removes ticks, grid and frame."""
    axes.set(xticks=[], yticks=[])
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def log_if_decade(
    axes: Axes, values: Iterable[float], which: Literal["x", "y"] = "y", ratio: float = 10
) -> bool:
    """Makes an axis logarithmic if the finite values are positive and span a decade.

    Args:
        values: what the axis shows.
        which: the axis.
        ratio: of the largest value to the smallest, from which on the axis is logarithmic.

    Returns:
        Whether it is logarithmic.
    """
    finite = _finite(values)
    spans = bool(len(finite) and finite.min() > 0 and finite.max() >= ratio * finite.min())
    if spans:
        axes.set(**{f"{which}scale": "log"})
        log_ticks(axes, which)
    return spans


def _finite(values: Iterable[float]) -> NDArray[np.float64]:
    array = np.array(list(values), np.float64)
    return array[np.isfinite(array)]


def log_ticks(axes: Axes, which: Literal["x", "y"], *, room: float = 1.0) -> None:
    """Ticks of a logarithmic axis as plain numbers: 0.01, 0.02, 0.05.

    Args:
        axes: with its limits set; the smaller their ratio, the denser the ticks.
        which: the axis.
        room: the panel's share of the figure's width; with less there are fewer ticks.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    ratio = (high / low) ** (1 / room) if low > 0 else 1.0
    subs = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0]
    if ratio > 20:
        subs = [1.0, 2.0, 5.0] if ratio <= 1000 else [1.0]
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def fit_losses(axes: Axes, values: Iterable[float], ratio: float = 10) -> None:
    """Sets the limits of the y axis to the finite values with a margin.

    The axis becomes logarithmic as in `log_if_decade`.
    """
    finite = _finite(values)
    if log_if_decade(axes, finite, ratio=ratio):
        axes.set_ylim(finite.min() / 1.15, finite.max() * 1.25)
        log_ticks(axes, "y")
    elif len(finite):
        margin = 0.12 * (finite.max() - finite.min()) or 0.05 * abs(finite.max()) or 1.0
        axes.set_ylim(finite.min() - margin, finite.max() + margin)


def whole_ticks(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Labels lines at the right edge, each as near to its end as the other labels allow.

    Args:
        axes: with its limits set.
        ends: of each line, y at its end, the label and its colour.
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
    gaps = np.arange(len(ends)) * 1.25 * _LABEL_SIZE * axes.figure.dpi / 72 / axes.bbox.height
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
            fontsize=_LABEL_SIZE,
            fontweight="bold",
            annotation_clip=False,
        )


def in_own_sign(axes: Axes, which: Literal["x", "y"], objective: Objective) -> None:
    """Shows an axis of losses as values of the metric: if it is maximised, the other way round and
    with the other sign.

    Args:
        axes: with everything drawn.
    """
    if not objective.maximize:
        return
    from matplotlib.ticker import FuncFormatter, ScalarFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    plain = ScalarFormatter(useOffset=False)
    plain.set_axis(axis)

    def text(loss: float, place: int | None) -> str:
        plain.set_locs([objective.score(at) for at in axis.get_majorticklocs()])
        return plain(objective.score(loss), place)

    axis.set_major_formatter(FuncFormatter(text))
    if not axis.get_inverted():
        axis.set_inverted(True)


def key(axes: Axes, names: Sequence[tuple[str, str]], *, beyond: bool = False) -> None:
    """A legend: words in their colours, in a row above the axes.

    Args:
        axes: to put the row above.
        names: of each entry, the word and its colour.
        beyond: let the row be wider than the axes; the layout then leaves no room for it, and a
            figure's title must.
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
