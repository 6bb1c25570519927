"""What a sweep leaves on disk, damaged or made to harm: it is used, or refused with one line."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from functools import cache
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from foldrace.cli.app import main
from foldrace.errors import StateError
from foldrace.search.recording.folder import TUNE_FORMAT, SweepState
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file
from tests.fuzz.damage import Harm, damaged

__all__ = ["run_case"]

_SPEC = Path(__file__).parents[1] / "faults" / "sweep.yaml"
_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    float("nan"),
    "",
    "../../x",
    "\0",
    "x" * 9999,
    [],
    {},
    [[]],
    {"a": {}},
)


class _Started(BaseException):
    pass


@cache
def _data_digest() -> str:
    given = load_spec(_SPEC).dataset
    return load_dataset(
        given.name, limit=given.limit, seed=given.seed, size=given.size, data_dir=Path()
    ).digest


@cache
def _checkpoint() -> bytes:
    file = BytesIO()
    tensors = {"weight": torch.arange(512.0).reshape(8, 64), "step": torch.tensor(3)}
    torch.save(
        {"trial": 3, "params": {"lr": 0.1}, "cross_validation": {"folds": [tensors, tensors]}},
        file,
    )
    return file.getvalue()


def run_case(seed: int, folder: Path) -> str:
    """Reads the records of a seed; returns ``accepted`` or ``refused``.

    Raises:
        AssertionError: something was unpickled, or an error says nothing.
        Exception: whatever is let through.
    """
    draw = random.Random(f"record/{seed}")
    place = folder / "records"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    told = (_load_checkpoint if draw.random() < 0.5 else _resume)(draw, place)
    assert not Harm.done
    return told


def _load_checkpoint(draw: random.Random, place: Path) -> str:
    """A checkpoint, with the digest that it had, or, as somebody who means harm would write it,
    with its own."""
    if draw.random() < 0.3:
        file = BytesIO()
        torch.save(draw.choice((Harm(), {"cross_validation": Harm()}, [1], 3, {})), file)
        data = file.getvalue()
    else:
        data = damaged(_checkpoint(), draw)
    path = place / CHECKPOINT_FILE
    path.write_bytes(data)
    digest = hashlib.sha256(data if draw.random() < 0.7 else _checkpoint()).hexdigest()
    path.with_suffix(".sha256").write_text(digest if draw.random() < 0.9 else digest[:9])
    try:
        assert isinstance(load_checkpoint_file(path), dict)
    except StateError as error:
        assert str(error) and "\n" not in str(error)
        return "refused"
    return "accepted"


def _resume(draw: random.Random, place: Path) -> str:
    """``foldrace resume``, up to where Ray would start."""
    sweep = place / "fault"
    sweep.mkdir()
    spec = load_spec(_SPEC).to_yaml()
    uri = f"sqlite:///{place}/mlflow.db"
    state = asdict(SweepState("key", uri, "1", 3.0, _data_digest(), spec, tune_format=TUNE_FORMAT))
    if draw.random() < 0.3:
        state[draw.choice(list(state))] = draw.choice(_VALUES)
    if draw.random() < 0.2:
        del state[draw.choice(list(state))]
    result = {"tracking_uri": "sqlite://", "run_id": "r", "best": {"trial": 1}, "trials": {}}
    if draw.random() < 0.5:
        result[draw.choice(list(result))] = draw.choice(_VALUES)
    files = {"sweep.yaml": spec, "state.json": json.dumps(state)}
    if draw.random() < 0.5:
        files["result.json"] = json.dumps(result)
    for name, text in files.items():
        data = text.encode()
        (sweep / name).write_bytes(damaged(data, draw) if draw.random() < 0.4 else data)
    out, err = StringIO(), StringIO()
    with (
        mock.patch("foldrace.search.tune.session.ray_session", side_effect=_Started),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            status = main(["resume", "fault", "--dir", str(place), "--data-dir", str(place)])
        except _Started:
            return "accepted"
    said = err.getvalue()
    assert status in (0, 2) and said.strip() and "Traceback" not in said, (status, said)
    return "refused" if status else "accepted"
