"""The report on a real comparison: an optimizer is no better than itself, and better than one that
cannot learn."""

from __future__ import annotations

import pytest

from foldrace.analysis.records.comparison import Comparison, read_comparison
from foldrace.analysis.reports.comparison.report import build
from foldrace.analysis.reports.page import Figure
from foldrace.analysis.statistics.verdict import Pair, Verdict, judge
from tests.helpers.sweeps import Swept

pytestmark = pytest.mark.slow

ARMS = ("adam", "adam-again", "sgd")


@pytest.fixture(scope="module")
def comparison(comparison_sweep: Swept) -> Comparison:
    return read_comparison(comparison_sweep.record.client, comparison_sweep.record.sweep)


@pytest.fixture(scope="module")
def verdict(comparison: Comparison) -> Verdict:
    return judge(comparison)


def pair(verdict: Verdict, *names: str) -> Pair:
    [found] = [pair for pair in verdict.pairs if {pair.better, pair.worse} == set(names)]
    return found


def test_identical_optimizers_are_not_declared_different_and_a_hopeless_one_is(
    verdict: Verdict,
) -> None:
    assert not pair(verdict, "adam", "adam-again").different
    assert pair(verdict, "adam", "sgd").different and pair(verdict, "adam-again", "sgd").different
    assert verdict.winner is None
    best, second, last = verdict.standings
    assert last == "sgd" and {best, second} == {"adam", "adam-again"}
    assert verdict.lead.startswith(
        f"No winner can be declared: {best} has the lowest tuned CV mse"
    )
    assert f"interval overlaps that of {second}. sgd is worse." in verdict.lead


def test_the_record_is_whole(comparison: Comparison, comparison_sweep: Swept) -> None:
    assert comparison.arms == ARMS and comparison.complete
    for arm, said in comparison_sweep.result["arms"].items():
        losses = [loss for repeat in said["repeats"]["losses"] for loss in repeat]
        assert comparison.losses[arm].tolist() == losses
        assert comparison.default_loss(arm) == said["default"]
    assert comparison.trials["fold_epochs"].sum() == comparison_sweep.result["fold_epochs"]
    assert (comparison.trials["train_seconds"] > 0).all()


def test_every_section_has_its_figure(comparison_sweep: Swept) -> None:
    report = build(comparison_sweep.record.client, comparison_sweep.record.sweep)
    drawn = {
        block.name
        for section in report.sections
        for block in section.blocks
        if isinstance(block, Figure)
    }
    assert drawn == {
        "standings",
        "best-of-n",
        "learning-curves",
        "learning-rates",
        "reconstructions",
    }
