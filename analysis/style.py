"""One look for every figure: a colour-blind-safe palette (Okabe and Ito, 2008), thin frames, labels in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["BLUE", "GREY", "ORANGE", "figure_style"]

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#B0B0B0"


@contextmanager
def figure_style() -> Iterator[None]:
    """Within this block matplotlib draws in our style, without a display."""
    import matplotlib

    matplotlib.use("agg")
    settings = {
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#666666",
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": "#E6E6E6",
        "axes.axisbelow": True,
        "figure.facecolor": "white",
        "figure.dpi": 150,
    }
    with matplotlib.rc_context(settings):
        yield
