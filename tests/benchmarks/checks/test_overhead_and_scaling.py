"""What the benchmarks of a trial's cost and of growth make of their timings."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.benchmarks import scaling
from tests.benchmarks.overhead import run as overhead
from tests.benchmarks.overhead.run import Side, a_trial, summary
from tests.benchmarks.scaling import Growth, by_tenths


def test_a_trials_cost_is_free_of_the_start() -> None:
    assert a_trial((10, 30.0 + 10 * 0.2), (100, 30.0 + 100 * 0.2)) == pytest.approx(0.2)


def test_ratios_are_of_a_rounds_two_sides() -> None:
    found = summary(
        {
            Side.PROMOTION: [0.1, 0.2],
            Side.STOPPING: [0.1],
            Side.REUSE: [0.4, 0.8],
            Side.PLAIN: [2.0, 2.0],
        }
    )
    assert found[f"{Side.REUSE} / {Side.PROMOTION}"].mean == pytest.approx(4.0)
    assert (
        found[f"{Side.PLAIN} / {Side.PROMOTION}"].low,
        found[f"{Side.PLAIN} / {Side.PROMOTION}"].high,
    ) == (
        pytest.approx(10.0),
        pytest.approx(20.0),
    )
    assert found[f"{Side.PLAIN} / {Side.STOPPING}"].n == 1


def test_a_sweeps_time_is_told_by_its_tenths_without_the_first_ten_trials() -> None:
    starts = [0.0]
    for number in range(1, 1011):
        starts.append(starts[-1] + (5.0 if number <= 10 else 0.1 * ((number - 11) // 100 + 1)))
    assert by_tenths(starts) == pytest.approx([0.1 * part for part in range(1, 11)])
    assert len(by_tenths(range(22))) == 10 and set(by_tenths(range(22))) == {1.0}


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    overhead.draw({side: [0.1, 0.3] for side in Side}, tmp_path / "overhead.png")
    sweeps = [
        Growth(trials, workers, 10.0, (0.1,) * 9 + (0.12,), 2**28, 0.01, 2**20, 2**20, 2.0)
        for trials, workers in ((100, 1), (100, 2), (1000, 2))
    ]
    scaling.draw(sweeps, tmp_path / "scaling.png")
    for name in ("overhead.png", "scaling.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 1000
