"""What a comparison answers for each arm: its best, its default, and the fold losses of its
repeats."""

from __future__ import annotations

import json
import math
from io import StringIO

import pytest
from rich.console import Console

from foldrace.cli.tables import arms_table
from foldrace.cli.views import top_table
from foldrace.search.sampling.comparison_plan import Phase, TrialRole
from foldrace.search.sweeps.comparison_result import make_arm_results
from foldrace.search.tune.state import TrialStatus, TrialTable
from tests.search.tune.test_state import COMPLETED, FAILED, RUNNING, record, trial_table

LABELS = ("adam", "sgd", "rmsprop")
DEFAULT, SEARCH, REPEAT = Phase.DEFAULT, Phase.SEARCH, Phase.REPEAT


def race(*trials: tuple[TrialRole, TrialStatus, tuple[float, ...]]) -> TrialTable:
    records = [
        record(number, status, *losses) for number, (_, status, losses) in enumerate(trials)
    ]
    for trial, (part, _, _) in zip(records, trials, strict=True):
        trial.part = part
        trial.params = {"optimizer": part.arm, "lr": 0.001 * (1 + trial.number)}
    return trial_table(*records)


@pytest.fixture
def ended() -> TrialTable:
    """adam is better by default; one repeat of sgd has failed; nothing of rmsprop has come to its
    end."""
    return race(
        (TrialRole("adam", DEFAULT), COMPLETED, (0.1, 0.3)),
        (TrialRole("sgd", DEFAULT), COMPLETED, (0.8, 0.8)),
        (TrialRole("rmsprop", DEFAULT), FAILED, ()),
        (TrialRole("adam", SEARCH), COMPLETED, (0.3, 0.3)),
        (TrialRole("sgd", SEARCH), COMPLETED, (0.5, 0.7)),
        (TrialRole("rmsprop", SEARCH), FAILED, ()),
        (TrialRole("adam", REPEAT, 1), COMPLETED, (0.2, 0.4)),
        (TrialRole("adam", REPEAT, 2), COMPLETED, (0.3, 0.5)),
        (TrialRole("sgd", REPEAT, 1), FAILED, (0.01, math.inf)),
        (TrialRole("sgd", REPEAT, 2), COMPLETED, (0.6, 0.8)),
    )


def test_an_arm_answers_with_its_best_its_default_and_its_repeats(ended: TrialTable) -> None:
    arms = {label: arm.to_json() for label, arm in make_arm_results(ended, LABELS).items()}
    assert list(arms) == list(LABELS)
    adam, sgd, rmsprop = arms.values()
    assert (adam["best_trial"], adam["val_loss"], adam["default"]) == (0, 0.2, 0.2)
    assert adam["params"] == {"optimizer": "adam", "lr": 0.001}
    assert adam["trials"] == {"completed": 4, "pruned": 0, "failed": 0}
    assert adam["repeats"]["losses"] == [[0.2, 0.4], [0.3, 0.5]]
    assert adam["repeats"]["mean"] == pytest.approx(0.35)
    assert adam["repeats"]["standard_error"] == pytest.approx(math.sqrt(0.05 / 3 / 4))
    assert adam["repeats"]["count"] == 4
    assert (sgd["best_trial"], sgd["val_loss"], sgd["default"]) == (4, pytest.approx(0.6), 0.8)
    assert sgd["trials"] == {"completed": 3, "pruned": 0, "failed": 1}
    assert (sgd["repeats"]["losses"], sgd["repeats"]["mean"]) == (
        [None, [0.6, 0.8]],
        pytest.approx(0.7),
    )
    assert (rmsprop["best_trial"], rmsprop["val_loss"], rmsprop["default"]) == (None, None, None)
    assert rmsprop["repeats"] == {"mean": None, "standard_error": None, "count": 0, "losses": []}
    json.dumps(arms, allow_nan=False)


def test_an_arm_that_has_not_begun_has_nothing() -> None:
    arm = make_arm_results(
        race((TrialRole("adam", DEFAULT), RUNNING, (0.1, 0.3))), ["adam", "sgd"]
    )
    assert [result.best_trial for result in arm.values()] == [None, None]
    assert arm["sgd"].trials == {"completed": 0, "pruned": 0, "failed": 0}


def test_the_tables_name_arms_and_leave_repeats_out_of_the_best(ended: TrialTable) -> None:
    file = StringIO()
    console = Console(file=file, width=100)
    console.print(top_table(ended, ["optimizer", "lr"], folds=3, epochs=3))
    best = [line for line in file.getvalue().splitlines() if "completed" in line]
    assert [line.split("│")[3].strip() for line in best] == [
        "adam default",
        "adam",
        "sgd",
        "sgd default",
    ]
    console.print(arms_table(make_arm_results(ended, LABELS), ["optimizer", "lr"]))
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in file.getvalue().splitlines()
        if "│" in line
    ]
    assert rows[-3:] == [
        ["adam", "0.20000", "0.20000", "0.35000 ± 0.06455", "0", "lr=0.001"],
        ["sgd", "0.80000", "0.60000", "0.70000 ± 0.10000", "1", "lr=0.005"],
        ["rmsprop", "–", "–", "–", "2", ""],
    ]
