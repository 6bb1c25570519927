"""What the benchmarks of an outage and of determinism make of what they measured."""

from __future__ import annotations

from typing import Any

from tests.benchmarks import determinism, outage

POINTS = (("trial 0000", "val_loss", 3, 0.5, 0), ("trial 0000 fold 0", "val_loss", 1, 0.5, 0))


def swept(
    seconds: float, away: float = 0.0, points: Any = POINTS, twice: int = 0, still: int = 0
) -> outage.Run:
    return outage.Run(seconds, away, points, twice, still)


def test_an_outage_is_compared_round_by_round_and_every_point_counted() -> None:
    whole = outage.summary([swept(100), swept(200)], [swept(102, 61), swept(208, 62)])
    assert whole["outage / undisturbed"].text(3) == "1.030 (1.020 to 1.040, n = 2)"
    assert (whole["points"], whole["runs_with_the_same_points"], whole["runs"]) == (2, 4, 4)
    assert (whole["points_there_twice"], whole["runs_left_open"]) == (0, 0)


def test_a_point_that_is_lost_changed_or_there_twice_and_an_open_run_are_seen() -> None:
    changed = (POINTS[0], ("trial 0000 fold 0", "val_loss", 1, 0.6, 0))
    bad = outage.summary(
        [swept(1)] * 3,
        [swept(1, 60, POINTS[:1]), swept(1, 60, changed), swept(1, 60, twice=3, still=1)],
    )
    assert (bad["runs_with_the_same_points"], bad["runs"]) == (4, 6)
    assert (bad["points_there_twice"], bad["runs_left_open"]) == (3, 1)


def raced(
    workers: int, deterministic: bool, seconds: float, digest: str, *, loaded: bool = False
) -> determinism.Run:
    return determinism.Run(workers, deterministic, loaded, seconds, 100, digest)


def test_results_are_counted_with_and_without_the_option_and_a_loaded_run_has_no_cost() -> None:
    runs = [
        *(raced(workers, True, 12.0, "a") for workers in (1, 2)),
        *(raced(workers, False, 10.0, f"{workers}") for workers in (1, 2)),
        raced(2, True, 99.0, "a", loaded=True),
    ]
    found = determinism.summary(runs)
    assert found["deterministic: results"] == "1 different in 3 sweeps"
    assert found["as it comes: results"] == "2 different in 2 sweeps"
    assert found["2 workers: ratio"].text() == "1.20 (1.20 to 1.20, n = 1)"
    assert determinism.summary([*runs, raced(1, True, 12.0, "b", loaded=True)])[
        "deterministic: results"
    ].startswith("2 ")
