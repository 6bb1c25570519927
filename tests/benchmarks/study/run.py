"""The reference study at equal counts, a sweep against the notebook: ``python -m
tests.benchmarks.study OUT``.

The counts are those of ``foldrace study``'s autoencoder: ten trials, three folds, five epochs.
Both sides search the learning rate alone, train the same fold-epochs on all of FashionMNIST, refit
the best on everything and test it, each as a process of its own that is timed from its start to
its end; they take turns. The notebook (`tests.benchmarks.notebook`) uses all cores for one fold
after the other; the sweep (``foldrace sweep --refit``) trains one-CPU trials side by side, records
all of it in MLflow, and gives no trial up. Beside them runs the same sweep with the default race,
which trains fewer fold-epochs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from foldrace.trainables.training.reports import mean_and_standard_error
from tests.benchmarks.arguments import (
    benchmark_parser,
    dataset_of,
    one_or_more,
    parse_out,
    say_written,
)
from tests.benchmarks.notebook import Counts, write_raw
from tests.benchmarks.spread import Spread, paired_ratios, write_record
from tests.benchmarks.study.figure import draw_study

__all__ = ["Run", "Setting", "StudySide", "main", "run_side", "summary"]

SPEC = Path("tests/benchmarks/specs/bench-study.yaml")


class StudySide(StrEnum):
    """Who does the study: a sweep of every fold to its end, the notebook, or a sweep with the
    default race."""

    SWEEP = "foldrace"
    NOTEBOOK = "notebook"
    RACE = "foldrace, racing"


@dataclass(frozen=True)
class Run:
    """One side, once.

    Attributes:
        seconds: from the start of the process to its end.
        search_seconds: of the sweep alone, as it says itself; None for the notebook.
        fold_epochs: epochs of single folds in the search.
        refit_epochs: epochs on all training images.
        val_mse: the best trial's, over the folds.
        test_mse: the refit's.
    """

    side: StudySide
    seed: int
    seconds: float
    search_seconds: float | None
    fold_epochs: int
    refit_epochs: int
    lr: float
    val_mse: float
    test_mse: float


@dataclass(frozen=True)
class Setting:
    """What is the same for all sides and rounds; ``raw`` is for the notebook, `write_raw` has
    filled it."""

    counts: Counts
    batch_size: int
    dataset: str
    data_dir: Path
    raw: Path


def run_side(side: StudySide, seed: int, setting: Setting, folder: Path) -> Run:
    """Runs a side in ``folder``, which it makes. Raises: SystemExit, if the side fails."""
    folder.mkdir(parents=True)
    return (_notebook if side is StudySide.NOTEBOOK else _sweep)(side, seed, setting, folder)


def _notebook(side: StudySide, seed: int, setting: Setting, folder: Path) -> Run:
    counts, out = setting.counts, folder / "result.json"
    numbers: dict[str, object] = {
        "trials": counts.trials,
        "folds": counts.folds,
        "epochs": counts.epochs,
        "batch-size": setting.batch_size,
        "seed": seed,
    }
    options = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    seconds, _ = _timed(
        ["tests.benchmarks.notebook", str(out), "--raw", str(setting.raw), *options], folder
    )
    found = json.loads(out.read_text())
    return Run(
        side,
        seed,
        seconds,
        None,
        found["fold_epochs"],
        counts.epochs,
        found["lr"],
        found["val_mse"],
        found["test_mse"],
    )


def _sweep(side: StudySide, seed: int, setting: Setting, folder: Path) -> Run:
    counts = setting.counts
    values: dict[str, object] = {
        "search.trials": counts.trials,
        "folds.splits": counts.folds,
        "epochs": counts.epochs,
        "space.batch_size": setting.batch_size,
        "dataset": setting.dataset,
        "search.seed": seed,
    }
    if side is StudySide.RACE:
        values |= {"scheduler.kind": "promotion"}
    sets = [part for name, value in values.items() for part in ("--set", f"{name}={value}")]
    places = ["--dir", str(folder / "runs"), "--data-dir", str(setting.data_dir)]
    seconds, printed = _timed(
        ["foldrace", "sweep", str(SPEC), "--refit", "--json", *places, *sets], folder
    )
    found = json.loads(printed.splitlines()[-1])
    best, refit = found["best"], found["refit"]
    return Run(
        side,
        seed,
        seconds,
        found["wall_seconds"],
        found["fold_epochs"],
        refit["epochs"],
        best["params"]["lr"],
        best["val_loss"]["mean"],
        refit["test"]["mse"],
    )


def _timed(arguments: Sequence[str], folder: Path) -> tuple[float, str]:
    """Seconds and standard output of a Python module run as a process."""
    started = time.monotonic()
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(arguments)} ended with {done.returncode}; see {folder / 'log'}"
        )
    return time.monotonic() - started, done.stdout


def rounds(count: int, setting: Setting, out: Path) -> Iterator[Run]:
    """Runs all sides, round after round; who begins alternates. Raises: SystemExit, if the counts
    are not equal."""
    for seed in range(1, count + 1):
        for side in list(StudySide)[:: 1 if seed % 2 else -1]:
            run = run_side(side, seed, setting, out / f"{seed}-{side.replace(', ', '-')}")
            wanted = setting.counts.fold_epochs, setting.counts.epochs
            if side is not StudySide.RACE and (run.fold_epochs, run.refit_epochs) != wanted:
                raise SystemExit(
                    f"{side} trained {run.fold_epochs} fold-epochs, and {run.refit_epochs} epochs"
                    " at last"
                )
            yield run


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Spreads over the rounds: each side's seconds, fold-epochs and errors; how many times as long
    the notebook took as the sweeps; and by how much their test errors are higher, a mean and its
    standard error."""

    def of(side: StudySide) -> list[Run]:
        return sorted((run for run in runs if run.side is side), key=lambda run: run.seed)

    notebook = of(StudySide.NOTEBOOK)
    found: dict[str, Any] = {}
    for side in StudySide:
        own = of(side)
        found[side] = {
            "seconds": Spread.of([run.seconds for run in own]),
            "fold_epochs": Spread.of([run.fold_epochs for run in own]),
            "val_mse": Spread.of([run.val_mse for run in own]),
            "test_mse": Spread.of([run.test_mse for run in own]),
        }
        if side is not StudySide.NOTEBOOK:
            worse = [
                run.test_mse - other.test_mse for run, other in zip(own, notebook, strict=True)
            ]
            mean, error = mean_and_standard_error(worse)
            found[side] |= {
                "times_faster": paired_ratios(
                    [run.seconds for run in notebook], [run.seconds for run in own]
                ),
                "test_mse_more": {
                    "mean": mean,
                    "standard_error": error if len(worse) > 1 else None,
                },
            }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; writes study.json and study.png into OUT, the runs into its folder
    study, and prints the ratios."""
    parser = benchmark_parser(
        "study",
        "The reference study at equal counts, against its notebook: half an hour a round.",
        rounds=3,
    )
    for name, default in (("trials", 10), ("folds", 3), ("epochs", 5), ("batch-size", 256)):
        parser.add_argument(
            f"--{name}", type=one_or_more, default=default, metavar="N", help="of every side"
        )
    parser.add_argument("--dataset", default="fashion-mnist", help="of 28×28 grey images")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where data sets are kept"
    )
    asked = parse_out(parser, arguments)
    work = asked.out / "study"
    if work.exists():
        parser.error(f"OUT: {work} exists; move it away, or name another folder")
    if asked.folds < 2:
        parser.error(f"--folds: {asked.folds}: must be at least 2")
    data = dataset_of(parser, asked.dataset, asked.data_dir)
    with tempfile.TemporaryDirectory() as raw:
        write_raw(Path(raw), data)
        counts = Counts(asked.trials, asked.folds, asked.epochs)
        setting = Setting(counts, asked.batch_size, asked.dataset, asked.data_dir, Path(raw))
        runs = []
        for run in rounds(asked.rounds, setting, work):
            runs.append(run)
            spent = f"{run.seconds:.0f} s, {run.fold_epochs} fold-epochs"
            print(
                f"round {run.seed}, {run.side}: {spent}, test MSE {run.test_mse:.5f}", flush=True
            )
    found = summary(runs)
    values = {
        "counts": counts,
        "batch_size": asked.batch_size,
        "dataset": data.name,
        "summary": found,
        "runs": runs,
    }
    write_record(asked.out / "study.json", "study", values)
    draw_study(runs, asked.out / "study.png")
    for side in (StudySide.SWEEP, StudySide.RACE):
        print(f"{side}: {found[side]['times_faster'].text()} times as fast as the notebook")
    say_written(asked.out / "study.json", asked.out / "study.png")
