"""What the search uses of Optuna's internals, and a check that the installed version has it.

Everything here is outside Optuna's public interface: a renamed method would not fail, but let TPE
learn from the wrong trials, or draw quasi-random points twice. `check` is called when a sampler
is made.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Container
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import QMCSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search.optuna import OptunaSearch

from foldrace.errors import FoldraceError

__all__ = ["SobolPoint", "StudyView", "check"]

# Methods that are overridden or called: owner, name, parameters.
_METHODS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (Study, "_get_trials", ("self", "deepcopy", "states", "use_cache")),
    (Study, "get_trials", ("self", "deepcopy", "states")),
    (QMCSampler, "_find_sample_id", ("self", "study", "search_space")),
    (QMCSampler, "infer_relative_search_space", ("self", "study", "trial")),
    (JournalFileBackend, "append_logs", ("self", "logs")),
    (JournalStorage, "create_new_trial", ("self", "study_id", "template_trial")),
    (JournalStorage, "get_all_trials", ("self", "study_id", "deepcopy", "states")),
    (JournalStorage, "__setstate__", ("self", "state")),
)
# Names that a function uses: the method or attribute that is relied on behind it.
_USES: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (TPESampler, "_sample", ("_get_trials",)),
    (QMCSampler, "_sample_qmc", ("_find_sample_id",)),
    (Study, "_pop_waiting_trial_id", ("get_all_trials", "WAITING")),
    (Trial, "__init__", ("_trial_id",)),
    (FrozenTrial, "__init__", ("_trial_id",)),
    (JournalFileBackend, "__init__", ("_file_path", "_lock", "_log_number_offset")),
    (OptunaSearch, "__init__", ("_ot_study", "_storage")),
)


@functools.cache
def check() -> None:
    """Checks that Optuna, and Ray's searcher over it, have what the search relies on.

    Raises:
        FoldraceError: names the version of Optuna and what it lacks.
    """
    missing = [
        f"{owner.__name__}.{name}({', '.join(parameters)})"
        for owner, name, parameters in _METHODS
        if _parameters(getattr(owner, name, None)) != parameters
    ]
    for owner, name, wanted in _USES:
        code = getattr(getattr(owner, name, None), "__code__", None)
        used = code.co_names if code else ()
        missing += [f"{each} in {owner.__name__}.{name}" for each in wanted if each not in used]
    if missing:
        raise FoldraceError(
            f"Optuna {optuna.__version__} lacks what the search relies on: {'; '.join(missing)};"
            " install a version that pyproject.toml allows"
        )


def _parameters(method: Callable[..., Any] | None) -> tuple[str, ...]:
    return tuple(inspect.signature(method).parameters) if method is not None else ()


class StudyView(Study):
    """A study that shows a sampler only the given trials, and is otherwise the study itself."""

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        # Shares the storage, the directions and the thread's state, instead of opening a study.
        self.__dict__.update(vars(study))
        self._shown = trials

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]


class SobolPoint(QMCSampler):
    """The sampler of one point of a scrambled Sobol sequence.

    The sequence has a dimension for every tunable parameter, active or not. Optuna's own takes its
    dimensions from the first trial that has ended, and counts its points in the study: both depend
    on what has happened, and a point that an interrupted process has drawn would be lost.

    Args:
        distributions: by parameter, the dimensions.
        position: the point's place in the sequence, from 0.
        seed: of the scrambling, the same for all points of the sequence.
        independent_seed: of the random draws of parameters that are not in ``distributions``.
    """

    def __init__(
        self,
        distributions: dict[str, BaseDistribution],
        position: int,
        seed: int,
        independent_seed: int,
    ) -> None:
        super().__init__(
            scramble=True,
            seed=seed,
            independent_sampler=RandomSampler(seed=independent_seed),
            warn_independent_sampling=False,
        )
        self._distributions, self._position = distributions, position

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return dict(self._distributions)

    def _find_sample_id(self, study: Study, search_space: dict[str, Any]) -> int:
        return self._position
