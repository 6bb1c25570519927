"""Tasks of a user's whose parameters have odd names: each is prepared, or refused by its name."""

from __future__ import annotations

import random
from io import StringIO
from pathlib import Path
from typing import Any

from foldrace.cli.messages import UserConsole
from foldrace.errors import InputError
from foldrace.search.preparing.prepare import prepare
from foldrace.search.recording.mlflow_internals import check_name
from foldrace.search.spec.sweep_spec import parse_spec

__all__ = ["run_case"]

_PARTS = (
    *("lr", "a", "x", "alpha", "units", "0", "_", "-", ".", " ", "/", "//", "..", "=", "[0]"),
    *(":fire:", "[red]", "[/red]", "\n", "\t", "é", "名", "🔥", "\u202e", "\x00", "\x1b[31m"),
    *("%s", "{}", "'", '"', "\\", "`", "$(x)", "<b>", "a" * 260, "optimizer", "epochs", "loss"),
)
_TASK = """
import torch

class Mine:
    parameters = {{{name!r}: {default!r}}}

    def build(self, params, sample_shape):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, 1))

    def losses(self, model, images, params):
        assert {name!r} in params
        return {{"loss": model(images).square().flatten()}}
"""


def run_case(seed: int, folder: Path) -> str:
    """Prepares a sweep of one task; ``accepted``, or ``refused`` with one line that names it.

    Raises:
        AssertionError: the line is not one, or does not show the name as it is.
    """
    draw = random.Random(seed)
    name = "".join(draw.choice(_PARTS) for _ in range(draw.randint(1, 3)))
    default = draw.choice([1, 0.5, True, "text", None, (1,)])
    path = folder / f"task_{seed}.py"
    path.write_text(_TASK.format(name=name, default=default), encoding="utf-8")
    keys: dict[str, Any] = {
        "task": f"{path}:Mine",
        "dataset": {"name": "digits", "limit": 60, "size": [12, 12]},
        "search": {"trials": 1},
    }
    try:
        prepare(parse_spec(keys, folder), folder)
    except InputError as error:
        text = str(error)
        assert len(text.splitlines()) == 1 and text.isprintable(), repr(text)
        shown = StringIO()
        UserConsole(file=shown, width=100_000).print(text, soft_wrap=True)
        assert shown.getvalue().rstrip("\n") == text, (shown.getvalue(), text)
        return "refused"
    finally:
        path.unlink()
    check_name("task", name)  # an accepted name can be recorded
    return "accepted"
