"""How a sweep grows: ``python -m analysis.benchmarks.scaling OUT [--trials 100 1000 10000] [--workers 1 2 4 8]``.

Whole sweeps of trials that do nothing, under the default scheduler. More workers than the machine has cores are had by
trials that ask for a part of a core. Of each sweep: the time a trial at its start and at its end, the driver's memory,
the time of a suggestion with all its trials known, the size of its records, and the time of its report.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from analysis.benchmarks.spread import write_record
from analysis.style import BLUE, MUTED, ORANGE, figure_style
from search.journal import open_journal
from search.prepare import prepare
from search.searcher import FoldSearch
from search.spec import load_spec

__all__ = ["Growth", "draw", "main", "start_and_end"]

SPEC = Path("search/specs/bench-nothing.yaml")
_SUGGESTIONS = 10


@dataclass(frozen=True)
class Growth:
    """One sweep.

    Attributes:
        seconds: of the whole process.
        first, last: seconds a trial over the first and the last tenth of the trials to start, the first ten left out.
        memory: the driver's largest resident set, in bytes.
        suggestion: seconds, the median of ten with all trials known.
        store, journal: bytes of MLflow's database and of Optuna's journal.
        report: seconds of ``foldrace report``, a new process.
    """

    trials: int
    workers: int
    seconds: float
    first: float
    last: float
    memory: int
    suggestion: float
    store: int
    journal: int
    report: float


def start_and_end(starts: Sequence[float]) -> tuple[float, float]:
    """Seconds between two trials' starts in the first and in the last tenth, from their times of starting, in order.

    The first ten are left out of the first: workers are new, and a sampler draws them at random.
    """
    tenth = max(10, len(starts) // 10)
    first, last = starts[10 : 11 + tenth], starts[-tenth - 1 :]
    return (first[-1] - first[0]) / (len(first) - 1), (last[-1] - last[0]) / (len(last) - 1)


def measure(trials: int, workers: int, folder: Path) -> Growth:
    """Runs the sweep in ``folder`` and looks at what it leaves."""
    cores = os.cpu_count() or 1
    cpu = 1.0 if workers <= cores else cores / workers
    overrides = [f"search.trials={trials}", f"search.max_concurrent_trials={workers}", f"resources.cpu={cpu:g}"]
    options = [part for override in overrides for part in ("--set", override)]
    started = time.perf_counter()
    memory = _run("sweep", str(SPEC), *options, "--dir", str(folder))
    seconds = time.perf_counter() - started
    starts = _starts(folder / "mlflow.db")
    assert len(starts) == trials
    started = time.perf_counter()
    _run("report", "nothing", "--dir", str(folder))
    report = time.perf_counter() - started
    journal = folder / "nothing" / "optuna.log"
    return Growth(
        trials, workers, seconds, *start_and_end(starts), memory, _suggestion(journal),
        (folder / "mlflow.db").stat().st_size, journal.stat().st_size, report,
    )  # fmt: skip


def _run(*arguments: str) -> int:
    """A command of ours; returns the largest resident set of its process, in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "foldrace", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"foldrace {' '.join(arguments)}: exit {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024


def _starts(database: Path) -> list[float]:
    """When each trial started, in seconds."""
    query = """SELECT start_time FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid
               WHERE tags.key = 'foldrace.level' AND tags.value = 'trial' ORDER BY start_time"""
    with sqlite3.connect(database) as connection:
        return [milliseconds / 1e3 for (milliseconds,) in connection.execute(query)]


def _suggestion(journal: Path) -> float:
    """The median time of a suggestion to a study as it stands in a journal, which is left as it is."""
    prepared = prepare(load_spec(SPEC, []), Path("data"))
    with tempfile.TemporaryDirectory() as scratch:
        copied = shutil.copy(journal, Path(scratch) / "optuna.log")
        search = FoldSearch(prepared.space, storage=open_journal(Path(copied)))
        known = len(search.study.trials)
        for number in range(known):  # those that are there are handed out first, as after an interruption
            search.suggest(f"known {number}")
        times = []
        for number in range(_SUGGESTIONS):
            started = time.perf_counter()
            search.suggest(f"new {number}")
            times.append(time.perf_counter() - started)
    return sorted(times)[_SUGGESTIONS // 2]


def draw(found: Sequence[Growth], path: Path) -> None:
    """The time a trial, at a sweep's start and at its end, against the number of trials; and against the workers."""
    with figure_style():
        from matplotlib import pyplot as plt

        figure, (by_trials, by_workers) = plt.subplots(1, 2, figsize=(7.2, 2.8), layout="constrained", sharey=True)
        fewest = min(one.trials for one in found)
        grown = sorted({one.trials: one for one in found if one.workers == 2}.values(), key=lambda one: one.trials)
        wide = sorted((one for one in found if one.trials == fewest), key=lambda one: one.workers)
        for axes, chosen, place, label in (
            (by_trials, grown, [one.trials for one in grown], "trials, two at a time"),
            (by_workers, wide, [one.workers for one in wide], f"trials at a time, {fewest} in all"),
        ):
            axes.plot(place, [one.first * 1e3 for one in chosen], "o-", color=BLUE, label="first tenth")
            axes.plot(place, [one.last * 1e3 for one in chosen], "o-", color=ORANGE, label="last tenth")
            axes.set_xscale("log")
            axes.set_xticks(place, [f"{value:,}" for value in place])
            axes.minorticks_off()
            axes.set_xlabel(label)
        by_trials.set_ylabel("milliseconds a trial")
        by_trials.set_ylim(bottom=0)
        by_trials.legend(frameon=False, labelcolor=MUTED)
        figure.savefig(path, dpi=160)
        plt.close(figure)


def main() -> None:
    """Measures, writes scaling.json after every sweep and scaling.png at the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    plans = [(asked.trials[0], workers) for workers in asked.workers]
    plans += [(trials, 2) for trials in asked.trials if (trials, 2) not in plans]
    found: list[Growth] = []
    for trials, workers in plans:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(trials, workers, Path(folder)))
        one = found[-1]
        print(
            f"{one.trials} trials, {one.workers} at a time: {one.first * 1e3:.0f} ms a trial, in the end"
            f" {one.last * 1e3:.0f} ms; {one.memory / 2**20:.0f} MiB; suggestion {one.suggestion * 1e3:.0f} ms;"
            f" store {one.store / 2**20:.0f} MiB; report {one.report:.0f} s",
            flush=True,
        )
        write_record(asked.out / "scaling.json", "scaling", {"sweeps": [asdict(each) for each in found]})
    draw(found, asked.out / "scaling.png")


if __name__ == "__main__":
    main()
