"""Options and arguments that several commands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from foldrace.errors import InputError

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
    "folder_option",
]

RUNS, DATA = Path("runs"), Path("data")
"""Where sweeps and data sets are kept by default."""


def folder_option(name: str, text: str, variable: str | None = None) -> Any:
    """An option that names a folder, on a disk or a mounted file system.

    Args:
        name: ``--dir``.
        text: its help.
        variable: the environment variable that it can be given by.
    """

    def check(given: Path | None) -> Path | None:
        if scheme := re.match(r"([a-z][a-z0-9+.-]+):/", str(given)):  # as `Path` writes s3://…
            address = f"{scheme[1]}://{str(given)[scheme.end() :].lstrip('/')}"
            hint = "mount it, or name a folder that all nodes share"
            raise InputError(name, address, "must be a folder; object storage is not one", hint)
        return given

    return typer.Option(name, help=text, envvar=variable, metavar="DIR", callback=check)


Directory = Annotated[Path, folder_option("--dir", "Folder of sweeps.", "FOLDRACE_DIR")]
DataDirectory = Annotated[
    Path, folder_option("--data-dir", "Folder of data sets.", "FOLDRACE_DATA_DIR")
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print a JSON object as standard output's last line."),
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
