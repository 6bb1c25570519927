"""The style of all figures: a colour-blind-safe palette and matplotlib's settings."""

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
    "class_colour",
    "figure_style",
]

BLUE, ORANGE = "#0072B2", "#D55E00"
# pruned trials and context
GREY = "#B0B4B9"

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
"""Ten colours for classes, the same in both themes.

Six are Okabe and Ito's (2008). Four were chosen for the largest distance to all others in OKLab,
with normal vision and simulated protanopia and deuteranopia (Machado et al., 2009). Not everyone
can tell all ten apart, so name groups in place where possible.
"""

THEME = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "paper": PAPER,
    "blue": BLUE,
    "orange": ORANGE,
    "grey": GREY,
}
"""The colours that follow a page's theme: the name of the CSS variable, and the light colour."""


def class_colour(label: int) -> str:
    """The colour of a class; every tenth class has the same."""
    return PALETTE[label % len(PALETTE)]


@contextmanager
def figure_style() -> Iterator[None]:
    """Within this block matplotlib draws in the reports' style, without a display."""
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
        # the same ids every time
        "svg.hashsalt": "foldrace",
    }
    with matplotlib.rc_context(settings):
        yield
