"""A sweep during an outage of its tracking server, against the same sweep without one.

``python -m tests.benchmarks.outage OUT [--rounds N]``: both sweeps record to a real MLflow server
on this machine and run in alternating order. In one of them the server is killed (SIGKILL, with
its workers) after the first trial, and started again on the same store after ``--seconds``. The
time is that of the whole process; the metric points are counted in the server's SQLite store.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldrace.search.spec.sweep_spec import load_spec
from tests.benchmarks.arguments import benchmark_parser, parse_out, refusing, say_written
from tests.benchmarks.spread import Spread, paired_ratios, write_record
from tests.benchmarks.tracking_server import TrackingServer

__all__ = ["Run", "main", "run_sweep", "summary"]

SPEC = Path("tests/benchmarks/specs/bench-outage.yaml")
_POINTS = """
select r.name, m.key, m.step, m.value, m.is_nan
from metrics m join runs r on r.run_uuid = m.run_uuid
where r.name like 'trial %' and m.key <> 'train_seconds' order by 1, 2, 3, 4, 5
"""
_TWICE = """
select count(*) from (
    select 1 from metrics m join runs r on r.run_uuid = m.run_uuid where r.name like 'trial %'
    group by m.run_uuid, m.key, m.step having count(*) > 1
)
"""
_TIMEOUT = 1800


@dataclass(frozen=True)
class Run:
    """One sweep.

    Attributes:
        seconds: from the start of its process to its end.
        away: seconds without a server, its start included.
        points: the metric points of all trials and folds in the store, without training times.
        twice: the number of (run, metric, step) with more than one point.
        open: the number of runs that have not ended.
    """

    seconds: float
    away: float
    points: tuple[tuple[object, ...], ...]
    twice: int
    open: int


def run_sweep(folder: Path, away: float, overrides: Sequence[str] = ()) -> Run:
    """Runs the sweep with a new server that is down for ``away`` seconds, or not at all (0).

    Raises:
        SystemExit: the sweep fails.
    """
    server = TrackingServer(folder)
    server.start()
    options = [part for override in overrides for part in ("--set", override)]
    places = ["--dir", str(folder / "runs"), "--tracking-uri", server.uri]
    try:
        started = time.monotonic()
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "foldrace", "sweep", str(SPEC), *places, *options],
                stdout=log,
                stderr=log,
            )
        gone = _take_away(server, process, folder / "log", away) if away else 0.0
        status = process.wait(_TIMEOUT)
        seconds = time.monotonic() - started
        if status or "records wait in" in (folder / "log").read_text():
            raise SystemExit(
                f"the sweep ended with {status}; see {(folder / 'log').read_text()[-2000:]}"
            )
        [(twice,)] = server.query(_TWICE)
        [(still,)] = server.query("select count(*) from runs where status = 'RUNNING'")
        return Run(seconds, gone, tuple(server.query(_POINTS)), int(str(twice)), int(str(still)))
    finally:
        server.kill()


def _take_away(
    server: TrackingServer, process: subprocess.Popen[bytes], log: Path, seconds: float
) -> float:
    while " completed " not in log.read_text():
        if process.poll() is not None:
            raise SystemExit(
                f"the sweep ended before any of its trials; see {log.read_text()[-2000:]}"
            )
        time.sleep(0.1)
    killed = time.monotonic()
    server.kill()
    time.sleep(seconds)
    if process.poll() is not None:
        raise SystemExit("the sweep ended while its server was away: give it more trials")
    server.start()
    return time.monotonic() - killed


def summary(undisturbed: Sequence[Run], disturbed: Sequence[Run]) -> dict[str, Any]:
    """Seconds of each side, their ratio round by round, and the counts of points."""
    first = undisturbed[0].points
    return {
        "undisturbed_seconds": Spread.of([run.seconds for run in undisturbed]),
        "outage_seconds": Spread.of([run.seconds for run in disturbed]),
        "outage / undisturbed": paired_ratios(
            [run.seconds for run in disturbed], [run.seconds for run in undisturbed]
        ),
        "away_seconds": Spread.of([run.away for run in disturbed]),
        "points": len(first),
        "runs_with_the_same_points": sum(
            run.points == first for run in [*undisturbed, *disturbed]
        ),
        "runs": len(undisturbed) + len(disturbed),
        "points_there_twice": sum(run.twice for run in [*undisturbed, *disturbed]),
        "runs_left_open": sum(run.open for run in [*undisturbed, *disturbed]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; writes outage.json into OUT and prints the summary."""
    parser = benchmark_parser(
        "outage", "What an outage of MLflow costs a sweep: four minutes a round.", rounds=5
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the server is down")
    parser.add_argument("--set", action="append", default=[], help="an override of the sweep file")
    asked = parse_out(parser, arguments)
    with refusing(parser):
        load_spec(SPEC, asked.set)
    sides: dict[float, list[Run]] = {0.0: [], asked.seconds: []}
    for turn in range(asked.rounds):
        for away in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                run = run_sweep(Path(folder), away, asked.set)
            sides[away].append(run)
            print(
                f"{'away' if away else 'undisturbed'}: {run.seconds:.1f} s, {len(run.points)}"
                " points",
                flush=True,
            )
    found = summary(*sides.values())
    for name, value in found.items():
        print(f"{name}: {value.text() if isinstance(value, Spread) else value}")
    runs = {
        name: [run.seconds for run in side]
        for name, side in zip(("undisturbed", "outage"), sides.values(), strict=True)
    }
    write_record(asked.out / "outage.json", "outage", {"summary": found, "seconds": runs})
    say_written(asked.out / "outage.json")


if __name__ == "__main__":
    main()
