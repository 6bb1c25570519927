"""Is everything there that a sweep needs, and if not, what to do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich.table import Table

from foldrace.errors import first_line
from foldrace.search.recording.tracking import tracking_uri

__all__ = ["Finding", "Grade", "examine", "findings_table"]

_LITTLE_DISK_GIB = 2.0


class Grade(Enum):
    """How serious a finding is."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing examined: what it is, how it was found, and the remedy if it is not well."""

    what: str
    grade: Grade
    found: str
    remedy: str = ""

    @property
    def bad(self) -> bool:
        """A sweep would not run."""
        return self.grade is Grade.BAD

    @property
    def mark(self) -> str:
        """For a terminal."""
        return {Grade.GOOD: "[green]✓[/]", Grade.NOTE: "[yellow]·[/]", Grade.BAD: "[red]✗[/]"}[
            self.grade
        ]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"grade": self.grade.value}


def examine(directory: Path, data_dir: Path) -> list[Finding]:
    """Looks at Python, the packages, Ray, GPUs, disk, data sets and the tracking store. Changes
    nothing."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _ray,
        _gpus,
        lambda: _disk(directory),
        lambda: _data(data_dir),
        lambda: _tracking(directory),
    ]
    return [finding for check in checks for finding in check()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Finding(
        "Python",
        Grade.GOOD if good else Grade.BAD,
        version,
        "" if good else "use Python 3.11 or newer",
    )


def _packages() -> Iterator[Finding]:
    try:
        lines = metadata.requires("foldrace") or []
    except metadata.PackageNotFoundError:
        yield Finding(
            "packages",
            Grade.BAD,
            "foldrace is not installed",
            "run: make install (or: pip install .)",
        )
        return
    wrong = []
    for line in lines:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{needed.name} {found} is not {needed.specifier}")
    if wrong:
        yield Finding(
            "packages",
            Grade.BAD,
            "; ".join(wrong),
            "run: make install (or: pip install -c constraints.txt .)",
        )
    else:
        shown = ", ".join(
            f"{name} {metadata.version(name)}" for name in ("ray", "torch", "optuna", "mlflow")
        )
        yield Finding("packages", Grade.GOOD, shown)


def _ray() -> Iterator[Finding]:
    from foldrace.search.tune.session import ray_session

    try:
        with ray_session(None):
            import ray

            resources = ray.cluster_resources()
        found = f"starts; {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
        yield Finding("Ray on this machine", Grade.GOOD, found)
    except Exception as error:
        text = first_line(error)
        yield Finding(
            "Ray on this machine",
            Grade.BAD,
            text,
            "free memory and /dev/shm; see /tmp/ray/session_latest/logs",
        )


def _gpus() -> Iterator[Finding]:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        yield Finding("GPUs", Grade.GOOD, ", ".join(names))
    else:
        yield Finding(
            "GPUs",
            Grade.NOTE,
            "none; trials train on CPUs",
            "keep resources.gpu: 0, or use --address",
        )


def _disk(directory: Path) -> Iterator[Finding]:
    there = next(p for p in (directory.resolve(), *directory.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free / 2**30
    writable = os.access(there, os.W_OK)
    good = writable and free > _LITTLE_DISK_GIB
    remedy = (
        ""
        if good
        else "choose another folder with --dir"
        if not writable
        else "free some space, or use --dir"
    )
    found = f"{directory}: {free:.0f} GiB free" if writable else f"{directory}: not writable"
    yield Finding("folder of sweeps", Grade.GOOD if good else Grade.BAD, found, remedy)


def _data(data_dir: Path) -> Iterator[Finding]:
    from foldrace.trainables.data.datasets import State, list_datasets

    infos = list_datasets(data_dir)
    ready = [info.name for info in infos if info.state is not State.NOT_FETCHED]
    missing = [info.name for info in infos if info.state is State.NOT_FETCHED]
    remedy = (
        f"fetched when a sweep needs them, or now: foldrace data {missing[0]}" if missing else ""
    )
    found = (
        "ready: " + ", ".join(ready) + (f"; not fetched: {', '.join(missing)}" if missing else "")
    )
    yield Finding("data sets", Grade.NOTE if missing else Grade.GOOD, found, remedy)


def _tracking(directory: Path) -> Iterator[Finding]:
    from foldrace.search.recording.tracking import connect

    uri = tracking_uri(directory)
    if uri.startswith("sqlite:") and not (directory / "mlflow.db").exists():
        yield Finding("tracking store", Grade.NOTE, f"{uri}: made by the first sweep")
        return
    try:
        count = len(connect(uri).search_experiments())
    except Exception as error:
        text = first_line(error)
        local = uri.startswith("sqlite:")
        remedy = (
            "move mlflow.db away, or use another --dir"
            if local
            else "start the server, or unset MLFLOW_TRACKING_URI"
        )
        yield Finding("tracking store", Grade.BAD, f"{uri}: {text}", remedy)
        return
    yield Finding("tracking store", Grade.GOOD, f"{uri}: {count} experiments")


def findings_table(findings: Sequence[Finding]) -> Table:
    """What was examined, what was found, and what to do about it."""
    table = Table("", "what", header_style="bold")
    table.add_column("found", overflow="fold")
    table.add_column("what to do")
    for finding in findings:
        table.add_row(finding.mark, finding.what, finding.found, finding.remedy)
    return table
