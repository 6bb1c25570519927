"""OptunaSearch that reports pruned trials as PRUNED and failed ones as FAIL, reproducibly."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from ray import cloudpickle
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from foldrace.search.sampling.gate import Gate
from foldrace.search.sampling.journal import STUDY_NAME
from foldrace.search.sampling.points import Key, all_points, point_key, unseen_point
from foldrace.search.sampling.samplers import Samplers
from foldrace.search.sampling.trial_ranking import TrialRanking
from foldrace.search.spec.space import SearchSpace
from foldrace.trainables.ray.trainable import RAISED
from foldrace.trainables.tasks.parameters import Value

__all__ = ["METRIC", "FoldSearch"]

log = logging.getLogger(__name__)

METRIC = "val_loss"
# How often the sampler is asked before a random point replaces what it keeps repeating.
_ASKS = 4
# User attributes of Optuna's trials.
_NUMBER, _DUPLICATE_OF, _WANTED, _WARM = "trial", "duplicate_of", "wanted_for", "warm_start"
# Attributes that are not saved.
_OF_THIS_PROCESS = ("gate", "_told_exhausted", "_told_few", "_ranking")


class FoldSearch(OptunaSearch):  # type: ignore[misc]
    """Ray's OptunaSearch with these differences.

    - A trial that the scheduler pruned is told PRUNED, with its loss at each count of fold-epochs.
      OptunaSearch tells COMPLETE with the last value, which mixes fidelities. A trial that failed,
      diverged or never reported is told FAIL.
    - Trials are numbered from 0 in the order of asking, whatever else the study holds. Optuna's
      trial has the number as user attribute ``trial``. Each suggestion is drawn by a sampler made
      from (seed, number), so it depends only on the results known so far, after a restart too.
    - No configuration is suggested twice. A suggestion that repeats one is told FAIL, with the
      user attribute ``duplicate_of``, and the sampler is asked again; after four repetitions a
      random point takes its place.
    - A number that the storage already knows keeps its stored parameters, and a trial that has
      ended there stays so. So a searcher that is restored from a state older than its storage can
      continue.
    - With a gate, new configurations start only while it is open.

    Args:
        sampler: a name that `Samplers` knows.
        start_with: points to suggest first.
        trials: most configurations to suggest.
        storage: Optuna's; None keeps the study in memory.
        warm: trials of an earlier sweep that the sampler learns from. They have no number, and
            their configurations may be suggested again, since the best trial of this sweep must
            be one that it has trained itself.
        objectives: keys of a result, all minimised, ``val_loss`` first. With several, Optuna takes
            no intermediate values.
        in_order: results are processed when the scheduler calls `hear` and `conclude`, not as they
            arrive.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        sampler: str = "tpe",
        seed: int = 0,
        start_with: Sequence[Mapping[str, Value]] = (),
        trials: int | None = None,
        storage: optuna.storages.BaseStorage | None = None,
        warm: Sequence[FrozenTrial] = (),
        objectives: Sequence[str] = (METRIC,),
        in_order: bool = False,
    ) -> None:
        assert objectives[0] == METRIC
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.gate: Gate | None = None
        self._told_exhausted = self._told_few = False
        self._foldrace_space, self._trials = space, math.inf if trials is None else trials
        self._start_with = tuple(map(dict, start_with))
        self._objectives, self._in_order = tuple(objectives), in_order
        self._samplers = Samplers(sampler, seed, space, trials=trials, first=len(self._start_with))
        points = all_points(space)
        self._most = math.inf if points is None else len(points)
        self._numbers: dict[str, int] = {}  # by Tune's trial id
        self._configs: list[dict[str, Value]] = []  # by number
        self._seen: dict[Key, int] = {}
        self._heard: set[int] = set()  # the trials that have reported a loss
        self._ended: set[int] = set()
        several = len(self._objectives) > 1
        super().__init__(
            space=space.suggest,
            metric=list(objectives) if several else METRIC,
            mode=["min"] * len(objectives) if several else "min",
            sampler=self._samplers.make(0),
            storage=storage or optuna.storages.InMemoryStorage(),
            study_name=STUDY_NAME,
        )
        self._study_id: int = self._storage.get_study_id_from_name(STUDY_NAME)
        known = {trial.user_attrs.get(_WARM) for trial in self._stored_trials()}
        for trial in warm:
            if trial.user_attrs[_WARM] not in known:
                self.study.add_trial(trial)
        self._take_up()

    @property
    def study(self) -> optuna.Study:
        """The Optuna study behind the sweep."""
        study: optuna.Study = self._ot_study
        return study

    def _stored_trials(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return trials

    def _take_up(self) -> None:
        """Reads the numbers of Optuna's trials, and ends trials whose asking was interrupted."""
        self._optuna_numbers: dict[int, int] = {}
        self._ended = set()
        self._discarded: Counter[int] = Counter()
        for trial in self._stored_trials():
            if _NUMBER in trial.user_attrs:
                self._optuna_numbers[trial.user_attrs[_NUMBER]] = trial.number
                if trial.state.is_finished():
                    self._ended.add(trial.user_attrs[_NUMBER])
            elif trial.state is TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
            if _WANTED in trial.user_attrs:
                self._discarded[trial.user_attrs[_WANTED]] += 1
        self._ranking = TrialRanking(self._stored_trials())

    # --- suggestions -----------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """``{"trial": number, "params": active parameters}``; the same again for the same id.

        None if the gate is closed, or if no new configuration is left but paused trials may still
        be promoted; FINISHED if no trial will run again.
        """
        if trial_id not in self._numbers:
            if self.gate is not None and self.gate.over():
                return str(Searcher.FINISHED)
            if len(self._configs) >= min(self._most, self._trials):
                return self._no_more()
            if self.gate is not None and not self.gate.open():
                return None
            number = len(self._configs)
            params = self._next(number)
            if params is None:
                self._most = number
                return self._no_more()
            self._configs.append(params)
            self._seen.setdefault(point_key(params), number)
            self._numbers[trial_id] = number
        number = self._numbers[trial_id]
        return {"trial": number, "params": dict(self._configs[number])}

    def _no_more(self) -> str | None:
        if self._most < self._trials < math.inf and not self._told_few:
            self._told_few = True
            text = "%d of %d trials: the space has no other configuration"
            log.info(text, self._most, self._trials)
        if self.gate is None:
            return str(Searcher.FINISHED)
        if not self._told_exhausted:
            self._told_exhausted = True
            self.gate.exhausted()
        return None

    def _next(self, number: int) -> dict[str, Value] | None:
        """The parameters of a new trial, also as an Optuna trial; None if none are left."""
        if number in self._optuna_numbers:
            stored = self._storage.get_trial(self._trial_id(number))
            return self._foldrace_space.suggest(FixedTrial(stored.params, number))
        given = self._start_with[number] if number < len(self._start_with) else None
        while self._discarded[number] < _ASKS:
            params = self._ask(number, given)
            if params is not None:
                return params
        seed = self._samplers.seed_of(number, _ASKS, "unseen")
        point = unseen_point(self._foldrace_space, self._seen, seed)
        return None if point is None else self._ask(number, point)

    def _ask(self, number: int, point: Mapping[str, Value] | None) -> dict[str, Value] | None:
        """Asks Optuna for a trial, at ``point`` if given; None if it repeats an earlier one."""
        self.study.sampler = self._samplers.make(
            number, self._discarded[number], self._discarded.total(), self._ranking
        )
        if point is not None and not self.study.get_trials(
            deepcopy=False, states=(TrialState.WAITING,)
        ):
            tunable = {name: point[name] for name in self._foldrace_space.tunable if name in point}
            self.study.enqueue_trial(tunable)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a sampler cannot model is drawn at random
            trial = self.study.ask()
            params = self._foldrace_space.suggest(trial)
        earlier = self._seen.get(point_key(params))
        if earlier is None:
            # Last of all: a trial with a number has all its parameters, even after a crash.
            trial.set_user_attr(_NUMBER, number)
            self._optuna_numbers[number] = trial.number
            self._ranking.update(self._storage.get_trial(trial._trial_id))
            return params
        trial.set_user_attr(_DUPLICATE_OF, earlier)
        trial.set_user_attr(_WANTED, number)
        self._discarded[number] += 1
        self.study.tell(trial, state=TrialState.FAIL)
        return None

    # --- results ---------------------------------------------------------------------------------

    def _trial_id(self, number: int) -> int:
        """Optuna's id of a trial."""
        trial_id: int = self._storage.get_trial_id_from_study_id_trial_number(
            self._study_id, self._optuna_numbers[number]
        )
        return trial_id

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Records the loss at the fold-epochs spent, unless results are processed in order."""
        if trial_id in self._numbers and not self._in_order:
            self._report(self._numbers[trial_id], result)

    def _report(self, number: int, result: Mapping[str, Any]) -> None:
        if METRIC in result:
            self.hear(number, result[METRIC], result["fold_epochs"])

    def hear(self, number: int, value: float, step: int) -> None:
        """Records the loss of a trial after ``step`` fold-epochs; a value that is not finite is
        ignored."""
        if not math.isfinite(value):
            return
        self._heard.add(number)
        stored = self._storage.get_trial(self._trial_id(number))
        if (
            len(self._objectives) == 1
            and not stored.state.is_finished()
            and step not in stored.intermediate_values
        ):
            self._storage.set_trial_intermediate_value(stored._trial_id, step, float(value))
            self._ranking.update(self._storage.get_trial(stored._trial_id))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells Optuna how the trial ended; a second call for the same trial changes nothing.

        Args:
            result: the result that ends the trial; None for a trial that is ended while it is
                paused.
        """
        number = self._numbers.get(trial_id)
        ended_while_paused = result is None and not error
        if number is not None and (ended_while_paused or not self._in_order):
            self.conclude(number, result, error)

    def conclude(
        self, number: int, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells Optuna that a trial has ended, with this result or while it was paused.

        A second call for the same trial changes nothing.
        """
        if number in self._ended:
            return
        self._ended.add(number)
        error = error or RAISED in (result or {})
        if result is not None:
            self._report(number, result)  # Tune sends the result that ends a trial here only
        state, values = self._ending(number, result or {}, error)
        optuna_number = self._optuna_numbers[number]
        told = self.study.tell(optuna_number, values, state=state, skip_if_finished=True)
        self._ranking.update(told)

    def _ending(
        self, number: int, result: Mapping[str, Any], error: bool
    ) -> tuple[TrialState, Sequence[float] | None]:
        """The state in which a trial has ended, and its values if it was completed."""
        if error:
            return TrialState.FAIL, None
        if result.get("finished"):
            values = [result.get(name) for name in self._objectives]
            finite = [float(each) for each in values if each is not None and math.isfinite(each)]
            complete = len(finite) == len(values)
            return (TrialState.COMPLETE, finite) if complete else (TrialState.FAIL, None)
        stored = self._storage.get_trial(self._trial_id(number))
        reported = stored.intermediate_values or number in self._heard
        return TrialState.PRUNED if reported else TrialState.FAIL, None

    # --- state -----------------------------------------------------------------------------------

    def save(self, checkpoint_path: str) -> None:
        """Writes the state, without the gate; it includes a study that is held in memory."""
        own = self.__dict__.items()
        state = {name: value for name, value in own if name not in _OF_THIS_PROCESS}
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        """Continues from a state that `save` wrote, and from what the storage has learned since.

        The gate stays as it is.
        """
        self.__dict__.update(cloudpickle.loads(Path(checkpoint_path).read_bytes()))
        # Created again if a damaged storage has lost it.
        self._ot_study = optuna.create_study(
            storage=self._storage,
            study_name=STUDY_NAME,
            directions=["minimize"] * len(self._objectives),
            load_if_exists=True,
        )
        self._study_id = self._storage.get_study_id_from_name(STUDY_NAME)
        self._take_up()
        for number, params in enumerate(self._configs):
            if number not in self._optuna_numbers:
                # A damaged storage has lost what was drawn.
                self._seen.pop(point_key(params), None)
                self._ask(number, params)
            self._seen.setdefault(point_key(params), number)
