"""The Pareto front of a sweep with several objectives, and how it is shown."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from foldrace.cli.tables import pareto_table
from foldrace.errors import InputError
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.search.sweeps.pareto import pareto_front
from foldrace.search.sweeps.result import SweepResult
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable
from foldrace.trainables.training.reports import EpochReport, FoldReport

BOTH = ("val_loss", "parameters")


def record(
    number: int,
    loss: float,
    parameters: int | None,
    seconds: float = 1.0,
    status: TrialStatus = TrialStatus.COMPLETED,
) -> TrialRecord:
    folds = tuple(FoldReport(k, 2, 2, False, None, {"val_loss": loss + 0.01 * k}) for k in (-1, 1))
    report = EpochReport(2, folds, 4, seconds, True)
    return TrialRecord(number, {"width": number}, status, report, parameters=parameters)


def front(records: Sequence[TrialRecord], objectives: Sequence[str] = BOTH) -> list[int]:
    return [point.trial for point in pareto_front(records, objectives)]


def test_the_front_holds_what_no_other_trial_beats_in_all_objectives() -> None:
    records = [
        record(0, 0.5, 100),
        record(1, 0.4, 200),
        record(2, 0.6, 150),
        record(3, 0.3, 900),
        record(4, 0.4, 250),
    ]
    assert front(records) == [3, 1, 0]


def test_equals_stay_side_by_side_and_order_does_not_matter() -> None:
    records = [record(0, 0.5, 100), record(1, 0.5, 100), record(2, 0.7, 100)]
    assert front(records) == front(records[::-1]) == [0, 1]


def test_only_completed_trials_with_all_figures_count() -> None:
    records = [
        record(0, 0.1, 10, status=TrialStatus.PRUNED),
        record(1, 0.1, 10, status=TrialStatus.FAILED),
        record(2, math.inf, 10),
        record(3, 0.1, None),
        record(4, 0.5, 100),
        TrialRecord(5, {}),
    ]
    assert front(records) == [4]
    assert front(records[:3]) == []


def test_seconds_are_an_objective_too() -> None:
    records = [
        record(0, 0.5, 100, seconds=9.0),
        record(1, 0.5, 100, seconds=3.0),
        record(2, 0.6, 200, seconds=1.0),
    ]
    assert front(records, ("val_loss", "seconds")) == [1, 2]
    assert front(records, ("val_loss", "parameters", "seconds")) == [1, 2]


def test_a_sweep_with_one_objective_has_no_front() -> None:
    assert pareto_front([record(0, 0.5, 100)], ("val_loss",)) == ()


def test_a_point_as_json_holds_its_objectives() -> None:
    [point] = pareto_front([record(0, 0.5, 100)], BOTH)
    assert point.to_json() == {
        "trial": 0,
        "params": {"width": 0},
        "val_loss": pytest.approx(0.5),
        "parameters": 100,
    }


def test_the_result_as_json_has_the_front_of_several_objectives_and_no_key_without_it() -> None:
    points = pareto_front([record(0, 0.5, 100), record(1, 0.4, 200)], BOTH)
    result = SweepResult(
        "s", Path("s"), "sqlite:///x", "run", {"completed": 2}, None, 8, 1.0, False, pareto=points
    )
    assert [point["trial"] for point in result.to_json()["pareto"]] == [1, 0]
    assert "pareto" not in replace(result, pareto=()).to_json()


def test_the_table_shows_the_loss_with_its_error_and_the_price() -> None:
    points = pareto_front(
        [record(3, 0.3, 12345, seconds=75.0)], ("val_loss", "parameters", "seconds")
    )
    output = io.StringIO()
    Console(file=output, width=120).print(pareto_table(points, ["width"]))
    row = next(line for line in output.getvalue().splitlines() if "12,345" in line)
    assert "0.30000 ± 0.01000" in row and "1:15" in row and "width=3" in row


@pytest.mark.parametrize(
    ("search", "kind", "said"),
    [
        (
            {"objectives": ["parameters"]},
            "fifo",
            "search.objectives: ['parameters']: must be a list: val_loss first",
        ),
        ({"objectives": []}, "fifo", "search.objectives: []: must be a list"),
        ({"objectives": "val_loss"}, "fifo", "search.objectives: val_loss: must be a list"),
        (
            {"objectives": ["val_loss", "second"]},
            "fifo",
            r"search.objectives[1]: second: must be a list: val_loss first",
        ),
        ({"objectives": ["val_loss", "val_loss"]}, "fifo", "search.objectives[1]: val_loss: "),
        (
            {"objectives": list(BOTH), "sampler": "gp"},
            "fifo",
            "search.sampler: gp: must be one of nsga2, tpe, random",
        ),
        (
            {"objectives": list(BOTH)},
            "stopping",
            "scheduler.kind: stopping: must be fifo with more than one objective",
        ),
    ],
)
def test_what_does_not_go_with_several_objectives_is_refused(
    search: dict[str, object], kind: str, said: str
) -> None:
    with pytest.raises(InputError) as error:
        parse_spec(
            {"dataset": "digits", "search": search, "scheduler": {"kind": kind}}, Path.cwd()
        )
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_several_objectives_need_a_sampler_that_knows_them(sampler: str) -> None:
    search = {"objectives": ["val_loss", "seconds", "parameters"], "sampler": sampler}
    spec = parse_spec(
        {"dataset": "digits", "search": search, "scheduler": {"kind": "fifo"}}, Path.cwd()
    )
    assert spec.search.objectives == ("val_loss", "seconds", "parameters")


def test_the_best_trial_is_never_dominated_whatever_comes_first() -> None:
    records = [record(0, 0.4, 200), record(1, 0.4, 100), record(2, 0.5, 50), record(3, 0.4, 100)]
    for order in (records, records[::-1]):
        table = TrialTable(total=4, objectives=BOTH)
        for each in order:
            table.note(each)
        assert table.best is not None
        assert table.best.number == table.ranking()[0].number == front(records)[0] == 1
    alone = TrialTable(total=4, records={each.number: each for each in records})
    assert alone.best is records[0]
