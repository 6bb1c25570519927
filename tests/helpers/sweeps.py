"""Runs sweeps for the tests, and reads back what they left."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from foldrace.cli.app import main
from foldrace.search.recording.tracking import connect
from tests.helpers.stores import write_tables

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "search" / "specs" / "quick.yaml"
SMALL_DIGITS = "dataset={name: digits, limit: 240, seed: 0, size: [12, 12]}"

RACE = [
    SMALL_DIGITS,
    "epochs=3",
    "space.lr={log: [1e-6, 1e-2]}",
    "search={sampler: random, trials: 4, seed: 0, start_with: "
    "[{optimizer: adam, lr: 3e-3, batch_size: 32}, {optimizer: adam, lr: 1e-6, batch_size: 32}]}",
]
"""Overrides of quick.yaml: a good and a hopeless configuration first, then two random ones;
seconds of training."""

TIMES = {"train_seconds"}


def environment() -> dict[str, str]:
    """For a process that runs the command line."""
    left_out = {"MLFLOW_TRACKING_URI", "FOLDRACE_DIR", "FOLDRACE_DATA_DIR", "RAY_ADDRESS"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }


def sweep_arguments(spec: Path, root: Path, overrides: list[str]) -> list[str]:
    sets = [part for override in overrides for part in ("--set", override)]
    return [
        "sweep",
        str(spec),
        *sets,
        "--dir",
        str(root),
        "--data-dir",
        str(root / "data"),
        "--json",
    ]


@dataclass(frozen=True)
class Swept:
    """What a sweep answered, and its record in MLflow."""

    status: int
    out: str
    err: str
    root: Path

    @cached_property
    def result(self) -> dict[str, Any]:
        """The JSON object on standard output's last line."""
        result: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return result

    @cached_property
    def record(self) -> Record:
        return Record(connect(f"sqlite:///{self.root}/mlflow.db"))


def run_alone(spec: Path, root: Path, overrides: list[str]) -> Swept:
    """A sweep in a process of its own, on a Ray and a store of its own."""
    command = [sys.executable, "-m", "foldrace", *sweep_arguments(spec, root, overrides)]
    done = subprocess.run(
        command, cwd=root, env=environment(), capture_output=True, text=True, timeout=200
    )
    return Swept(done.returncode, done.stdout, done.stderr, root)


def run_here(spec: Path, root: Path, overrides: list[str], address: str) -> Swept:
    """A sweep in this process, on a Ray cluster that is there already."""
    write_tables(root)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([*sweep_arguments(spec, root, overrides), "--address", address])
    return Swept(status, out.getvalue(), err.getvalue(), root)


class Record:
    """All runs of a store that holds one sweep."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        self.runs: list[Run] = client.search_runs(experiments, max_results=1000)

    def level(self, level: str) -> list[Run]:
        return [run for run in self.runs if run.data.tags.get("foldrace.level") == level]

    @cached_property
    def sweep(self) -> Run:
        [run] = self.level("sweep")
        return run

    @cached_property
    def trials(self) -> Mapping[int, Run]:
        return {int(run.data.tags["foldrace.trial"]): run for run in self.level("trial")}

    @cached_property
    def folds(self) -> Mapping[tuple[int, int], Run]:
        tags = {run.info.run_id: run.data.tags for run in self.level("fold")}
        return {
            (
                int(tags[run.info.run_id]["foldrace.trial"]),
                int(tags[run.info.run_id]["foldrace.fold"]),
            ): run
            for run in self.level("fold")
        }

    def history(self, run: Run, metric: str) -> dict[int, float]:
        """step → value; every step once."""
        points = self.client.get_metric_history(run.info.run_id, metric)
        assert len({point.step for point in points}) == len(points), (run.info.run_name, metric)
        return {point.step: point.value for point in points}

    @cached_property
    def numbers(self) -> dict[tuple[object, ...], float]:
        """(run's name, metric, step) → value of every trial and fold, but the times."""
        return {
            (run.info.run_name, metric, step): value
            for run in (*self.trials.values(), *self.folds.values())
            for metric in run.data.metrics
            if metric not in TIMES
            for step, value in self.history(run, metric).items()
        }

    @cached_property
    def params(self) -> dict[int, dict[str, str]]:
        return {number: dict(run.data.params) for number, run in self.trials.items()}

    def artifacts(self, run: Run, path: str, into: Path) -> Path:
        return Path(self.client.download_artifacts(run.info.run_id, path, str(into)))
