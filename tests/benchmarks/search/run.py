"""Time and fold-epochs to the same cross-validated loss: a sweep, Optuna, and plain Ray Tune.

``python -m tests.benchmarks.search OUT [--seeds N]`` (``make bench-search``): every side has the
same space, data, folds, number of trials and two workers. It runs in its own process, timed from
the start, in alternating order. Then follow a sweep and full cross-validation of the same
configurations, to compare their winners.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foldrace.search.recording.tracking import connect
from tests.benchmarks.search.figure import draw_benchmark

__all__ = ["ProgressPoint", "Run", "compare", "main", "same_loss"]

SIDES = ("foldrace", "optuna", "tune")
SPEC = Path("tests/benchmarks/specs/benchmark.yaml")


@dataclass(frozen=True)
class ProgressPoint:
    """A report of a trial.

    Attributes:
        seconds: since the start of the side.
        fold_epochs: of all trials by then.
        loss: of a configuration that has just completed; None otherwise.
    """

    seconds: float
    fold_epochs: int
    loss: float | None


@dataclass(frozen=True)
class Run:
    """One side with one seed."""

    side: str
    seed: int
    seconds: float
    steps: Sequence[ProgressPoint]

    @property
    def best(self) -> float:
        """The lowest loss of a completed configuration."""
        return min((step.loss for step in self.steps if step.loss is not None), default=math.inf)

    def reaches(self, loss: float) -> ProgressPoint | None:
        """The first point with a completed configuration at least as good; None if never."""
        return next(
            (step for step in self.steps if step.loss is not None and step.loss <= loss), None
        )


def same_loss(runs: Sequence[Run]) -> float:
    """The lowest loss that all sides reach."""
    return max(run.best for run in runs)


def compare(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each seed: the cost of each side to the loss that all reach, and its ratio to ours."""
    rows = []
    for seed in sorted({run.seed for run in runs}):
        sides = {run.side: run for run in runs if run.seed == seed}
        loss = same_loss(list(sides.values()))
        needed = {side: run.reaches(loss) for side, run in sides.items()}
        ours = needed["foldrace"]
        assert ours is not None
        row: dict[str, Any] = {"seed": seed, "loss": loss}
        for side, step in needed.items():
            assert step is not None
            row[side] = {
                "seconds": round(step.seconds, 1),
                "fold_epochs": step.fold_epochs,
                "times_seconds": round(step.seconds / ours.seconds, 2),
                "times_fold_epochs": round(step.fold_epochs / ours.fold_epochs, 2),
                "total_seconds": round(sides[side].seconds, 1),
                "total_fold_epochs": sides[side].steps[-1].fold_epochs,
                "best": sides[side].best,
            }
        rows.append(row)
    return rows


def run_side(side: str, seed: int, folder: Path, data_dir: Path, overrides: Sequence[str]) -> Run:
    """Runs one side in its own process."""
    folder.mkdir(parents=True)
    started = time.time()
    sets = [part for override in overrides for part in ("--set", override)]
    data = ["--data-dir", str(data_dir)]
    if side == "foldrace":
        command = [
            "foldrace",
            "sweep",
            str(SPEC),
            "--set",
            f"search.seed={seed}",
            "--dir",
            str(folder),
            *sets,
            *data,
        ]
        _run(command, folder)
        steps = _sweep_steps(folder, started)
    else:
        out = folder / "events.json"
        _run(
            [
                "tests.benchmarks.search.rivals",
                side,
                str(SPEC),
                str(out),
                "--seed",
                str(seed),
                *sets,
                *data,
            ],
            folder,
        )
        steps = _steps(
            [(at - started, news, loss) for at, news, loss in json.loads(out.read_text())]
        )
    return Run(side, seed, time.time() - started, steps)


def _run(arguments: Sequence[str], folder: Path) -> None:
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", *arguments], stdout=log, stderr=log, check=False
        )
    # 3: some trial has failed, as is to be expected with high learning rates
    if done.returncode not in (0, 3):
        raise SystemExit(
            f"{' '.join(arguments)} ended with {done.returncode}; see {folder / 'log'}"
        )


def _sweep_steps(folder: Path, started: float) -> list[ProgressPoint]:
    """The reports of all trials of the sweep in a folder, from its record."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = connect(uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    trials = client.search_runs(experiments, "tags.`foldrace.level` = 'trial'", max_results=10_000)
    events = []
    for trial in trials:
        points = {
            name: {
                point.step: point for point in client.get_metric_history(trial.info.run_id, name)
            }
            for name in ("fold_epochs", "val_loss")
        }
        spent = 0
        last = max(points["fold_epochs"], default=0)
        for step, point in sorted(points["fold_epochs"].items()):
            whole = trial.info.status == "FINISHED" and step == last
            loss = points["val_loss"][step].value if whole and step in points["val_loss"] else None
            events.append((point.timestamp / 1000 - started, step - spent, loss))
            spent = step
    return _steps(events)


def _steps(events: Sequence[tuple[float, int, float | None]]) -> list[ProgressPoint]:
    steps, spent = [], 0
    for seconds, news, loss in sorted(events, key=lambda event: event[0]):
        spent += news
        steps.append(ProgressPoint(seconds, spent, loss))
    return steps


def same_configurations(
    seed: int, folder: Path, data_dir: Path, overrides: Sequence[str]
) -> dict[str, Any]:
    """A race and full cross-validation of the same random configurations, compared."""
    found = {}
    for kind in ("promotion", "fifo"):
        place = folder / kind
        more = [*overrides, "search.sampler=random", f"scheduler.kind={kind}"]
        run_side("foldrace", seed, place, data_dir, more)
        found[kind] = json.loads(next(place.glob("*/result.json")).read_text())
    race, full = found["promotion"], found["fifo"]
    ours, theirs = race["best"]["val_loss"], full["best"]["val_loss"]
    return {
        "seed": seed,
        "winner": {"race": race["best"]["trial"], "full": full["best"]["trial"]},
        "loss": {
            "race": ours["mean"],
            "full": theirs["mean"],
            "standard_error": theirs["standard_error"],
        },
        "within_standard_error": ours["mean"] <= theirs["mean"] + theirs["standard_error"],
        "fold_epochs": {"race": race["fold_epochs"], "full": full["fold_epochs"]},
        "seconds": {"race": race["wall_seconds"], "full": full["wall_seconds"]},
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The geometric mean, the lowest and the highest ratio of each rival over the seeds."""
    found: dict[str, Any] = {}
    for side in SIDES[1:]:
        for what in ("times_seconds", "times_fold_epochs"):
            values = [float(row[side][what]) for row in rows]
            mean = math.exp(math.fsum(map(math.log, values)) / len(values))
            found[f"{side} {what}"] = {
                "mean": round(mean, 2),
                "low": min(values),
                "high": max(values),
                "n": len(values),
            }
    return found


def main() -> None:
    """Runs the benchmark; writes benchmark.json and prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--set", action="append", default=[])
    asked = parser.parse_args()
    if asked.out.exists():
        raise SystemExit(f"{asked.out} exists; move it away, or name another folder")
    asked.out.mkdir(parents=True)
    runs, same = [], []
    for seed in range(1, asked.seeds + 1):
        for turn in range(len(SIDES)):
            side = SIDES[(turn + seed) % len(SIDES)]
            runs.append(
                run_side(side, seed, asked.out / f"{side}-{seed}", asked.data_dir, asked.set)
            )
            print(
                f"seed {seed}, {side}: {runs[-1].seconds:.0f} s, best {runs[-1].best:.5f}",
                flush=True,
            )
        same.append(
            same_configurations(seed, asked.out / f"same-{seed}", asked.data_dir, asked.set)
        )
        print(json.dumps(same[-1]), flush=True)
    rows = compare(runs)
    result = {
        "seeds": rows,
        "summary": summary(rows),
        "same": same,
        "runs": [asdict(run) for run in runs],
    }
    (asked.out / "benchmark.json").write_text(json.dumps(result, indent=1))
    draw_benchmark(runs, asked.out / "benchmark.png")
    print(json.dumps(result["summary"], indent=2))
