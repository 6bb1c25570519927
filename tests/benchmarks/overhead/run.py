"""The cost of a trial apart from its training.

``python -m tests.benchmarks.overhead OUT [--rounds N]``: trials that do nothing, with up to nine
reports each, two at a time, recorded in a SQLite MLflow store. One side is a sweep with its three
levels of runs, until its last record is delivered. The other is plain Ray Tune with OptunaSearch,
ASHA and MLflowLoggerCallback, once as documented and once with a class whose workers are reused.
Every side runs in its own process, with few trials and with many: the difference in time over the
difference in trials is the cost per trial, without any start-up.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from foldrace.analysis.reports.style import BLUE, GREY, MUTED, figure_style
from tests.benchmarks.arguments import benchmark_parser, one_or_more, parse_out, say_written
from tests.benchmarks.spread import Spread, paired_ratios, write_record

__all__ = ["Side", "a_trial", "draw", "main", "summary"]

SPEC = Path("tests/benchmarks/specs/bench-nothing.yaml")
_TIMEOUT = 3600


class Side(StrEnum):
    """What runs the trials."""

    PROMOTION = "foldrace, promotion"
    STOPPING = "foldrace, stopping"
    REUSE = "Ray Tune, workers reused"
    PLAIN = "Ray Tune as documented"

    @property
    def ours(self) -> bool:
        return self in (Side.PROMOTION, Side.STOPPING)

    def trials(self, many: int) -> int:
        """The number of trials of this side for ``many``.

        They take at least a quarter of a minute, so that the spread of a start matters little.
        """
        return 4 * many if self.ours else many * 2 // 5 if self is Side.PLAIN else many

    def command(self, trials: int, folder: Path) -> list[str]:
        """The command that runs this many trials in a folder."""
        if self.ours:
            kind = self.name.lower()
            options = [
                "--set",
                f"search.trials={trials}",
                "--set",
                f"scheduler.kind={kind}",
                "--dir",
                str(folder),
            ]
            return [sys.executable, "-m", "foldrace", "sweep", str(SPEC), *options]
        module = "tests.benchmarks.overhead.rivals"
        return [sys.executable, "-m", module, self.name.lower(), str(trials), str(folder)]


def seconds(side: Side, trials: int) -> float:
    """The wall-clock time of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            side.command(trials, Path(folder)),
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
        )
        return time.perf_counter() - started


def a_trial(few: tuple[int, float], many: tuple[int, float]) -> float:
    """Seconds per trial, from two pairs (number of trials, seconds)."""
    return (many[1] - few[1]) / (many[0] - few[0])


def summary(figures: Mapping[Side, Sequence[float]]) -> dict[str, Spread]:
    """Each side's seconds per trial, and the ratio of each rival to each of ours, by round."""
    found = {str(side): Spread.of(values) for side, values in figures.items()}
    for rival in (Side.REUSE, Side.PLAIN):
        for side in (Side.PROMOTION, Side.STOPPING):
            if rival in figures and side in figures:
                rounds = min(len(figures[rival]), len(figures[side]))
                ratio = paired_ratios(figures[rival][:rounds], figures[side][:rounds])
                found[f"{rival} / {side}"] = ratio
    return found


def draw(figures: Mapping[Side, Sequence[float]], path: Path) -> None:
    """Draws a bar for each side, with a dot for every round."""
    with figure_style():
        from matplotlib import pyplot as plt

        figure, axes = plt.subplots(figsize=(7.2, 2.5), layout="constrained")
        sides = [side for side in Side if side in figures][::-1]
        best = Spread.of(figures[Side.PROMOTION]).mean
        for place, side in enumerate(sides):
            spread = Spread.of(figures[side])
            axes.barh(place, spread.mean * 1e3, color=BLUE if side.ours else GREY, height=0.62)
            axes.plot(
                [value * 1e3 for value in figures[side]],
                [place] * spread.n,
                "o",
                color="white",
                ms=3.6,
                mec=MUTED,
                mew=0.8,
            )
            times = "" if side.ours else f"   {spread.mean / best:.1f} ×"
            axes.annotate(
                f"{spread.mean * 1e3:,.0f} ms{times}",
                (spread.high * 1e3, place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(sides)), [str(side) for side in sides])
        axes.set_xlim(0, max(max(values) for values in figures.values()) * 1.55e3)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(
            "milliseconds a trial that does nothing, recorded in MLflow; × of promotion's"
        )
        figure.savefig(path, dpi=160)
        plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes overhead.json and overhead.png, and prints the ratios."""
    parser = benchmark_parser(
        "overhead",
        "What a trial costs beside its training, against plain Ray Tune: six minutes a round.",
        rounds=3,
    )
    parser.add_argument(
        "--trials",
        type=one_or_more,
        nargs=2,
        default=(10, 100),
        metavar=("FEW", "MANY"),
        help=(
            "of which the difference is timed; of our sweeps 4 × MANY, of plain Ray Tune without"
            " reuse 2/5 of MANY"
        ),
    )
    asked = parse_out(parser, arguments)
    figures: dict[Side, list[float]] = {side: [] for side in Side}
    few, many = asked.trials
    if few >= min(side.trials(many) for side in Side):
        parser.error(f"--trials: {few} {many}: 2/5 of MANY must be more than FEW")
    # the first imports read from disk, which is not to be timed
    for side in (Side.PROMOTION, Side.PLAIN):
        seconds(side, 1)
    for turn in range(asked.rounds):
        for side in list(Side)[:: 1 if turn % 2 == 0 else -1]:
            more = side.trials(many)
            figures[side].append(a_trial((few, seconds(side, few)), (more, seconds(side, more))))
            print(
                f"round {turn + 1}: {side}: {figures[side][-1] * 1e3:,.0f} ms a trial", flush=True
            )
    found = summary(figures)
    for name, spread in found.items():
        print(f"{name:48s} {spread.text(3)}")
    trials = {str(side): [few, side.trials(many)] for side in Side}
    values = {
        "trials": trials,
        "seconds_a_trial": {str(side): times for side, times in figures.items()},
    }
    write_record(asked.out / "overhead.json", "overhead", {**values, "summary": found})
    draw(figures, asked.out / "overhead.png")
    say_written(asked.out / "overhead.json", asked.out / "overhead.png")
