"""How the costs of a sweep grow with its trials and workers.

``python -m tests.benchmarks.scaling OUT [--trials 100 1000 10000] [--workers 1 2 4 8]``: whole
sweeps of trials that do nothing, under the default scheduler. For more workers than the machine
has cores, a trial asks for a fraction of a core. Measured are the time per trial at the start and
at the end, the driver's memory, the time of a suggestion with all trials known, the size of the
records, and the time of the report.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, pairwise
from pathlib import Path

from foldrace.analysis.reports.style import BLUE, MUTED, ORANGE, figure_style
from foldrace.search.preparing.prepare import prepare
from foldrace.search.sampling.journal import open_journal
from foldrace.search.sampling.optuna_search import FoldSearch
from foldrace.search.spec.sweep_spec import load_spec
from tests.benchmarks.arguments import benchmark_parser, one_or_more, parse_out, say_written
from tests.benchmarks.spread import write_record

__all__ = ["Growth", "by_tenths", "draw", "main"]

SPEC = Path("tests/benchmarks/specs/bench-nothing.yaml")
_SUGGESTIONS = 10


@dataclass(frozen=True)
class Growth:
    """One sweep.

    Attributes:
        seconds: of the whole process.
        tenths: seconds per trial in each tenth of the trials, without the first ten trials.
        memory: the driver's largest resident set, in bytes.
        suggestion: seconds, the median of ten with all trials known.
        store, journal: bytes of MLflow's database and of Optuna's journal.
        report: seconds of ``foldrace report``, a new process.
    """

    trials: int
    workers: int
    seconds: float
    tenths: tuple[float, ...]
    memory: int
    suggestion: float
    store: int
    journal: int
    report: float

    @property
    def each(self) -> float:
        """Seconds per trial, without the first ten."""
        return sum(self.tenths) / len(self.tenths)


def by_tenths(starts: Sequence[float]) -> tuple[float, ...]:
    """Seconds between two trials' starts in each tenth of a sweep.

    The first ten trials are left out: their workers are new, and the sampler draws them at random.

    Args:
        starts: the times at which the trials started, in order.
    """
    rest = starts[10:]
    edges = [round(part * (len(rest) - 1) / 10) for part in range(11)]
    return tuple((rest[high] - rest[low]) / (high - low) for low, high in pairwise(edges))


def measure(trials: int, workers: int, folder: Path) -> Growth:
    """Runs the sweep in ``folder`` and measures its records."""
    cores = os.cpu_count() or 1
    cpu = 1.0 if workers <= cores else cores / workers
    overrides = [
        f"search.trials={trials}",
        f"search.max_concurrent_trials={workers}",
        f"resources.cpu={cpu:g}",
    ]
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
        trials,
        workers,
        seconds,
        by_tenths(starts),
        memory,
        _suggestion(journal),
        (folder / "mlflow.db").stat().st_size,
        journal.stat().st_size,
        report,
    )


def _run(*arguments: str) -> int:
    """Runs a foldrace command; returns the largest resident set of its process, in bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "foldrace", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(
            f"foldrace {' '.join(arguments)}: exit {os.waitstatus_to_exitcode(status)}"
        )
    return usage.ru_maxrss * 1024


def _starts(database: Path) -> list[float]:
    """When each trial started, in seconds."""
    query = """SELECT start_time FROM runs JOIN tags ON runs.run_uuid = tags.run_uuid
               WHERE tags.key = 'foldrace.level' AND tags.value = 'trial' ORDER BY start_time"""
    with sqlite3.connect(database) as connection:
        return [milliseconds / 1e3 for (milliseconds,) in connection.execute(query)]


def _suggestion(journal: Path) -> float:
    """The median time of a suggestion for a copy of the study in a journal."""
    prepared = prepare(load_spec(SPEC, []), Path("data"))
    with tempfile.TemporaryDirectory() as scratch:
        copied = shutil.copy(journal, Path(scratch) / "optuna.log")
        search = FoldSearch(prepared.space, storage=open_journal(Path(copied)))
        known = len(search.study.trials)
        for number in range(
            known
        ):  # those that are there are handed out first, as after an interruption
            search.suggest(f"known {number}")
        times = []
        for number in range(_SUGGESTIONS):
            started = time.perf_counter()
            search.suggest(f"new {number}")
            times.append(time.perf_counter() - started)
    return sorted(times)[_SUGGESTIONS // 2]


def draw(found: Sequence[Growth], path: Path) -> None:
    """Draws the time per trial over a long sweep, and of a short one by the number of workers."""
    with figure_style():
        from matplotlib import pyplot as plt

        figure, (by_part, by_workers) = plt.subplots(
            1, 2, figsize=(7.2, 2.8), layout="constrained", sharey=True
        )
        fewest = min(one.trials for one in found)
        long = sorted((one for one in found if one.trials > fewest), key=lambda one: one.trials)
        for one, colour in zip(long, cycle((BLUE, ORANGE)), strict=False):
            milliseconds = [1e3 * seconds for seconds in one.tenths]
            by_part.plot(
                range(1, 11), milliseconds, "o-", color=colour, label=f"{one.trials:,} trials"
            )
        by_part.set(
            title="Over a long sweep", xlabel="tenth of its trials", ylabel="milliseconds a trial"
        )
        by_part.set_xticks(range(1, 11))
        if long:
            by_part.legend(frameon=False, labelcolor=MUTED, loc="lower right")
        wide = sorted((one for one in found if one.trials == fewest), key=lambda one: one.workers)
        by_workers.plot(range(len(wide)), [1e3 * one.each for one in wide], "o-", color=BLUE)
        by_workers.set(title=f"{fewest:,} trials", xlabel="trials at a time", ylim=(0, None))
        by_workers.set_xticks(range(len(wide)), [str(one.workers) for one in wide])
        figure.savefig(path, dpi=160)
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes scaling.json after every sweep and scaling.png at the end."""
    parser = benchmark_parser(
        "scaling", "How a sweep's costs grow with its trials and workers: half an hour."
    )
    text = (
        "of sweeps with two workers; the first number's are repeated with other numbers of workers"
    )
    parser.add_argument(
        "--trials", type=one_or_more, nargs="+", default=[100, 1000, 10000], metavar="N", help=text
    )
    parser.add_argument(
        "--workers",
        type=one_or_more,
        nargs="+",
        default=[1, 2, 4, 8],
        metavar="N",
        help="at a time",
    )
    asked = parse_out(parser, arguments)
    if min(asked.trials) < 22:
        parser.error(
            f"--trials: {min(asked.trials)}: must be at least 22, since the first ten are left out"
        )
    plans = [(asked.trials[0], workers) for workers in asked.workers]
    plans += [(trials, 2) for trials in asked.trials if (trials, 2) not in plans]
    found: list[Growth] = []
    for trials, workers in plans:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(trials, workers, Path(folder)))
        one = found[-1]
        print(
            f"{one.trials} trials, {one.workers} at a time: {one.each * 1e3:.0f} ms a trial, in"
            f" the first tenth {one.tenths[0] * 1e3:.0f}, in the last {one.tenths[-1] * 1e3:.0f};"
            f" {one.memory / 2**20:.0f} MiB; suggestion {one.suggestion * 1e3:.0f} ms; store"
            f" {one.store / 2**20:.0f} MiB; report {one.report:.0f} s",
            flush=True,
        )
        write_record(
            asked.out / "scaling.json", "scaling", {"sweeps": [asdict(each) for each in found]}
        )
    draw(found, asked.out / "scaling.png")
    say_written(asked.out / "scaling.json", asked.out / "scaling.png")


if __name__ == "__main__":
    main()
