"""One look for every figure: a colour-blind-safe palette (Okabe and Ito, 2008), thin frames,
labels in place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = [
    "BLUE",
    "GREY",
    "GRID",
    "INK",
    "MUTED",
    "ORANGE",
    "PALETTE",
    "PAPER",
    "THEME",
    "figure_style",
]

BLUE, ORANGE = "#0072B2", "#D55E00"
GREY = "#B0B4B9"  # what is given up, or only context

INK, MUTED, GRID, PAPER = "#1C2126", "#5E6871", "#E3E6EA", "#FDFDFE"

PALETTE = (
    "#0B79BB",
    "#D8620C",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#786072",
    "#ADB599",
    "#8A70FC",
    "#C9212E",
)
"""Ten colours for classes, the same in both themes: six of Okabe and Ito's, and four chosen for
the largest distance to all others (OKLab), seen with all cones, without L and without M (Machado
et al., 2009). Ten cannot all be told apart by everyone, so name groups in place where you can."""

THEME = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "paper": PAPER,
    "blue": BLUE,
    "orange": ORANGE,
    "grey": GREY,
}
"""Colours that follow a page's theme: by the name of their CSS variable, as they are drawn in
light."""


@contextmanager
def figure_style() -> Iterator[None]:
    """Within this block matplotlib draws in our style, without a display."""
    import matplotlib

    matplotlib.use("agg")
    settings = {
        "font.family": "sans-serif",
        "font.sans-serif": ["Liberation Sans", "Arial", "Helvetica", "DejaVu Sans"],
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.titlecolor": INK,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.linewidth": 0.7,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "axes.axisbelow": True,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
        "figure.facecolor": "white",
        "figure.dpi": 150,
        "svg.fonttype": "none",
        "svg.hashsalt": "foldrace",  # the same ids every time
    }
    with matplotlib.rc_context(settings):
        yield
