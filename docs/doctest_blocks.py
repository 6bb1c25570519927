"""Lets doctest examples in docstrings appear as code on the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"(?m)^(?:>>>|\.\.\.) ?.*(?:\n(?!\s*$).*)*")


class DoctestBlocks(griffe.Extension):
    """Puts each block that begins with ``>>>`` into a fence, which Markdown would else quote."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes one object's docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
