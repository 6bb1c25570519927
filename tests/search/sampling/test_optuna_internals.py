"""The installed Optuna has the internals that are used, and an error names those that it lacks."""

from __future__ import annotations

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study

from foldrace.errors import FoldraceError
from foldrace.search.sampling.optuna_internals import StudyView, check


@pytest.fixture
def fresh_check() -> None:
    check.cache_clear()


def test_the_installed_version_has_what_is_used(fresh_check: None) -> None:
    check()


def test_a_missing_method_is_named_with_the_version(
    fresh_check: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Study, "_get_trials")
    with pytest.raises(FoldraceError) as caught:
        check()
    assert f"Optuna {optuna.__version__} lacks" in str(caught.value)
    assert "Study._get_trials(self, deepcopy, states, use_cache)" in str(caught.value)


def test_a_changed_signature_is_named(fresh_check: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JournalFileBackend, "append_logs", lambda self, logs, sync: None)
    with pytest.raises(FoldraceError, match=r"JournalFileBackend\.append_logs\(self, logs\)"):
        check()


def test_a_sampler_that_reads_the_trials_in_another_way_is_named(
    fresh_check: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TPESampler, "_sample", lambda self, study: study.trials)
    with pytest.raises(FoldraceError, match=r"_get_trials in TPESampler\._sample"):
        check()


def test_a_view_shows_its_own_trials_and_is_otherwise_the_study() -> None:
    study = optuna.create_study()
    for value in (1.0, 2.0, 3.0):
        study.tell(study.ask(), value)
    view = StudyView(study, study.trials[1:])
    assert [trial.number for trial in view.get_trials()] == [1, 2]
    assert [trial.number for trial in view._get_trials(use_cache=True)] == [1, 2]
    assert view.study_name == study.study_name and view.directions == study.directions
    assert len(study.trials) == 3
