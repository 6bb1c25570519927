"""Damage to files, and a pickle that would tell."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["Harm", "damaged"]


class Harm:
    """Unpickled, it is noticed: ``done`` is true then."""

    done = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (Harm, "done", True)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """``data``, often with a few bytes lost, changed or added."""
    for _ in range(draw.choice((0, 0, 0, 1, 3))):
        if not data:
            break
        at = draw.randrange(len(data))
        match draw.randrange(5):
            case 0:
                data = data[:at]
            case 1:
                data = data[at:]
            case 2:
                data = data[:at] + bytes(draw.randrange(256) for _ in range(8)) + data[at + 8 :]
            case 3:
                data = data[:at] + bytes(16) + data[at:]
            case _:
                tail = max(0, len(data) - 200)  # a zip file's directory
                data = data[:tail] + bytes(b ^ (draw.random() < 0.02) * 255 for b in data[tail:])
    return data
