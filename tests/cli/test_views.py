"""What a person sees: numbers, lines, tables, and nothing that wraps at 80 columns."""

from __future__ import annotations

import math
import time
from io import StringIO

import pytest
from rich.console import Console

from foldrace.cli.views import LiveView, PlainView, top_table
from foldrace.search.text import clock, params_text, score_text
from foldrace.search.tune.state import TrialTable
from foldrace.trainables.tasks.parameters import Value
from tests.search.tune.test_state import COMPLETED, FAILED, PRUNED, RUNNING, record, trial_table

PARAMS: dict[str, Value] = {
    "optimizer": "rmsprop",
    "lr": 0.00213456,
    "momentum": 0.8765,
    "batch_size": 128,
    "activation": "leaky_relu",
    "schedule": "one-cycle",
    "dropout": 0.31234,
    "latent_dim": 16,
    "amsgrad": True,
}


def long_race() -> TrialTable:
    """Twenty trials in every state, with long parameters."""
    states = [COMPLETED, RUNNING, PRUNED, FAILED]
    race = trial_table(
        *(record(n, states[n % 4], 0.01 * n + 0.01, 0.012 * n + 0.02) for n in range(20)),
        total=1000,
    )
    for trial in race.records.values():
        trial.params = PARAMS
    return race


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00"),
        (41.6, "0:42"),
        (59.7, "1:00"),
        (725, "12:05"),
        (3723, "1:02:03"),
        (3599.9, "1:00:00"),
        (None, "–"),
        (math.inf, "–"),
        (math.nan, "–"),
    ],
)
def test_clock(seconds: float | None, shown: str) -> None:
    assert clock(seconds) == shown


def test_score_text() -> None:
    assert score_text(0.016234, 0.000119) == "0.01623 ± 0.00012"
    assert score_text(0.016234, math.nan) == "0.01623"
    assert score_text(math.inf, math.nan) == "no loss"
    assert score_text(math.nan, math.nan) == "no loss"


def test_params_text() -> None:
    assert params_text(PARAMS, ["lr", "optimizer"]) == "optimizer=rmsprop lr=0.00213"
    assert (
        params_text({"lr": 0.1, "latent_dim": 16, "eps": None}) == "lr=0.1 latent_dim=16 eps=None"
    )


def test_the_plain_view_prints_one_line_for_each_trial_that_ends() -> None:
    file = StringIO()
    race = trial_table(
        record(0, COMPLETED, 0.1, 0.3), record(1, PRUNED, 0.5, 0.5, epoch=1), record(2, RUNNING)
    )
    race.records[1].reason = "pruned at epoch 1 [red]"
    with PlainView(Console(file=file, width=80)) as view:
        view.update(race, race.records[0])
        view.update(race)  # nothing has ended: nothing is printed
        view.update(race, race.records[1])
    starting, first, second = file.getvalue().splitlines()
    assert starting == "starting Ray and its workers …"
    assert (
        first
        == "[0:00] trial 0 completed 0.20000 ± 0.10000 | 3 of 10 trials: 1 running, 1 completed, 1"
        " pruned | best loss 0.20000 ± 0.10000 (trial 0) | 8 fold-epochs | ETA 0:00"
    )
    assert "trial 1 pruned 0.50000 ± 0.00000 (at epoch 1 [red])" in second


def test_the_plain_view_shows_that_the_first_trial_has_begun_and_that_long_ones_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file, now = StringIO(), 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    race = TrialTable(total=4, started=now)
    with PlainView(Console(file=file, width=80)) as view:
        now += 5
        race.note(record(0, RUNNING))
        view.update(race)
        now += 20
        race.note(record(0, RUNNING, 0.2, epoch=1))
        view.update(race)  # soon after the last line
        now += 20
        race.note(record(0, RUNNING, 0.1, epoch=2))
        view.update(race)
    assert file.getvalue().splitlines() == [
        "starting Ray and its workers …",
        "[0:05] 1 of 4 trials: 1 running | no best yet | 0 fold-epochs | ETA –",
        "[0:45] 1 of 4 trials: 1 running | no best yet | 2 fold-epochs | ETA –",
    ]


def test_the_plain_view_says_that_there_is_no_best_yet() -> None:
    file = StringIO()
    race = trial_table(record(0, FAILED))
    with PlainView(Console(file=file, width=80)) as view:
        view.update(race, race.records[0])
    assert "trial 0 failed |" in file.getvalue()
    assert "| no best yet |" in file.getvalue()


def test_the_live_view_never_wraps() -> None:
    race, file = long_race(), StringIO()
    console = Console(file=file, force_terminal=True, width=80)
    view = LiveView(console, time_budget=1e5)
    plain = StringIO()
    Console(file=plain, width=80).print(view._draw(race))
    lines = plain.getvalue().splitlines()
    running = race.count(RUNNING)
    assert len(lines) == 3 + running, (
        plain.getvalue()
    )  # the bar, the counts, the best, and a line a running trial
    assert all(len(line) <= 80 for line in lines)
    assert " 15/1000 " in lines[0]  # those that have ended
    assert "20 of 1000 trials: 5 running, 5 completed, 5 pruned, 5 failed" in lines[1]
    assert lines[2].startswith("best  trial 0: loss 0.01500 ± 0.00500")


def test_the_live_view_draws_on_a_terminal() -> None:
    file = StringIO()
    race = trial_table(record(0, COMPLETED, 0.1, 0.3), record(1, RUNNING), total=4)
    with LiveView(Console(file=file, force_terminal=True, width=80)) as view:
        view.update(race, race.records[0])
    text = file.getvalue()
    assert "1/4" in text and "0.20000 ± 0.10000" in text


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_the_best_shows_every_score_whole(width: int) -> None:
    race, file = long_race(), StringIO()
    Console(file=file, width=width).print(top_table(race, list(PARAMS), folds=2, epochs=100))
    text = file.getvalue()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    for trial in race.ranking()[:5]:
        assert score_text(trial.val_loss, trial.standard_error) in text


def test_pruned_trials_follow_the_completed_ones_and_have_no_place() -> None:
    race = trial_table(
        record(0, PRUNED, 0.001, 0.001, epoch=2),
        record(1, COMPLETED, 0.5, 0.5),
        record(2, PRUNED, 0.1, epoch=1),
    )
    table = top_table(race, ["lr"], folds=2, epochs=9)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["1", "·", "·"]
    assert cells[1] == ["1", "0", "2"]
    assert cells[3] == ["completed", "2/9 epochs", "1/2 folds, 1/9 epochs"]
