"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "DATA",
    "RUNS",
    "AsJson",
    "DataDirectory",
    "Directory",
    "OutputFolder",
    "Overrides",
    "RayAddress",
    "Refit",
    "SweepName",
    "TrackingServer",
]

RUNS, DATA = Path("runs"), Path("data")
"""Where sweeps and data sets are kept by default."""

Directory = Annotated[Path, typer.Option("--dir", help="Folder of sweeps.", envvar="FOLDRACE_DIR")]
DataDirectory = Annotated[
    Path, typer.Option("--data-dir", help="Folder of data sets.", envvar="FOLDRACE_DATA_DIR")
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on the last line of standard output."),
]
SweepName = Annotated[
    str | None,
    typer.Argument(metavar="SWEEP", help="A sweep's name; by default the latest sweep."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="A Ray cluster (`auto`, `host:6379`); by default Ray starts on this machine.",
    ),
]
TrackingServer = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="The MLflow server that has the sweep's record."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value, such as `search.trials=8`. Repeatable.",
    ),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit",
        help="Then train the best configuration on all training data, and test it once.",
    ),
]
OutputFolder = Annotated[
    Path | None, typer.Option("--output", "-o", help="Folder for figures, PNG and SVG.")
]
