"""The report on a comparison: what it says is what MLflow has, and it is there whatever is
missing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from foldrace.analysis.reports.comparison.report import build, compose
from foldrace.analysis.reports.page import (
    Block,
    Code,
    Figure,
    Paragraph,
    Report,
    Table,
    write_report,
)
from foldrace.analysis.statistics.intervals import Interval, plus_minus
from foldrace.analysis.statistics.verdict import judge
from foldrace.analysis.text import digits, listed, p_text, plural
from foldrace.trainables.tasks.objective import Objective
from tests.helpers.comparisons import SPEED, Arm, Plan, compare, record_comparison

ARMS = {
    "adam": Arm(),
    "sgd": Arm(
        floor=0.03, best=0.3, default=0.01, rates=(1e-3, 3.0), diverges=0.8, unlucky=(2,), own=1
    ),
    "broken": Arm(diverges=0),
}
ACCURACY = Objective("accuracy", maximize=True)
SMALL = Plan(search=3, repeats=2, epochs=2)


def blocks(report: Report) -> Iterator[Block]:
    return (block for section in report.sections for block in section.blocks)


def table(report: Report, title: str) -> Table:
    [found] = [
        block for block in blocks(report) if isinstance(block, Table) and block.title == title
    ]
    return found


def cells(report: Report, title: str, column: str) -> dict[str, str]:
    """By the first column: what a table has in another."""
    found = table(report, title)
    return {row[0]: row[found.columns.index(column)] for row in found.rows}


def captions(report: Report) -> dict[str, str]:
    return {block.name: block.caption for block in blocks(report) if isinstance(block, Figure)}


@pytest.fixture(scope="module")
def report() -> Report:
    return compose(compare(ARMS, SMALL))


def test_what_is_read_from_mlflow_is_what_was_trained(report: Report, tmp_path: Path) -> None:
    read = build(*record_comparison(tmp_path, ARMS, SMALL))
    assert (read.lead, read.facts) == (report.lead, report.facts)
    assert captions(read) == captions(report)
    for block in blocks(report):
        if isinstance(block, Table):
            assert table(read, block.title) == block
    [code] = [block for block in blocks(read) if isinstance(block, Code)]
    assert "kind: comparison" in code.text


def test_a_page_is_written_with_its_figures(report: Report, tmp_path: Path) -> None:
    page = write_report(report, tmp_path)
    assert page.name == "optimizers.html"
    names = {"standings", "best-of-n", "learning-curves", "learning-rates", "reconstructions"}
    assert {
        path.stem.removeprefix("optimizers-") for path in (tmp_path / "figures").glob("*.png")
    } == names


def test_an_arm_is_a_row_with_its_gain_its_failures_and_its_price(report: Report) -> None:
    comparison = compare(ARMS, SMALL)
    tuned = judge(comparison).standings["sgd"].mean
    default = comparison.default_loss("sgd")
    assert default is not None
    title = "Tuned and untuned"
    assert cells(report, title, "gain")["sgd"] == f"{100 * (1 - tuned / default):.0f}\u00a0%"
    failed = {
        arm: int((comparison.trials[comparison.trials["arm"] == arm]["status"] == "failed").sum())
        for arm in ARMS
    }
    assert failed["broken"] == 4 and failed["sgd"] > 1  # search trials, and a repeat
    counts = cells(report, title, "failed trials")
    assert {arm: int(text.split()[0]) for arm, text in counts.items()} == failed
    assert set(cells(report, title, "seconds per fold-epoch").values()) == {digits(SPEED, 2)}
    assert cells(report, title, "tuned parameters")["adam"] == "lr=0.001"
    assert cells(report, title, "tuned CV loss ± 95\u00a0%")["broken"] == "–"


def test_the_time_to_the_target_is_the_first_epoch_at_which_the_repeats_mean_is_there() -> None:
    comparison = compare(
        {"adam": Arm(), "slow": Arm(floor=0.0205, own=1), "sgd": Arm(floor=0.2)}, Plan(epochs=6)
    )
    report = compose(comparison)
    target = 1.1 * judge(comparison).standings["adam"].mean
    means = (
        comparison.curves[comparison.curves["arm"] == "adam"].groupby("epoch")["val_loss"].mean()
    )
    epoch = int(means.index[means <= target][0])
    assert 1 < epoch < 6
    [row, _, last] = table(report, "Time to target").rows
    assert row == ("adam", str(epoch), str(3 * epoch), digits(3 * epoch * SPEED, 3))
    assert last == ("sgd", "not reached", "not reached", "not reached")
    assert (
        f"The target, loss {digits(target)}, is 10\u00a0% above"
        in table(report, "Time to target").caption
    )


def test_a_metric_that_is_maximised_has_its_own_name_and_sign_everywhere() -> None:
    comparison = compare({"adam": Arm(), "sgd": Arm(floor=0.2)}, Plan(epochs=6))
    shift = {
        name: getattr(comparison, name).assign(
            val_loss=getattr(comparison, name)["val_loss"] - 1.0
        )
        for name in ("folds", "curves", "progress", "trials")
    }
    negative = replace(comparison, **shift)
    losses, report = compose(negative), compose(replace(negative, objective=ACCURACY))
    best = -judge(negative).standings["adam"].mean
    caption = table(report, "Time to target").caption
    assert f"The target, accuracy {digits(0.9 * best)}, is 10\u00a0% below" in caption
    assert f"the best final mean, adam's {digits(best)}" in caption
    assert table(report, "Time to target").rows == table(losses, "Time to target").rows
    column = "mean difference ± 95\u00a0%"
    [(pair, found)] = cells(report, "Paired differences", column).items()
    assert pair == "sgd − adam" and found.startswith("−")
    assert cells(losses, "Paired differences", column)[pair] == found.removeprefix("−")
    shown = "\n".join(
        text
        for block in blocks(report)
        for text in (getattr(block, "caption", ""), getattr(block, "text", ""))
    )
    assert "highest accuracy of k trials" in shown and "loss" not in f"{report.lead}{shown}"


def test_the_target_lies_above_a_negative_loss_too() -> None:
    comparison = compare({"adam": Arm(), "sgd": Arm(floor=0.2)})
    shift = {
        name: getattr(comparison, name).assign(
            val_loss=getattr(comparison, name)["val_loss"] - 5.0
        )
        for name in ("folds", "curves", "progress", "trials")
    }
    report = compose(replace(comparison, **shift))
    assert table(report, "Time to target").rows[0][0] == "adam"
    assert table(report, "Time to target").rows[0][1] == "1"
    assert "adam wins" in report.lead


def test_the_captions_count_failures_and_say_when_a_search_beats_the_default() -> None:
    arms = {
        "adam": Arm(default=0.1),
        "sgd": Arm(floor=0.03, diverges=1e-2, own=1),
        "rmsprop": Arm(own=2),
    }
    found = captions(compose(compare(arms, Plan(search=8))))
    assert "adam from 1 trial on, sgd never and rmsprop never" in found["best-of-n"]
    failed = int((compare(arms, Plan(search=8)).trials["status"] == "failed").sum())
    assert failed > 0 and f"Failed trials ({failed} of sgd's)" in found["best-of-n"]
    assert f"{failed} failed trial" in found["learning-rates"]
    assert (
        "never win" not in captions(compose(compare({"adam": Arm(), "sgd": Arm()})))["best-of-n"]
    )


@pytest.mark.parametrize(
    ("arms", "plan"),
    [
        (ARMS, Plan(done_repeats=0, pictures=False, state="interrupted")),
        (ARMS, Plan(repeats=1, folds=2, search=1, epochs=1)),
        ({"a": Arm(diverges=0), "b": Arm(diverges=0)}, Plan()),
        ({"one": Arm(default=3.0), "other": Arm(floor=5.0)}, Plan(search=2)),
    ],
)
def test_there_is_a_report_whatever_is_missing(
    arms: dict[str, Arm], plan: Plan, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = compose(compare(arms, plan))
    assert write_report(report, tmp_path).stat().st_size > 5000
    assert all(section.blocks for section in report.sections)


def test_an_empty_comparison_has_a_sentence_for_each_figure() -> None:
    comparison = compare(ARMS, Plan(done_repeats=0))
    empty = replace(
        comparison, trials=comparison.trials.iloc[:0], reconstructions=None, state="running"
    )
    report = compose(empty)
    assert captions(report) == {}
    assert sum(isinstance(block, Paragraph) for block in blocks(report)) >= 6
    assert dict(report.facts)["Failed trials"] == "0 of 0"


def test_quasi_random_trials_are_said_to_be_no_independent_draws() -> None:
    drawn = replace(compare({"adam": Arm(), "sgd": Arm()}, Plan(pictures=False)), sampler="qmc")
    assert "approximate" in captions(compose(drawn))["best-of-n"]


# --- wording -------------------------------------------------------------------------------------


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert [digits(value) for value in (0.017264, 23.951, 0.0, 1234.5, -1.5)] == [
        "0.01726",
        "23.95",
        "0.000",
        "1234",
        "−1.500",
    ]
    assert [digits(value) for value in (None, math.inf, 1.5e-9)] == ["–", "–", "1.500e−09"]
    assert digits(119.4, 2) == "119"


def test_a_mean_is_given_to_the_place_of_its_uncertainty() -> None:
    assert plus_minus(Interval(0.0172641, 0.0171, 0.0174282)) == "0.01726 ± 0.00016"
    assert plus_minus(Interval(240.123, 235.0, 245.246)) == "240.1 ± 5.1"
    assert plus_minus(Interval(0.02, -math.inf, math.inf)) == "0.02000"
    assert plus_minus(Interval(0.0, 0.0, 0.0)) == "0.00000 ± 0.00000"
    assert plus_minus(Interval(5000.0, 4000.0, 6000.0)) == "5000 ± 1000"


def test_small_words() -> None:
    assert [p_text(p) for p in (1e-5, 0.0342, 0.34)] == ["<\u00a00.001", "0.034", "0.34"]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert [plural(count, "trial") for count in (0, 1, 2)] == ["no trials", "1 trial", "2 trials"]
