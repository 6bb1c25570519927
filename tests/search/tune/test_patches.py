"""Ray has the internals that are used; one that is missing or has changed is named."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorUnavailableError
from ray.tune.execution import class_cache
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from foldrace.errors import StateError
from foldrace.search.tune.patches import check_ray, patch_tune


def test_the_installed_ray_has_all_that_is_used_patched_or_not() -> None:
    check_ray()
    patch_tune()
    patch_tune()
    check_ray()


def test_a_method_that_is_missing_is_named_with_rays_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(TuneController, "_process_trial_failure")
    with pytest.raises(StateError, match=r"Ray \d.*TuneController\._process_trial_failure is mis"):
        check_ray()


def test_a_method_with_other_arguments_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TuneController, "stop_trial", lambda self, trial, reason: None)
    with pytest.raises(StateError, match="stop_trial takes other arguments"):
        check_ray()


def test_a_state_file_with_another_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Searcher, "CKPT_FILE_TMPL", "searcher-{}.json")
    pattern = r"is .searcher-\{\}\.json., not .searcher-state-\{\}\.pkl"
    with pytest.raises(StateError, match=pattern):
        check_ray()


def test_a_variable_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(class_cache, "DEFAULT_ENV_VARS")
    with pytest.raises(StateError, match=r"DEFAULT_ENV_VARS\.clear is missing"):
        check_ray()


def test_an_attribute_that_a_constructor_does_not_set_any_more_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TuneController, "__init__", lambda self: None)
    with pytest.raises(StateError, match="sets no _resetting_trials"):
        check_ray()


@pytest.mark.parametrize(("result", "failures"), [({"notice": True}, 0), ({}, 1)])
def test_the_loss_of_a_machine_with_notice_does_not_count_however_it_is_met(
    result: dict[str, bool], failures: int
) -> None:
    """Ray may say that an actor is unavailable before it knows that its machine is gone."""
    patch_tune()
    trial = Trial("none", stub=True, max_failures=0)
    trial.run_metadata.last_result = result
    controller = SimpleNamespace(_resetting_trials=set())
    gone = ActorUnavailableError("gone", bytes(16))
    with pytest.raises(AttributeError):  # what comes after the count, of which it has nothing
        TuneController._process_trial_failure(controller, trial, gone)
    assert trial.num_failures == failures
