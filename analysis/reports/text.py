"""Numbers and lists as a sentence or a table has them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from foldrace.analysis.statistics.intervals import Interval

__all__ = ["figure", "listed", "p_text", "plural", "plus_minus"]


def figure(value: float | None, digits: int = 4) -> str:
    """``0.01726``: a number to so many significant digits, a minus as such; ``–`` for what is
    missing or infinite."""
    if value is None or not math.isfinite(value):
        return "–"
    size = math.floor(math.log10(abs(value))) if value else 0
    text = (
        f"{value:.{digits - 1}e}"
        if size < -5 or size > 6
        else f"{value:.{max(0, digits - 1 - size)}f}"
    )
    return text.replace("-", "−")


def plus_minus(interval: Interval) -> str:
    """``0.01726 ± 0.00012``: a mean and half its interval, both to the place of the latter's
    second digit."""
    half = interval.high - interval.mean
    if not math.isfinite(half):
        return figure(interval.mean)
    places = 1 - math.floor(math.log10(half)) if half > 0 else 5
    if not 0 <= places <= 7:
        return f"{figure(interval.mean)} ± {figure(half, 2)}"
    return f"{interval.mean:.{places}f} ± {half:.{places}f}".replace("-", "−")


def p_text(p: float) -> str:
    """``0.034``, or ``< 0.001``, unbroken."""
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.2f}" if p >= 0.095 else f"{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return (
        " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part) if names else ""
    )


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``, ``no trials``."""
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def percent(share: float, digits: int = 0) -> str:
    """``12 %``: a share as a percentage with an unbreakable space and a true minus.

    >>> percent(-0.1234)
    '−12\\xa0%'
    """
    return f"{share:.{digits}%}".replace("%", "\N{NO-BREAK SPACE}%").replace("-", "−")
