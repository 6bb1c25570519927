"""The search on a journal file: what a crash leaves behind, and how the search goes on from a
state older than it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from foldrace.search.sampling.journal import open_journal
from foldrace.search.sampling.optuna_search import FoldSearch
from tests.search.sampling.test_optuna_search import make_search, result, score, small_search

COUNT = 14


class KilledError(Exception):
    """In place of a killed process."""


class Sweep:
    """A search with its journal and its state in files, driven one trial after another by a loop
    that can crash."""

    def __init__(
        self, folder: Path, make: Callable[..., FoldSearch] = make_search, **options: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.journal, self.state = folder / "optuna.log", folder / "state"
        self._make, self._options = make, {"seed": 7, **options}
        self.suggestions: dict[int, dict[str, Any]] = {}

    def process(self) -> FoldSearch:
        """A search in a new process: from the saved state, if there is one."""
        search = self._make(storage=open_journal(self.journal), **self._options)
        if self.state.exists():
            search.restore(str(self.state))
        return search

    def run(
        self, search: FoldSearch, first: int, last: int, *, crash_at: int | None = None
    ) -> None:
        for number in range(first, last):
            name = f"t{number}"
            suggestion = search.suggest(name)
            assert isinstance(suggestion, dict) and suggestion["trial"] == number
            assert self.suggestions.setdefault(number, suggestion) == suggestion
            value = score({"optimizer": "adam", **suggestion["params"]})
            search.on_trial_result(name, result(value + 0.5, 1))
            if number == crash_at:
                raise KilledError
            end = result(value, 2, finished=number % 3 != 2)
            search.on_trial_complete(name, end, error=number % 7 == 6)


def summary(search: FoldSearch) -> list[tuple[Any, ...]]:
    """What the study knows of each numbered trial."""
    known = {t.user_attrs["trial"]: t for t in search.study.trials if "trial" in t.user_attrs}
    return [
        (n, t.state, t.value, t.params, t.intermediate_values) for n, t in sorted(known.items())
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes", "nsga2"])
@pytest.mark.parametrize("saved_at", [None, 5])
def test_after_a_crash_the_journal_is_ahead_and_the_search_catches_up(
    sampler: str, saved_at: int | None, tmp_path: Path
) -> None:
    straight = Sweep(tmp_path / "straight", sampler=sampler)
    uninterrupted = straight.process()
    straight.run(uninterrupted, 0, COUNT)

    sweep = Sweep(tmp_path / "crashed", sampler=sampler)
    search = sweep.process()
    if saved_at is not None:
        sweep.run(search, 0, saved_at)
        search.save(str(sweep.state))
    with pytest.raises(KilledError):
        sweep.run(search, saved_at or 0, COUNT, crash_at=9)
    again = sweep.process()
    assert [t.state for t in again.study.trials].count(TrialState.RUNNING) == 1
    sweep.run(again, saved_at or 0, COUNT)
    assert sweep.suggestions == straight.suggestions
    assert summary(again) == summary(uninterrupted)
    assert all(trial.state.is_finished() for trial in again.study.trials)


def test_trials_that_ran_when_the_state_was_saved_may_have_ended_since(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    search = sweep.process()
    first = search.suggest("t0")
    search.save(str(sweep.state))
    search.on_trial_result("t0", result(0.9, 1))
    search.on_trial_complete("t0", result(0.5, 2, finished=True))
    again = sweep.process()
    assert again.suggest("t0") == first
    again.on_trial_result("t0", result(0.9, 1))  # trained again, from an older checkpoint
    again.on_trial_complete("t0", error=True)
    [told] = again.study.trials
    assert (told.state, told.value, told.intermediate_values) == (
        TrialState.COMPLETE,
        0.5,
        {3: 0.9, 6: 0.5},
    )


@pytest.mark.parametrize("small", [False, True], ids=["large space", "small space"])
def test_wherever_in_the_journal_the_process_was_killed_the_same_trials_follow(
    small: bool, tmp_path: Path
) -> None:
    """The journal cut off within every line (of a small space, whose journal is long: every
    fourth)."""
    options: dict[str, Any] = {"sampler": "random", "start_with": [{"lr": 0.01}]}
    make, count = (small_search, 6) if small else (make_search, 4)
    whole = Sweep(tmp_path / "whole", make, **options)
    expected = whole.process()
    whole.run(expected, 0, count)
    lines = whole.journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 20
    for kept in range(0, len(lines), 4 if small else 1):
        cut = Sweep(tmp_path / "cut", make, **options)
        torn = lines[kept][: len(lines[kept]) // 2]
        cut.journal.write_bytes(b"".join(lines[:kept]) + torn)
        search = cut.process()
        cut.run(search, 0, count)
        assert cut.suggestions == whole.suggestions, kept
        assert summary(search) == summary(expected), kept
        assert all(trial.state.is_finished() for trial in search.study.trials), kept
        shutil.rmtree(tmp_path / "cut")


def test_an_enqueued_trial_is_found_by_its_process_and_by_new_readers_of_the_journal(
    tmp_path: Path,
) -> None:
    path, waiting = tmp_path / "optuna.log", (TrialState.WAITING,)
    study = optuna.create_study(storage=open_journal(path), study_name="foldrace")
    before = pickle.dumps(study)
    assert not study.get_trials(states=waiting)
    empty = pickle.dumps(study)
    study.enqueue_trial({"lr": 0.1})
    for one in (study, *map(pickle.loads, (before, empty, pickle.dumps(study)))):
        assert [trial.number for trial in one.get_trials(states=waiting)] == [0]
    assert study.ask().suggest_float("lr", 0.01, 1.0) == 0.1
    assert not study.get_trials(states=waiting)
    assert study.ask().number == 1


def test_the_journal_is_a_study_that_optuna_opens(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    search = sweep.process()
    sweep.run(search, 0, 8)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(sweep.journal))
    )
    study = optuna.load_study(study_name="foldrace", storage=storage)
    assert [t.params for t in study.trials] == [t.params for t in search.study.trials]
    assert study.best_trial.user_attrs["trial"] == search.study.best_trial.user_attrs["trial"]


@pytest.mark.parametrize("kept", [0, 1, 5, 40])
def test_a_damaged_journal_gets_back_what_had_been_drawn(kept: int, tmp_path: Path) -> None:
    """As after a power cut, when the saved state is on the disk and the journal's last lines are
    not."""
    sweep = Sweep(tmp_path / "sweep", sampler="random")
    search = sweep.process()
    sweep.run(search, 0, 6)
    search.save(str(sweep.state))
    lines = sweep.journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 41
    sweep.journal.write_bytes(b"".join(lines[:kept]) + b'{"half a')
    again = sweep.process()
    sweep.run(again, 6, COUNT)
    straight = Sweep(tmp_path / "straight", sampler="random")
    straight.run(straight.process(), 0, COUNT)
    assert sweep.suggestions == straight.suggestions
    known = {number: params for number, _, _, params, _ in summary(again)}
    assert known.keys() == sweep.suggestions.keys()
    assert all(
        known[number].items() <= one["params"].items() for number, one in sweep.suggestions.items()
    )
    assert {state for number, state, *_ in summary(again) if number >= 6} <= {
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
    }
