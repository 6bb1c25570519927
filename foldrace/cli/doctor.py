"""``foldrace doctor``: is everything there that a sweep needs, and if not, what is the remedy?"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from foldrace.errors import first_line, redacted
from foldrace.search.recording.tracking import tracking_uri

__all__ = ["Finding", "Grade", "examine"]

_LITTLE_DISK_GIB = 2.0


class Grade(Enum):
    """How serious a finding is."""

    GOOD = "good"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        what: its name.
        grade: BAD if a sweep would not run.
        found: its state.
        remedy: what to do, or "".
    """

    what: str
    grade: Grade
    found: str
    remedy: str = ""

    @property
    def bad(self) -> bool:
        """Whether a sweep would not run."""
        return self.grade is Grade.BAD

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"grade": self.grade.value}


def examine(directory: Path, data_dir: Path) -> list[Finding]:
    """Examines Python, the packages, Ray, GPUs, the disk, data sets and the tracking store.

    Changes nothing, but starts Ray once and stops it again.

    Args:
        directory: the folder of sweeps; may be missing.
        data_dir: the folder of data sets; may be missing.
    """
    checks: list[Callable[[], Finding]] = [
        _python,
        _packages,
        _ray,
        _gpus,
        lambda: _disk(directory),
        lambda: _datasets(data_dir),
        lambda: _tracking(directory),
    ]
    return [check() for check in checks]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    remedy = "" if good else "use Python 3.11 or newer"
    return Finding("Python", Grade.GOOD if good else Grade.BAD, version, remedy)


def _packages() -> Finding:
    try:
        requirements = metadata.requires("foldrace") or []
    except metadata.PackageNotFoundError:
        remedy = "run: make install (or: pip install .)"
        return Finding("packages", Grade.BAD, "foldrace is not installed", remedy)
    wrong = [problem for line in requirements for problem in _problems(Requirement(line))]
    if wrong:
        remedy = "run: make install (or: pip install -c constraints.txt .)"
        return Finding("packages", Grade.BAD, "; ".join(wrong), remedy)
    names = ("ray", "torch", "optuna", "mlflow")
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Finding("packages", Grade.GOOD, shown)


def _problems(needed: Requirement) -> Iterator[str]:
    """Why the installed packages do not meet a requirement, if they do not."""
    if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
        return
    try:
        found = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        yield f"{needed.name} is missing"
        return
    if not needed.specifier.contains(found, prereleases=True):
        yield f"{needed.name} {found} is not {needed.specifier}"


def _ray() -> Finding:
    from foldrace.search.tune.session import ray_session

    what = "Ray on this machine"
    try:
        with ray_session(None):
            import ray

            resources = ray.cluster_resources()
    except Exception as error:
        logs = f"foldrace-{os.getuid()}/ray/session_latest/logs"
        remedy = f"free memory and /dev/shm; see {logs}, in TMPDIR or /tmp"
        return Finding(what, Grade.BAD, first_line(error), remedy)
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return Finding(what, Grade.GOOD, f"starts; {cpus:g} CPUs, {gpus:g} GPUs")


def _gpus() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        return Finding("GPUs", Grade.GOOD, ", ".join(names))
    remedy = "keep resources.gpu: 0, or use --address"
    return Finding("GPUs", Grade.NOTE, "none; trials train on CPUs", remedy)


def _disk(directory: Path) -> Finding:
    what, full = "folder of sweeps", directory.resolve()
    existing = next(path for path in (full, *full.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        remedy = "choose another folder with --dir"
        return Finding(what, Grade.BAD, f"{directory}: not writable", remedy)
    free = shutil.disk_usage(existing).free / 2**30
    found = f"{directory}: {free:.0f} GiB free"
    if free <= _LITTLE_DISK_GIB:
        return Finding(what, Grade.BAD, found, "free some space, or use --dir")
    return Finding(what, Grade.GOOD, found)


def _datasets(data_dir: Path) -> Finding:
    from foldrace.trainables.data.datasets import State, list_datasets

    infos = list_datasets(data_dir)
    ready = ", ".join(info.name for info in infos if info.state is not State.NOT_FETCHED)
    missing = [info.name for info in infos if info.state is State.NOT_FETCHED]
    if not missing:
        return Finding("data sets", Grade.GOOD, f"ready: {ready}")
    remedy = f"fetched when a sweep needs them, or now: foldrace data {missing[0]}"
    found = f"ready: {ready}; not fetched: {', '.join(missing)}"
    return Finding("data sets", Grade.NOTE, found, remedy)


def _tracking(directory: Path) -> Finding:
    from foldrace.search.recording.tracking import connect

    what, uri = "tracking store", tracking_uri(directory)
    local, shown = uri.startswith("sqlite:"), redacted(uri)
    if local and not (directory / "mlflow.db").exists():
        return Finding(what, Grade.NOTE, f"{shown}: the first sweep will create it")
    try:
        count = len(connect(uri).search_experiments())
    except Exception as error:
        remedy = (
            "move mlflow.db away, or use another --dir"
            if local
            else "start the server, or unset MLFLOW_TRACKING_URI"
        )
        return Finding(what, Grade.BAD, redacted(f"{uri}: {first_line(error)}"), remedy)
    return Finding(what, Grade.GOOD, f"{shown}: {count} experiments")
