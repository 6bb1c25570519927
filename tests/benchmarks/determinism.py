"""The effect and the cost of ``search.deterministic``.

``python -m tests.benchmarks.determinism OUT``: the same sweep, four trials at a time, on local Ray
clusters of 1, 2 and 4 CPUs, alternately with the option and without. Then once more with the
option for each number of CPUs, while a busy process runs on every core. A result is what
``--json`` prints, without the times, and every metric of every trial and fold in MLflow.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldrace.search.spec.sweep_spec import load_spec
from tests.benchmarks.arguments import (
    benchmark_parser,
    one_or_more,
    parse_out,
    refusing,
    say_written,
)
from tests.benchmarks.spread import Spread, paired_ratios, write_record

__all__ = ["Run", "main", "run_sweep", "summary"]

SPEC = Path("tests/benchmarks/specs/bench-determinism.yaml")
_LEFT_OUT = ("wall_seconds", "run_id", "tracking_uri", "sweep")
_POINTS = """
select r.name, m.key, m.step, m.value, m.is_nan
from metrics m join runs r on r.run_uuid = m.run_uuid
where r.name like 'trial %' and m.key <> 'train_seconds' order by 1, 2, 3, 4, 5
"""
_COUNT = "while True: pass"


@dataclass(frozen=True)
class Run:
    """One sweep: its setting, its own seconds, its fold-epochs, and its result's digest."""

    workers: int
    deterministic: bool
    loaded: bool
    seconds: float
    fold_epochs: int
    digest: str


@contextmanager
def _load(on: bool) -> Iterator[None]:
    """Keeps every core busy within the block, at the priority that Ray gives its workers."""
    command = ["nice", "-n", "15", sys.executable, "-c", _COUNT]
    busy = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)] if on else []
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run_sweep(
    workers: int, *, deterministic: bool, loaded: bool, overrides: Sequence[str] = ()
) -> Run:
    """Runs the sweep on a local Ray cluster with this number of CPUs.

    Raises:
        subprocess.CalledProcessError: the sweep fails.
    """
    from ray.cluster_utils import Cluster

    values = [f"search.deterministic={str(deterministic).lower()}", *overrides]
    options = [part for value in values for part in ("--set", value)]
    head = {"num_cpus": workers, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        with tempfile.TemporaryDirectory() as folder, _load(loaded):
            places = ["--dir", folder, "--address", cluster.address, "--json"]
            command = [sys.executable, "-m", "foldrace", "sweep", str(SPEC), *places, *options]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            result = json.loads(done.stdout.splitlines()[-1])
            with closing(sqlite3.connect(Path(folder) / "mlflow.db")) as base:
                points = list(base.execute(_POINTS))
    finally:
        cluster.shutdown()
    told = {name: value for name, value in result.items() if name not in _LEFT_OUT}
    digest = hashlib.sha256(json.dumps([told, points], sort_keys=True).encode()).hexdigest()[:12]
    return Run(
        workers, deterministic, loaded, result["wall_seconds"], result["fold_epochs"], digest
    )


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The number of different results with the option and without, and its cost by workers."""
    found: dict[str, Any] = {}
    for deterministic in (True, False):
        its = [run for run in runs if run.deterministic is deterministic]
        name = "deterministic" if deterministic else "as it comes"
        found[f"{name}: results"] = (
            f"{len({run.digest for run in its})} different in {len(its)} sweeps"
        )
    for workers in sorted({run.workers for run in runs}):
        sides = [
            [
                run
                for run in runs
                if (run.workers, run.deterministic, run.loaded) == (workers, deterministic, False)
            ]
            for deterministic in (True, False)
        ]
        seconds = [[run.seconds for run in side] for side in sides]
        found[f"{workers} workers: seconds, deterministic"] = Spread.of(seconds[0])
        found[f"{workers} workers: seconds, as it comes"] = Spread.of(seconds[1])
        found[f"{workers} workers: ratio"] = paired_ratios(*seconds)
        spent = [[run.fold_epochs for run in side] for side in sides]
        found[f"{workers} workers: ratio of fold-epochs"] = paired_ratios(*spent)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; writes determinism.json into OUT and prints the summary."""
    parser = benchmark_parser(
        "determinism", "What the deterministic order costs a sweep.", rounds=3
    )
    parser.add_argument(
        "--workers", type=one_or_more, nargs="+", default=[1, 2, 4], metavar="N", help="at a time"
    )
    parser.add_argument("--set", action="append", default=[], help="an override of the sweep file")
    asked = parse_out(parser, arguments)
    with refusing(parser):
        load_spec(SPEC, asked.set)
    settings = [
        (workers, turn, False)
        for _ in range(asked.rounds)
        for workers in asked.workers
        for turn in (1, 0)
    ]
    settings += [(workers, 1, True) for workers in asked.workers]
    runs = []
    for workers, deterministic, loaded in settings:
        run = run_sweep(
            workers, deterministic=bool(deterministic), loaded=loaded, overrides=asked.set
        )
        runs.append(run)
        how = "deterministic" if deterministic else "as it comes"
        where = "a loaded machine" if loaded else "an idle one"
        print(
            f"{workers} workers on {where}, {how}: {run.seconds:.1f} s, {run.digest}", flush=True
        )
    found = summary(runs)
    for name, value in found.items():
        print(f"{name}: {value.text() if isinstance(value, Spread) else value}")
    write_record(
        asked.out / "determinism.json",
        "determinism",
        {"summary": found, "runs": [vars(run) for run in runs]},
    )
    say_written(asked.out / "determinism.json")


if __name__ == "__main__":
    main()
