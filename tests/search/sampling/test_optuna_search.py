"""What the searcher tells Optuna, and what it suggests."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray import cloudpickle
from ray.tune.search.optuna import OptunaSearch

from foldrace.search.sampling.journal import open_journal
from foldrace.search.sampling.optuna_search import FoldSearch
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.tasks.parameters import TRAINING_PARAMETERS

ROOT = Path(__file__).parents[3]
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


def result(
    val_loss: float | None, epoch: int, *, finished: bool = False, folds: int = 3
) -> dict[str, Any]:
    """As FoldTrainable reports it; a diverged trial's has no val_loss."""
    reported = {
        "epoch": epoch,
        "fold_epochs": folds * epoch,
        "finished": finished,
        "training_iteration": epoch,
    }
    return reported if val_loss is None else {**reported, "val_loss": val_loss}


def score(params: dict[str, Any]) -> float:
    """A made-up loss, best at adam with lr 0.003."""
    return abs(math.log10(params["lr"] / 3e-3)) + (params["optimizer"] == "sgd")


def run_trials(search: FoldSearch, count: int) -> list[dict[str, Any]]:
    """Asks and tells ``count`` trials one after another: every third is given up, every seventh
    fails."""
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


# --- what Optuna is told -------------------------------------------------------------------------


def test_a_pruned_trial_is_told_pruned_with_its_values_at_fold_epochs() -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_result("a", result(0.9, 1))
    search.on_trial_result("a", result(0.5, 3))
    search.on_trial_complete("a", result(0.4, 4))
    [told] = search.study.trials
    assert told.state is TrialState.PRUNED
    assert told.intermediate_values == {3: 0.9, 9: 0.5, 12: 0.4}


# what Tune may say of a trial: results on the way, how it ends, and what Optuna has to know then
ENDINGS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], TrialState, dict[int, float]]] = {
    "finished": (
        [result(0.9, 1)],
        {"result": result(0.25, 2, finished=True)},
        TrialState.COMPLETE,
        {3: 0.9, 6: 0.25},
    ),
    "pruned": ([], {"result": result(0.9, 1)}, TrialState.PRUNED, {3: 0.9}),
    "pruned later": (
        [result(0.9, 1)],
        {"result": result(0.8, 2)},
        TrialState.PRUNED,
        {3: 0.9, 6: 0.8},
    ),
    "ended while it waits": ([result(0.9, 1)], {"result": None}, TrialState.PRUNED, {3: 0.9}),
    "never reported": ([], {"result": None}, TrialState.FAIL, {}),
    "failed": ([result(0.9, 1)], {"error": True}, TrialState.FAIL, {3: 0.9}),
    "failed with a result": (
        [],
        {"result": result(0.3, 1), "error": True},
        TrialState.FAIL,
        {3: 0.3},
    ),
    "diverged": (
        [result(0.9, 1)],
        {"result": result(None, 2, finished=True)},
        TrialState.FAIL,
        {3: 0.9},
    ),
    "infinite": ([], {"result": result(math.inf, 2, finished=True)}, TrialState.FAIL, {}),
    "NaN": ([], {"result": result(math.nan, 2, finished=True)}, TrialState.FAIL, {}),
}
TOLD_WRONG_BY_STOCK = {
    "pruned",
    "pruned later",
    "never reported",
    "failed with a result",
    "diverged",
    "infinite",
    "NaN",
}


def check_ending(search: OptunaSearch, ending: str) -> None:
    """The contract, of any search on Optuna: the state, the value and the curve that its study has
    in the end."""
    results, end, state, curve = ENDINGS[ending]
    search.suggest("a")
    for each in results:
        search.on_trial_result("a", each)
    search.on_trial_complete("a", **end)
    [told] = search._ot_study.trials
    assert told.state is state
    if isinstance(
        search, FoldSearch
    ):  # Ray's has Tune's iterations for steps, and leaves out the last
        assert told.intermediate_values == curve
    assert state is not TrialState.COMPLETE or told.value == end["result"]["val_loss"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_optuna_is_told_how_each_trial_ended(ending: str) -> None:
    check_ending(make_search(), ending)


@pytest.mark.parametrize("ending", sorted(TOLD_WRONG_BY_STOCK))
def test_rays_own_search_does_not_keep_this_contract(ending: str) -> None:
    """The reason for a search of our own: a value after one epoch beside values after all of them,
    among others."""
    stock = OptunaSearch(space=make_space().suggest, metric="val_loss", mode="min")
    with pytest.raises(AssertionError):
        check_ending(stock, ending)


def test_rays_own_search_keeps_it_for_the_endings_that_it_knows() -> None:
    for ending in ENDINGS.keys() - TOLD_WRONG_BY_STOCK:
        check_ending(
            OptunaSearch(space=make_space().suggest, metric="val_loss", mode="min"), ending
        )


def test_a_second_completion_changes_nothing() -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_complete("a", result(0.25, 2, finished=True))
    search.on_trial_complete("a", result(0.1, 3, finished=True))
    search.on_trial_complete("a", error=True)
    [told] = search.study.trials
    assert (told.state, told.value, told.intermediate_values) == (
        TrialState.COMPLETE,
        0.25,
        {6: 0.25},
    )


def test_a_result_that_comes_twice_is_told_once() -> None:
    search = make_search()
    search.suggest("a")
    search.on_trial_result("a", result(0.9, 1))
    search.on_trial_result("a", result(0.8, 1))
    assert search.study.trials[0].intermediate_values == {3: 0.9}


# --- what is suggested ---------------------------------------------------------------------------


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
def test_a_restored_search_goes_on_as_if_it_had_not_been_interrupted(
    sampler: str, tmp_path: Path
) -> None:
    straight = make_search(sampler=sampler, seed=1, start_with=[{"lr": 2e-3}])
    run_trials(straight, 13)
    straight.suggest("pending")
    straight.save(str(tmp_path / "searcher.pkl"))
    restored = make_search(sampler=sampler, seed=1, start_with=[{"lr": 2e-3}])
    restored.restore(str(tmp_path / "searcher.pkl"))
    for search in (straight, restored):
        search.on_trial_complete("pending", result(0.01, 2, finished=True))
    assert [restored.suggest(f"n{k}") for k in range(3)] == [
        straight.suggest(f"n{k}") for k in range(3)
    ]
    assert [t.state for t in restored.study.trials] == [t.state for t in straight.study.trials]


def test_another_process_with_another_hash_seed_suggests_the_same() -> None:
    script = (
        "import tests.search.sampling.test_optuna_search as t;"
        " print(t.run_trials(t.make_search(seed=5), 13)[-1])"
    )
    environment = os.environ | {"PYTHONHASHSEED": "123", "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout
    assert printed.strip() == str(run_trials(make_search(seed=5), 13)[-1])


# --- no configuration twice ----------------------------------------------------------------------


def small_search(space: dict[str, Any] | None = None, **options: Any) -> FoldSearch:
    space = space or {"batch_size": {"choice": [16, 32]}, "lr": {"choice": [0.1, 0.01, 0.001]}}
    spec = parse_spec({"dataset": "digits", "space": space}, Path.cwd())
    return FoldSearch(SearchSpace.build(spec.space, TRAINING_PARAMETERS), **options)


def drain(search: FoldSearch) -> list[dict[str, Any]]:
    """All suggestions to the last, each trial finished before the next."""
    suggestions = []
    while (suggestion := search.suggest(f"t{len(suggestions)}")) != FoldSearch.FINISHED:
        assert isinstance(suggestion, dict) and len(suggestions) < 100
        name = f"t{len(suggestions)}"
        suggestions.append(suggestion)
        search.on_trial_complete(name, result(suggestion["params"]["lr"], 2, finished=True))
    return suggestions


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes", "gp", "nsga2"])
def test_every_point_of_a_small_space_is_suggested_once_and_then_the_search_is_finished(
    sampler: str,
) -> None:
    search = small_search(sampler=sampler, seed=2)
    suggestions = drain(search)
    assert [s["trial"] for s in suggestions] == list(range(6))
    assert len({tuple(sorted(s["params"].items())) for s in suggestions}) == 6
    assert suggestions == drain(small_search(sampler=sampler, seed=2))
    told = search.study.trials
    numbered = {t.user_attrs["trial"]: t for t in told if "trial" in t.user_attrs}
    assert sorted(numbered) == list(range(6)) and len(told) > 6
    for trial in told:
        if "trial" not in trial.user_attrs:
            assert trial.state is TrialState.FAIL
            assert trial.params == numbered[trial.user_attrs["duplicate_of"]].params


def test_conditions_are_counted_and_fewer_trials_than_asked_are_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "foldrace")
    space = {
        "optimizer": {"choice": ["adam", "sgd"]},
        "momentum": {"uniform": [0.0, 0.9], "step": 0.3, "when": {"optimizer": "sgd"}},
        "lr": 0.1,
    }
    assert len(drain(small_search(space, sampler="random", trials=7))) == 1 + 4
    assert caplog.messages == ["5 of 7 trials: the space has no other configuration"]


def test_a_space_that_cannot_be_counted_ends_when_draws_find_nothing_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("foldrace.search.sampling.points._MOST_POINTS", 2)
    monkeypatch.setattr("foldrace.search.sampling.optuna_search.all_points", lambda space: None)
    monkeypatch.setattr("foldrace.search.sampling.points.all_points", lambda space: None)
    assert len(drain(small_search(sampler="random"))) == 6


def test_a_point_that_is_given_twice_is_trained_once() -> None:
    point = {"batch_size": 32, "lr": 0.01}
    suggestions = drain(small_search(sampler="random", start_with=[point, point]))
    assert (
        suggestions[0]["params"] == point and [s["params"] for s in suggestions].count(point) == 1
    )


def test_no_more_trials_are_suggested_than_requested() -> None:
    assert len(drain(small_search(sampler="random", trials=4))) == 4


# --- the gate ------------------------------------------------------------------------------------


class ByHand:
    """A gate that a test moves."""

    def __init__(self) -> None:
        self.is_open, self.is_over, self.told = True, False, 0

    def open(self) -> bool:
        return self.is_open

    def over(self) -> bool:
        return self.is_over

    def exhausted(self) -> None:
        self.told += 1


def test_new_configurations_wait_for_the_gate_and_known_ones_do_not() -> None:
    search, gate = make_search(sampler="random", trials=2), ByHand()
    search.gate = gate
    first = search.suggest("a")
    gate.is_open = False
    assert search.suggest("b") is None and search.suggest("a") == first
    assert len(search.study.trials) == 1
    gate.is_open = True
    assert search.suggest("b")["trial"] == 1
    assert gate.told == 0
    assert search.suggest("c") is None and search.suggest("c") is None and gate.told == 1
    gate.is_over = True
    assert search.suggest("c") == FoldSearch.FINISHED and search.suggest("a") == first


def test_a_used_up_space_is_told_to_the_gate_once() -> None:
    search, gate = small_search(sampler="random"), ByHand()
    search.gate = gate
    assert [search.suggest(f"t{n}") is None for n in range(8)] == [False] * 6 + [True] * 2
    assert gate.told == 1


@pytest.mark.parametrize("storage", [None, "journal"])
def test_the_gate_is_no_part_of_the_state(storage: str | None, tmp_path: Path) -> None:
    class Unpicklable(ByHand):
        def __reduce__(self) -> str:
            raise AssertionError("the gate was pickled")

    search, gate = (
        make_search(storage=storage and open_journal(tmp_path / "optuna.log")),
        Unpicklable(),
    )
    search.gate = gate
    search.suggest("a")
    search.save(str(tmp_path / "state"))
    search.suggest("b")
    search.restore(str(tmp_path / "state"))
    assert search.gate is gate


def test_a_search_and_its_gate_that_are_pickled_together_stay_together() -> None:
    search, gate = small_search(sampler="random"), ByHand()
    search.gate = gate
    search.suggest("a")
    copy, other = cloudpickle.loads(cloudpickle.dumps((search, gate)))
    assert copy.gate is other and copy.suggest("a") == search.suggest("a")
