"""The benchmark's arithmetic: what each side needed to the loss that all of them reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.search.figure import draw_benchmark
from tests.benchmarks.search.run import ProgressPoint, Run, compare, same_loss, summary


def run(side: str, *steps: tuple[float, int, float | None], seed: int = 1) -> Run:
    return Run(side, seed, steps[-1][0] + 1, [ProgressPoint(*step) for step in steps])


RUNS = [
    run("foldrace", (10, 5, None), (20, 30, 0.3), (30, 40, 0.2)),
    run("optuna", (30, 27, 0.4), (90, 60, 0.25), (120, 120, 0.1)),
    run("tune", (20, 27, 0.25), (60, 80, 0.22)),
]


def test_the_loss_compared_at_is_the_lowest_that_all_reach() -> None:
    assert same_loss(RUNS) == 0.22
    assert RUNS[1].reaches(0.22) == ProgressPoint(120, 120, 0.1) and RUNS[2].reaches(0.1) is None


def test_the_rivals_are_multiples_of_foldrace_at_that_loss() -> None:
    [row] = compare(RUNS)
    assert row["loss"] == 0.22
    assert (row["foldrace"]["seconds"], row["foldrace"]["fold_epochs"]) == (30, 40)
    assert (row["optuna"]["times_seconds"], row["optuna"]["times_fold_epochs"]) == (4, 3)
    assert (row["tune"]["times_seconds"], row["tune"]["times_fold_epochs"]) == (2, 2)
    found = summary([row, row])["optuna times_seconds"]
    assert found == {"mean": 4.0, "low": 4.0, "high": 4.0, "n": 2}


def test_seeds_are_compared_apart() -> None:
    other = [
        run("foldrace", (1, 1, 0.5), seed=2),
        run("optuna", (2, 3, 0.4), seed=2),
        run("tune", (4, 2, 0.1), seed=2),
    ]
    first, second = compare([*RUNS, *other])
    assert (first["seed"], second["seed"], second["loss"]) == (1, 2, 0.5)
    assert second["tune"]["times_seconds"] == pytest.approx(4)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    draw_benchmark(RUNS, tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
