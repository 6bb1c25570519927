"""Marks that several figures share: bands, dots, curves of means, labels beside points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

__all__ = ["band", "dots", "label", "mean_curve", "ring", "rows"]

_RING_SIZES = {"D": 6, "o": 11}


def band(
    axes: Axes,
    x: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    colour: str,
    **options: Any,
) -> None:
    """Shades the area between two curves: an interval, or a standard error."""
    axes.fill_between(x, low, high, color=colour, **({"alpha": 0.16, "linewidth": 0} | options))


def dots(axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike, colour: str, **options: Any) -> None:
    """Filled dots without an edge."""
    axes.plot(x, y, "o", color=colour, **({"markersize": 4, "markeredgewidth": 0} | options))


def ring(
    axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike, colour: str, mark: Literal["D", "o"] = "D"
) -> None:
    """Hollow marks: small diamonds, or wide circles around dots."""
    axes.plot(
        x,
        y,
        mark,
        markersize=_RING_SIZES[mark],
        markeredgecolor=colour,
        markerfacecolor="none",
        zorder=4,
    )


def mean_curve(axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike, colour: str) -> None:
    """A curve of means with a small dot at each."""
    axes.plot(x, y, color=colour, linewidth=2, marker="o", markersize=3)


def label(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float] = (5, 0),
    **options: Any,
) -> Annotation:
    """Text ``offset`` points from a point; vertically centred unless ``va`` is given."""
    return axes.annotate(
        text, at, xytext=offset, textcoords="offset points", **({"va": "center"} | options)
    )


def rows(axes: Axes, names: list[str], *, low: float = 0.6, high: float = 0.4) -> None:
    """Turns the y axis into rows from the top down, one a name, without grid lines and ticks.

    Args:
        low, high: the room above the first row and below the last, in rows.
    """
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 1 + high, -low)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
