"""Commands about data, and about this machine: ``data``, ``schema``, ``ui``, ``doctor``."""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from foldrace.cli.messages import FAILED, out, print_json, show
from foldrace.cli.options import DATA, RUNS, AsJson, DataDirectory, Directory

if TYPE_CHECKING:
    from foldrace.trainables.data.arrays import Dataset, Fields
    from foldrace.trainables.data.sample import FieldInfo

__all__ = ["PANEL", "app"]

PANEL = "Data and this machine"
app = typer.Typer()

_CLASSES = 20  # whose numbers of images are shown


@app.command(rich_help_panel=PANEL)
def data(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The data set to fetch, or your own to examine; by default all with a name are"
            " listed.",
        ),
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="HEIGHT WIDTH", help="Resize the images, as `size` does in a sweep."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Read items one by one, as `workers` does in a sweep."
        ),
    ] = None,
    data_dir: DataDirectory = DATA,
) -> None:
    """List the data sets, fetch one, or show how your own is understood.

    Of your own (a .npz, .npy, .csv or .parquet file, a folder, ./file.py:function) warnings say
    what is left out, and why.
    """
    from foldrace.cli.tables import datasets_table
    from foldrace.errors import InputError
    from foldrace.trainables.data.datasets import fetch, list_datasets, load_dataset
    from foldrace.trainables.data.references import ReferenceKind, reference_kind

    for option, given in (("--size", size and list(size)), ("--workers", workers)):
        if given is not None and not name:
            raise InputError(option, given, "needs a data set", "name one before it")
    own = name is not None and reference_kind(name) is not ReferenceKind.NAMED
    if name is not None and (size or workers is not None or own):
        for line in _described(load_dataset(name, size=size, workers=workers, data_dir=data_dir)):
            show(line)
        return
    out.print(datasets_table([fetch(name, data_dir)] if name else list_datasets(data_dir)))
    if not name:
        also = "Also: a file (.npz, .npy, .csv, .parquet), a folder, or ./file.py:function."
        out.print(f"{also} See docs/how-to/data.md.", style="dim")


def _described(dataset: Dataset) -> Iterator[str]:
    """How a data set has been understood, one line each."""
    from foldrace.trainables.data.sample import ROLES

    sample = dataset.sample
    held_out = ", a part of its own" if dataset.positions is None else ", held out of all samples"
    yield f"read from      {dataset.source}"
    for note in dataset.notes:
        yield f"note           {note}"
    roles = {getattr(sample.roles, role): role for role in ROLES}
    for name, info in sample.fields.items():
        yield f"{roles.get(name, 'input'):<14} {_field(info)}"
    yield f"training part  {len(dataset):,} samples{_by_class(dataset, dataset.training)}"
    test = _by_class(dataset, dataset.test)
    yield f"test part      {dataset.test_count:,} samples{held_out}{test}"
    if (groups := dataset.groups) is not None:
        yield f"groups         {len(set(groups.tolist())):,}"
    yield f"fingerprint    {dataset.digest}"


def _field(info: FieldInfo) -> str:
    """``x: 13 numbers, float32, from 0 to 711``."""
    shape = " × ".join("…" if size is None else str(size) for size in info.shape)
    if info.image:
        return f"{info.name}: images of {shape} (channels × height × width), bytes"
    kind = f"{shape} of {info.dtype}" if shape else info.dtype
    if info.ragged:
        kind = f"sequences of unequal length, {kind}"
    if info.classes is not None:
        return f"{info.name}: {info.classes:,} classes, {kind}"
    known = not math.isnan(info.low)
    return f"{info.name}: {kind}" + (f", from {info.low:g} to {info.high:g}" if known else "")


def _by_class(dataset: Dataset, part: Fields) -> str:
    """``: cat (800), dog (817)``, of the first classes."""
    import numpy as np

    target = dataset.sample.target
    if target is None or target.name not in part:
        return ", no labels"
    if target.classes is None:
        return ""
    labels = part[target.name]
    assert isinstance(labels, np.ndarray)
    counts = sorted(Counter(labels.tolist()).items())
    names = dict(enumerate(target.names))
    listed = ", ".join(f"{names.get(i, i)} ({count:,})" for i, count in counts[:_CLASSES])
    more = f" and {len(counts) - _CLASSES:,} classes more" if len(counts) > _CLASSES else ""
    return f": {listed}{more}"


@app.command(rich_help_panel=PANEL)
def schema() -> None:
    """Print the JSON schema of a sweep file, for editors."""
    from foldrace.search.spec.sweep_spec import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command(rich_help_panel=PANEL)
def ui(
    directory: Directory = RUNS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open the MLflow UI on the sweeps in --dir; Ctrl-C ends it."""
    from foldrace.search.recording.folder import find_sweep

    state = find_sweep(directory, None).read_state()
    page = f"#/experiments/{state.experiment_id}/runs?workflowType=machine_learning"
    if state.tracking_uri.startswith("http"):
        show(f"The latest sweep is on a server: {state.tracking_uri.rstrip('/')}/{page}")
        return
    show(f"MLflow, at the latest sweep: http://127.0.0.1:{port}/{page}  (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Not an argument: every user of the machine can read those, and it may hold a password.
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": state.tracking_uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    os.execve(sys.executable, command, environment)


@app.command(rich_help_panel=PANEL)
def doctor(
    directory: Directory = RUNS, data_dir: DataDirectory = DATA, as_json: AsJson = False
) -> None:
    """Check Python, packages, Ray, GPUs, data and the tracking store, and name remedies."""
    from foldrace.cli.doctor import examine
    from foldrace.cli.tables import findings_table

    findings = examine(directory, data_dir)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        out.print(findings_table(findings))
    if any(finding.bad for finding in findings):
        raise typer.Exit(FAILED)
