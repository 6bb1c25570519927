"""Every sampler behind the search: the same again from the same history, on any space, after a
restart, in silence."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from foldrace.search.sampling.journal import open_journal
from foldrace.search.sampling.optuna_search import FoldSearch
from foldrace.search.sampling.samplers import Samplers
from foldrace.search.sampling.trial_ranking import TrialRanking
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.tasks.parameters import TRAINING_PARAMETERS
from tests.search.sampling.test_optuna_search import result, run_trials, score

SAMPLERS = ["tpe", "random", "qmc", "cmaes", "gp", "nsga2"]
CONDITIONAL = {
    "optimizer": {"choice": ["adam", "sgd"]},
    "lr": {"log": [1e-5, 1.0]},
    "weight_decay": {"log": [1e-6, 1e-2]},
    "momentum": {"uniform": [0.0, 0.9], "when": {"optimizer": "sgd"}},
    "batch_size": {"int": [16, 256], "step": 16},
}
SMOOTH = {"lr": {"log": [1e-5, 1.0]}, "weight_decay": {"log": [1e-6, 1e-2]}, "optimizer": "adam"}


def make_search(sampler: str, space: dict[str, Any] | None = None, **options: Any) -> FoldSearch:
    spec = parse_spec({"dataset": "digits", "space": space or CONDITIONAL}, Path.cwd())
    return FoldSearch(
        SearchSpace.build(spec.space, TRAINING_PARAMETERS),
        sampler=sampler,
        **{"trials": 16, **options},
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_histories_give_equal_suggestions_and_another_seed_others(sampler: str) -> None:
    first, second = (run_trials(make_search(sampler, seed=5), 14) for _ in range(2))
    assert first == second
    assert first != run_trials(make_search(sampler, seed=6), 14)
    assert len({str(s["params"]) for s in first}) == 14


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("storage", ["memory", "journal"])
def test_a_restored_search_goes_on_as_the_uninterrupted_one(
    sampler: str, storage: str, tmp_path: Path
) -> None:
    straight = make_search(sampler, SMOOTH, seed=1)
    expected = run_trials(straight, 14)
    journal = tmp_path / "optuna.log"
    first = make_search(
        sampler, SMOOTH, seed=1, storage=open_journal(journal) if storage == "journal" else None
    )
    suggestions = run_trials(first, 9)
    first.save(str(tmp_path / "state"))
    again = make_search(
        sampler, SMOOTH, seed=1, storage=open_journal(journal) if storage == "journal" else None
    )
    again.restore(str(tmp_path / "state"))
    assert run_trials(again, 14) == expected and expected[:9] == suggestions
    assert [t.state for t in again.study.trials] == [t.state for t in straight.study.trials]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "nsga2"])
def test_a_sampler_that_learns_ends_nearer_to_the_best_than_chance(sampler: str) -> None:
    def distances(name: str) -> float:
        search = make_search(name, SMOOTH, seed=3, trials=40)
        for number in range(40):
            suggestion = search.suggest(f"t{number}")
            value = score(suggestion["params"])
            search.on_trial_complete(f"t{number}", result(value, 2, finished=True))
        return float(
            np.median(
                [trial.value for trial in search.study.trials[-15:] if trial.value is not None]
            )
        )

    assert distances(sampler) < 0.7 * distances("random")


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_is_written_to_the_terminal(
    sampler: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_trials(make_search(sampler, seed=0, start_with=[{"lr": 0.1}]), 13)
    assert capfd.readouterr() == ("", "")


# --- qmc -----------------------------------------------------------------------------------------


def unit(suggestions: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    """Where in the unit square ``SMOOTH``'s points lie."""
    points = np.log10([[s["params"]["lr"], s["params"]["weight_decay"]] for s in suggestions])
    return (points - [-5, -6]) / [5, 4]


@pytest.mark.parametrize("given", [0, 3])
def test_a_sobol_sequence_fills_every_cell_once(given: int) -> None:
    """16 points of a (0, m, 2)-net: one in each cell of a 16 × 1, 4 × 4, 1 × 16 grid, whatever
    ends when."""
    points = [{"lr": 0.1, "weight_decay": 1e-6 * (n + 1)} for n in range(given)]
    search = make_search("qmc", SMOOTH, seed=4, start_with=points, trials=None)
    drawn = unit(run_trials(search, 16 + given)[given:])
    for columns in (16, 4, 1):
        cells = np.floor(drawn * [columns, 16 // columns])
        assert len(np.unique(cells, axis=0)) == 16


def test_a_sobol_sequence_depends_neither_on_results_nor_on_order() -> None:
    pending = make_search("qmc", seed=4)
    assert [pending.suggest(f"t{n}") for n in range(14)] == run_trials(
        make_search("qmc", seed=4), 14
    )


# --- several objectives --------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_several_objectives_are_told_together_and_without_intermediate_values(
    sampler: str,
) -> None:
    def run() -> FoldSearch:
        search = make_search(sampler, objectives=["val_loss", "parameters"], seed=2)
        for number in range(16):
            name = f"t{number}"
            params = search.suggest(name)["params"]
            search.on_trial_result(name, result(1.0, 1) | {"parameters": 100})
            if number % 4 == 3:
                search.on_trial_complete(name, None)
            else:
                ending = result(score(params), 2, finished=True)
                search.on_trial_complete(name, ending | {"parameters": params["batch_size"]})
        return search

    search = run()
    trials = [t for t in search.study.trials if "duplicate_of" not in t.user_attrs]
    assert [t.state for t in trials] == ([TrialState.COMPLETE] * 3 + [TrialState.PRUNED]) * 4
    assert all(
        t.values == [pytest.approx(score(t.params)), t.params["batch_size"]]
        for t in trials
        if t.values
    )
    assert not any(t.intermediate_values for t in trials)
    assert [t.params for t in run().study.trials] == [t.params for t in search.study.trials]
    assert search.study.best_trials


def test_a_missing_objective_is_a_failure() -> None:
    search = make_search("tpe", objectives=["val_loss", "parameters"])
    search.suggest("a")
    search.on_trial_complete("a", result(0.5, 2, finished=True))
    assert [t.state for t in search.study.trials] == [TrialState.FAIL]


def test_tpe_learns_from_a_paused_trial_as_from_a_pruned_one() -> None:
    waiting, given_up = (make_search("tpe", SMOOTH, seed=2, trials=40) for _ in range(2))
    for number in range(40):
        name = str(number)
        suggested = waiting.suggest(name)
        assert suggested == given_up.suggest(name)
        assert isinstance(suggested, dict)
        report = result(score(suggested["params"]), 1)
        waiting.on_trial_result(name, report)
        given_up.on_trial_result(name, report)
        given_up.on_trial_complete(name)  # as Tune ends a trial that is paused
    assert all(trial.state is TrialState.RUNNING for trial in waiting.study.trials)
    losses = [score(waiting.suggest(str(number))["params"]) for number in range(40)]  # type: ignore[index]
    assert np.mean(losses[25:]) < np.mean(losses[:10])


def test_a_ranking_updated_trial_by_trial_shows_the_best_the_newest_and_the_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("foldrace.search.sampling.trial_ranking._MOST", 12)
    monkeypatch.setattr("foldrace.search.sampling.trial_ranking._BEST", 5)
    drawn = random.Random(3)
    study = optuna.create_study()
    ranking = TrialRanking()
    for _ in range(60):
        trial = study.ask()
        for step in range(drawn.randint(0, 3)):
            trial.report(drawn.random(), step)
            ranking.update(study.trials[trial.number])
        if drawn.random() < 0.3:
            study.tell(trial, drawn.random())
        elif drawn.random() < 0.5 and study.trials[trial.number].intermediate_values:
            study.tell(trial, state=TrialState.PRUNED)
        elif drawn.random() < 0.3:
            study.tell(trial, state=TrialState.FAIL)
        ranking.update(study.trials[trial.number])
    heard = [
        one
        for one in study.trials
        if one.state is not TrialState.FAIL
        and (one.intermediate_values or one.state is TrialState.COMPLETE)
    ]
    assert any(one.state is TrialState.FAIL and one.intermediate_values for one in study.trials)

    def place(one: FrozenTrial) -> tuple[bool, int, float]:
        if one.state is TrialState.COMPLETE:
            return False, 0, one.values[0]
        step = max(one.intermediate_values)
        return True, -step, one.intermediate_values[step]

    best_and_newest = {one.number for one in (*sorted(heard, key=place)[:5], *heard[-7:])}
    running = {
        one.number for one in study.trials if one not in heard and one.state is TrialState.RUNNING
    }
    assert len(heard) > 12 and len(TrialRanking(heard[:12]).shown()) == 12 and running
    for shown in (ranking.shown(), TrialRanking(study.trials).shown()):
        assert [one.number for one in shown] == sorted(best_and_newest | running)
        assert {one.number for one in shown if one.state is TrialState.RUNNING} == running


def test_a_ranking_gives_the_same_suggestions_as_the_whole_study(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run() -> list[Any]:
        """Four trials at a time; some fail, with a report or without, some wait, some complete."""
        search, suggestions = make_search("tpe", seed=4, trials=60), []
        for number in range(60):
            suggestions.append(search.suggest(str(number)))
            if number >= 4:
                name, value = str(number - 4), score(suggestions[number - 4]["params"])
                if number % 6:
                    search.on_trial_result(name, result(value + 0.2, 1))
                if number % 3 == 0:
                    search.on_trial_complete(name, error=True)
                elif number % 3 == 1:
                    search.on_trial_complete(name, result(value, 2, finished=True))
        return suggestions

    noted = run()
    make = Samplers.make
    monkeypatch.setattr(Samplers, "make", lambda self, *which: make(self, *which[:3]))
    assert run() == noted


def test_tpe_draws_parameters_together_for_one_objective_only() -> None:
    """As Optuna's TPE does by default."""
    for objectives in (["val_loss"], ["val_loss", "parameters"]):
        search = make_search("tpe", SMOOTH, objectives=objectives)
        search.suggest("0")
        trial = search.study.trials[0]
        optunas = optuna.samplers.TPESampler().infer_relative_search_space
        search.on_trial_complete("0", result(0.5, 1, finished=True) | {"parameters": 3})
        ours = search.study.sampler.infer_relative_search_space(search.study, trial)
        assert ours == optunas(search.study, trial)
        assert bool(ours) is (len(objectives) == 1)


def test_of_many_trials_tpe_sees_the_200_best_and_the_800_newest() -> None:
    """Trial i has the value i, so the best are the oldest; of 1,001 one is neither."""
    trials = [
        optuna.trial.create_trial(state=TrialState.COMPLETE, values=[float(number)])
        for number in range(1001)
    ]
    ranking = TrialRanking()
    for number, trial in enumerate(trials):
        trial.number = number
        ranking.update(trial)
    shown = [trial.number for trial in ranking.shown()]
    assert shown == [*range(200), *range(201, 1001)]
