"""What Optuna is told, and what it suggests."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from search.searcher import FoldSearch
from search.space import SearchSpace
from search.spec import parse_spec
from trainables.parameters import TRAINING_PARAMETERS

ROOT = Path(__file__).parents[1]
SPACE = {
    "optimizer": {"choice": ["adam", "sgd"]},
    "lr": {"log": [1e-5, 1.0]},
    "momentum": {"uniform": [0.0, 0.9], "when": {"optimizer": "sgd"}},
    "batch_size": 64,
}


def make_space() -> SearchSpace:
    spec = parse_spec({"dataset": "digits", "space": SPACE}, Path.cwd())
    return SearchSpace.build(spec.space, TRAINING_PARAMETERS)


def make_search(**options: Any) -> FoldSearch:
    return FoldSearch(make_space(), **options)


def result(val_loss: float | None, epoch: int, *, finished: bool = False, folds: int = 3) -> dict[str, Any]:
    """As FoldTrainable reports it; a diverged trial's has no val_loss."""
    reported = {"epoch": epoch, "fold_epochs": folds * epoch, "finished": finished, "training_iteration": epoch}
    return reported if val_loss is None else {**reported, "val_loss": val_loss}


def score(params: dict[str, Any]) -> float:
    """A made-up loss, best at adam with lr 0.003."""
    return abs(math.log10(params["lr"] / 3e-3)) + (params["optimizer"] == "sgd")


def run_trials(search: FoldSearch, count: int) -> list[dict[str, Any]]:
    """Asks and tells ``count`` trials one after another: every third is given up, every seventh fails."""
    suggestions = []
    for number in range(count):
        name = f"t{number}"
        suggestion = search.suggest(name)
        suggestions.append(suggestion)
        value = score(suggestion["params"])
        search.on_trial_result(name, result(value + 0.5, 1))
        if number % 7 == 6:
            search.on_trial_complete(name, error=True)
        else:
            search.on_trial_complete(name, result(value, 2, finished=number % 3 != 2))
    return suggestions


# --- what Optuna is told ------------------------------------------------------------------------------------------


def test_a_trial_that_was_given_up_is_told_pruned_with_its_values_at_fold_epochs() -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_result("a", result(0.9, 1))
    search.on_trial_result("a", result(0.5, 3))
    search.on_trial_complete("a", result(0.4, 4))
    [told] = search.study.trials
    assert told.state is TrialState.PRUNED
    assert told.intermediate_values == {3: 0.9, 9: 0.5, 12: 0.4}


def test_the_stock_search_tells_complete_for_the_same_trial() -> None:
    """The reason for a search of our own: a value after one epoch beside values after all of them."""
    stock = OptunaSearch(space=make_space().suggest, metric="val_loss", mode="min")
    ours = make_search()
    for search in (stock, ours):
        search.suggest("a")
        search.on_trial_result("a", result(0.9, 1))
        search.on_trial_complete("a", result(0.9, 1))
    [by_stock], [by_ours] = stock._ot_study.trials, ours.study.trials
    assert (by_stock.state, by_stock.value) == (TrialState.COMPLETE, 0.9)
    assert by_ours.state is TrialState.PRUNED
    with pytest.raises(ValueError, match="No trials are completed"):
        _ = ours.study.best_trial


def test_a_finished_trial_is_told_complete_with_its_last_value() -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_result("a", result(0.9, 1))
    search.on_trial_complete("a", result(0.25, 2, finished=True))
    [told] = search.study.trials
    assert (told.state, told.value) == (TrialState.COMPLETE, 0.25)
    assert told.intermediate_values == {3: 0.9, 6: 0.25}


@pytest.mark.parametrize(
    "end",
    [
        {"error": True},
        {"result": result(0.3, 1), "error": True},
        {"result": None},
        {"result": result(None, 2, finished=True)},
        {"result": result(math.inf, 2, finished=True)},
        {"result": result(math.nan, 2, finished=True)},
    ],
    ids=["error", "error after a result", "nothing", "diverged", "infinite", "NaN"],
)
def test_a_failed_or_diverged_trial_is_told_fail(end: dict[str, Any]) -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_complete("a", **end)
    assert [trial.state for trial in search.study.trials] == [TrialState.FAIL]


def test_a_second_completion_changes_nothing() -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_complete("a", result(0.25, 2, finished=True))
    search.on_trial_complete("a", result(0.1, 3, finished=True))
    search.on_trial_complete("a", error=True)
    [told] = search.study.trials
    assert (told.state, told.value, told.intermediate_values) == (TrialState.COMPLETE, 0.25, {6: 0.25})


def test_a_result_that_comes_twice_is_told_once() -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_result("a", result(0.9, 1))
    search.on_trial_result("a", result(0.8, 1))
    assert search._ot_trials["a"].storage.get_all_trials(0)[0].intermediate_values == {3: 0.9}


# --- what is suggested --------------------------------------------------------------------------------------------


def test_suggestions_are_numbered_and_hold_active_parameters_in_their_types() -> None:
    search = make_search(sampler="random")
    suggestions = [search.suggest(f"t{n}") for n in range(20)]
    assert [s["trial"] for s in suggestions] == list(range(20))
    for suggestion in suggestions:
        params = suggestion["params"]
        assert ("momentum" in params) == (params["optimizer"] == "sgd")
        assert params["batch_size"] == 64 and isinstance(params["batch_size"], int)
    assert {s["params"]["optimizer"] for s in suggestions} == {"adam", "sgd"}
    assert search.suggest("t3") == suggestions[3]  # asked again, the same


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_equal_searches_with_an_equal_history_suggest_the_same(sampler: str) -> None:
    first, second = (run_trials(make_search(sampler=sampler, seed=5), 16) for _ in range(2))
    assert first == second
    assert first != run_trials(make_search(sampler=sampler, seed=6), 16)


def test_tpe_learns_from_the_history() -> None:
    """The same numbers with another history give other suggestions, once enough is known."""
    told = make_search(seed=5)
    silent = make_search(seed=5)
    run_trials(told, 14)
    for number in range(14):
        silent.suggest(f"t{number}")
        silent.on_trial_complete(f"t{number}", error=True)
    assert told.suggest("next")["trial"] == silent.suggest("next")["trial"] == 14
    assert told.suggest("next") != silent.suggest("next")


def test_random_suggestions_depend_neither_on_results_nor_on_what_is_pending() -> None:
    sequential = run_trials(make_search(sampler="random", seed=3), 12)
    search = make_search(sampler="random", seed=3)
    all_pending = [search.suggest(f"t{n}") for n in range(12)]
    search = make_search(sampler="random", seed=3)
    all_failed = []
    for n in range(12):
        all_failed.append(search.suggest(f"other-{n}"))
        search.on_trial_complete(f"other-{n}", error=True)
    assert sequential == all_pending == all_failed


def test_points_to_start_with_come_first_and_are_filled_up() -> None:
    points = [{"optimizer": "sgd", "lr": 0.5, "momentum": 0.25}, {"lr": 2e-3}]
    search = make_search(sampler="random", start_with=points)
    first, second, third = (search.suggest(f"t{n}")["params"] for n in range(3))
    assert first == {"optimizer": "sgd", "lr": 0.5, "momentum": 0.25, "batch_size": 64}
    assert second["lr"] == 2e-3 and second["optimizer"] in ("adam", "sgd")
    assert third["lr"] not in (0.5, 2e-3)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_restored_search_goes_on_as_if_it_had_not_been_interrupted(sampler: str, tmp_path: Path) -> None:
    straight = make_search(sampler=sampler, seed=1, start_with=[{"lr": 2e-3}])
    run_trials(straight, 13)
    straight.suggest("pending")
    straight.save(str(tmp_path / "searcher.pkl"))
    restored = make_search(sampler=sampler, seed=1, start_with=[{"lr": 2e-3}])
    restored.restore(str(tmp_path / "searcher.pkl"))
    for search in (straight, restored):
        search.on_trial_complete("pending", result(0.01, 2, finished=True))
    assert [restored.suggest(f"n{k}") for k in range(3)] == [straight.suggest(f"n{k}") for k in range(3)]
    assert [t.state for t in restored.study.trials] == [t.state for t in straight.study.trials]


def test_another_process_with_another_hash_seed_suggests_the_same() -> None:
    script = "import test_searcher as t; print(t.run_trials(t.make_search(seed=5), 13)[-1])"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": path}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, timeout=100
    ).stdout
    assert printed.strip() == str(run_trials(make_search(seed=5), 13)[-1])
