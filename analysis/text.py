"""Numbers, counts and lists of names as text, for sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["digits", "listed", "p_text", "percent", "plural"]


def digits(value: float | None, count: int = 4) -> str:
    """A number to ``count`` significant digits; ``–`` for one that is missing or not finite.

    >>> digits(0.017264), digits(-1.5, 2), digits(1.5e-9), digits(None)
    ('0.01726', '−1.5', '1.500e−09', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    size = math.floor(math.log10(abs(value))) if value else 0
    text = (
        f"{value:.{count - 1}e}"
        if size < -5 or size > 6
        else f"{value:.{max(0, count - 1 - size)}f}"
    )
    return text.replace("-", "−")


def p_text(p: float) -> str:
    """A p value as text: ``0.034``, or ``< 0.001``, with a no-break space."""
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.2f}" if p >= 0.095 else f"{p:.3f}"


def listed(names: Sequence[str]) -> str:
    """Names as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"]), listed([])
    ('a', 'a and b', 'a, b and c', '')
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "trial"), plural(2, "trial"), plural(0, "trial")
    ('1 trial', '2 trials', 'no trials')
    """
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def percent(share: float) -> str:
    """A share as a whole percentage, with a no-break space.

    >>> percent(0.25), percent(-0.1)
    ('25\\xa0%', '−10\\xa0%')
    """
    return f"{share:.0%}".replace("%", "\N{NO-BREAK SPACE}%").replace("-", "−")
