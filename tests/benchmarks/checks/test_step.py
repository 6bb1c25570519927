"""The step benchmark: what it counts, how it pairs, and that every side does answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.spread import Spread, paired_ratios
from tests.benchmarks.step import run as step
from tests.benchmarks.step.processes import Order, What, opened
from tests.benchmarks.step.sides import Setting, Side, flop_per_image
from tests.benchmarks.step.summary import Measured, Measurement, summary


def layer_products() -> Iterator[tuple[str, int]]:
    """Multiplications of each layer of the study's network for one image, counted by hand."""
    convolutions = {  # output pixels × channels in × channels out × 9
        "convolution 1": 14 * 14 * 1 * 8 * 9,
        "convolution 2": 7 * 7 * 8 * 16 * 9,
        "convolution 3": 3 * 3 * 16 * 32 * 9,
    }
    yield from convolutions.items()
    for (
        name,
        size,
    ) in (
        convolutions.items()
    ):  # the way back multiplies as often: each input pixel meets each weight
        yield f"transposed {name}", size
    for inputs, outputs in ((288, 128), (128, 16), (16, 128), (128, 288)):
        yield f"linear {inputs} to {outputs}", inputs * outputs


def test_the_flop_of_an_image_are_those_counted_by_hand() -> None:
    products = dict(layer_products())
    # forward, the weights' gradient, and the inputs', which the first layer does not need; a
    # product and a sum each
    by_hand = 2 * (3 * sum(products.values()) - products["convolution 1"])
    assert flop_per_image() == by_hand == 1_783_104


def test_ratios_are_of_the_same_round() -> None:
    found = paired_ratios([2.0, 8.0], [1.0, 2.0])
    assert found == Spread(pytest.approx(math.sqrt(2 * 4)), 2.0, 4.0, 2)
    with pytest.raises(ValueError, match="shorter"):
        paired_ratios([1.0, 2.0], [1.0])


def test_the_summary_pairs_rounds_whatever_their_order() -> None:
    def measurements(
        round: int, ours: float, theirs: float, one: float, two: float
    ) -> list[Measurement]:
        return [
            Measurement(round, Measured.MATRIX_FLOPS, Side.OURS, 0, 1000.0 * round),
            Measurement(round, Measured.TRAIN, Side.OURS, 64, ours),
            Measurement(round, Measured.TRAIN, Side.NOTEBOOK, 64, theirs),
            Measurement(round, Measured.SIDE_BY_SIDE, Side.OURS, 64, two),
            Measurement(round, Measured.ALONE, Side.OURS, 64, one),
        ]

    first, second = measurements(1, 50, 10, 50, 100), measurements(2, 100, 50, 100, 150)
    found = summary([*second, *first[::-1]], flop=10.0)
    assert found["limit"] == Spread(pytest.approx(math.sqrt(2) * 100), 100, 200, 2)
    assert found["ratios"][64] == {
        "train, times notebook": Spread(pytest.approx(math.sqrt(10)), 2, 5, 2),
        "train, of the limit": Spread(0.5, 0.5, 0.5, 2),
        "two processes, times one": Spread(pytest.approx(math.sqrt(3)), 1.5, 2, 2),
    }
    assert found["images_per_second"][64]["train, foldrace"].low == 50


@pytest.mark.slow
def test_a_small_run_measures_every_side_and_draws_them(tmp_path: Path) -> None:
    arguments = [
        "--rounds",
        "1",
        "--images",
        "120",
        "--batch-sizes",
        "60",
        "--seconds",
        "0.05",
        "--dataset",
        "digits",
    ]
    step.main([str(tmp_path), *arguments, "--data-dir", str(tmp_path)])
    record = json.loads((tmp_path / "step.json").read_text())
    measured = {(figure["measured"], figure["side"]) for figure in record["figures"]}
    assert {("train", side.value) for side in Side} | {("two processes", "foldrace")} <= measured
    assert all(figure["value"] > 0 for figure in record["figures"])
    assert {"command", "date", "environment", "summary"} <= set(record)
    assert (tmp_path / "step.png").stat().st_size > 10_000


def test_a_side_that_ends_is_told_of(tmp_path: Path) -> None:
    nowhere = Setting("digits", tmp_path, raw=tmp_path / "nothing is here", images=60)
    with (
        opened([Side.NOTEBOOK], nowhere) as (notebook,),
        pytest.raises(RuntimeError, match="notebook has ended"),
    ):
        notebook.ask(Order(What.TRAIN, 60))
