"""OptunaSearch, told the truth: trials that were given up are PRUNED, failed ones FAIL, and
suggestions repeat."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from ray import cloudpickle
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from foldrace.search.sampling.journal import STUDY_NAME
from foldrace.search.sampling.samplers import Merits, Samplers
from foldrace.search.spec.points import Key, all_points, point_key, unseen_point
from foldrace.search.spec.space import SearchSpace
from foldrace.trainables.ray.trainable import RAISED
from foldrace.trainables.tasks.parameters import Value

__all__ = ["METRIC", "FoldSearch", "Gate"]

METRIC = "val_loss"
_ASKS = 4  # of the sampler, before a point at random takes the place of what it keeps repeating
_NUMBER, _DUPLICATE_OF, _WANTED, _WARM = "trial", "duplicate_of", "wanted_for", "warm_start"
_OF_THIS_PROCESS = ("gate", "_told_exhausted", "_merits")


class Gate(Protocol):
    """Says when a new configuration may start; the scheduler's side of the search."""

    def open(self) -> bool:
        """A new configuration may start now."""
        ...

    def over(self) -> bool:
        """Nothing will ever run again."""
        ...

    def exhausted(self) -> None:
        """Told once: no new configuration is left."""
        ...


class FoldSearch(OptunaSearch):  # type: ignore[misc]
    """Ray's OptunaSearch with these differences.

    - A trial that the scheduler gave up is told PRUNED with its values at each count of
      fold-epochs, where OptunaSearch tells COMPLETE with the last value, which mixes fidelities. A
      trial that failed, diverged or never reported is told FAIL.
    - Trials are numbered from 0 in the order of asking, whatever else the study holds; Optuna's
      trial has the number as user attribute ``trial``. A suggestion is drawn by a sampler made
      from (seed, number), so it depends on the results known so far and on nothing else, after a
      restart too.
    - No configuration is handed out twice. A suggestion that repeats one is told FAIL, with the
      user attribute ``duplicate_of``, and the sampler is asked again; a point at random takes the
      place of what it keeps repeating.
    - A trial that the storage knows under a number is taken up when that number is due, with its
      stored parameters; what the storage holds as ended stays so. So a searcher restored from a
      state older than its storage goes on.
    - With a gate, new configurations start only while it is open.

    Args:
        trials: how many configurations to hand out at most.
        storage: of Optuna; None keeps the study in memory.
        warm: trials of an earlier sweep that the sampler learns from. They have no number, and
            their configurations may be trained again: the winner of this sweep is one that it has
            trained itself.
        objectives: keys of a result, all minimised, ``val_loss`` first. With several, Optuna takes
            no intermediate values.
        in_order: results count when the scheduler says so (`hear`, `conclude`), and not as they
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
        self._told_exhausted = False
        self._foldrace_space, self._start_with, self._trials = (
            space,
            tuple(map(dict, start_with)),
            trials,
        )
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
        """Reads from the storage which Optuna trial has which number, and ends those of an asking
        that was cut off."""
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
        self._merits = Merits(self._stored_trials())

    # --- suggestions -----------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """``{"trial": number, "params": active parameters}``; the same again for the same id.

        None if the gate is closed, or if no new configuration is left and the gate may still let
        others go on; FINISHED if there is nothing to come.
        """
        if trial_id not in self._numbers:
            if self.gate is not None and self.gate.over():
                return str(Searcher.FINISHED)
            if len(self._configs) >= min(
                self._most, math.inf if self._trials is None else self._trials
            ):
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
        if self.gate is None:
            return str(Searcher.FINISHED)
        if not self._told_exhausted:
            self._told_exhausted = True
            self.gate.exhausted()
        return None

    def _next(self, number: int) -> dict[str, Value] | None:
        """The parameters of the trial of that number, which becomes an Optuna trial; None if the
        space is used up."""
        if number in self._optuna_numbers:
            stored = self._storage.get_trial(self._trial_id(number))
            return self._foldrace_space.suggest(FixedTrial(stored.params, number))
        given = self._start_with[number] if number < len(self._start_with) else None
        while self._discarded[number] < _ASKS:
            params = self._ask(number, None if self._discarded[number] else given)
            if params is not None:
                return params
        seed = self._samplers.seed_of(number, _ASKS, "unseen")
        point = unseen_point(self._foldrace_space, self._seen, seed)
        return None if point is None else self._ask(number, point)

    def _ask(self, number: int, point: Mapping[str, Value] | None) -> dict[str, Value] | None:
        """Asks Optuna for a trial, at ``point`` where that says; None if it repeats an earlier
        one."""
        self.study.sampler = self._samplers.make(
            number, self._discarded[number], self._discarded.total(), self._merits
        )
        if point is not None and not self.study.get_trials(
            deepcopy=False, states=(TrialState.WAITING,)
        ):
            tunable = {name: point[name] for name in self._foldrace_space.tunable if name in point}
            self.study.enqueue_trial(tunable)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # what a sampler cannot model is drawn at random, as documented
            trial = self.study.ask()
            params = self._foldrace_space.suggest(trial)
        earlier = self._seen.get(point_key(params))
        if (
            earlier is None
        ):  # noted last: a trial with a number has all its parameters, whatever happens
            trial.set_user_attr(_NUMBER, number)
            self._optuna_numbers[number] = trial.number
            self._merits.note(self._storage.get_trial(trial._trial_id))
            return params
        trial.set_user_attr(_DUPLICATE_OF, earlier)
        trial.set_user_attr(_WANTED, number)
        self._discarded[number] += 1
        self.study.tell(trial, state=TrialState.FAIL)
        return None

    # --- results ---------------------------------------------------------------------------------

    def _trial_id(self, number: int) -> int:
        """Optuna's id of the trial of that number."""
        optuna_number = self._optuna_numbers[number]
        trial_id: int = self._storage.get_trial_id_from_study_id_trial_number(
            self._study_id, optuna_number
        )
        return trial_id

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes the intermediate value at the fold-epochs spent."""
        if trial_id in self._numbers and not self._in_order:
            self._report(self._numbers[trial_id], result)

    def _report(self, number: int, result: Mapping[str, Any]) -> None:
        if METRIC in result:
            self.hear(number, result[METRIC], result["fold_epochs"])

    def hear(self, number: int, value: float, step: int) -> None:
        """Notes the loss of a trial that has trained so many fold-epochs."""
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
            self._merits.note(self._storage.get_trial(stored._trial_id))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells Optuna how the trial ended; a second call for the same trial changes nothing.

        Args:
            result: the last one, if it is the one that ends the trial; None for a trial that is
                ended while it waits.
        """
        number = self._numbers.get(trial_id)
        ended_as_it_waits = result is None and not error
        if number is not None and (ended_as_it_waits or not self._in_order):
            self.conclude(number, result, error)

    def conclude(
        self, number: int, result: Mapping[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial has ended, with this result or while it waited; a second call for the same one
        changes nothing."""
        if number in self._ended:
            return
        self._ended.add(number)
        error = error or RAISED in (result or {})
        if result is not None:
            self._report(number, result)  # Tune sends the result that ends a trial here only
        state, values = self._ending(number, result or {}, error)
        self._merits.note(
            self.study.tell(
                self._optuna_numbers[number], values, state=state, skip_if_finished=True
            )
        )

    def _ending(
        self, number: int, result: Mapping[str, Any], error: bool
    ) -> tuple[TrialState, Sequence[float] | None]:
        if error:
            return TrialState.FAIL, None
        if result.get("finished"):
            values = [result.get(name) for name in self._objectives]
            finite = [
                float(value) for value in values if value is not None and math.isfinite(value)
            ]
            return (
                (TrialState.COMPLETE, finite)
                if len(finite) == len(values)
                else (TrialState.FAIL, None)
            )
        stored = self._storage.get_trial(self._trial_id(number))
        return (
            TrialState.PRUNED
            if stored.intermediate_values or number in self._heard
            else TrialState.FAIL
        ), None

    # --- state -----------------------------------------------------------------------------------

    def save(self, checkpoint_path: str) -> None:
        """Writes the state, without the gate; a study in memory is part of it."""
        state = {
            name: value for name, value in self.__dict__.items() if name not in _OF_THIS_PROCESS
        }
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(state))

    def restore(self, checkpoint_path: str) -> None:
        """Takes up where `save` was called; the gate stays the one that is there. What the storage
        has learned since is kept."""
        self.__dict__.update(cloudpickle.loads(Path(checkpoint_path).read_bytes()))
        self._ot_study = (
            optuna.create_study(  # made again where a damaged storage has lost even that
                storage=self._storage,
                study_name=STUDY_NAME,
                directions=["minimize"] * len(self._objectives),
                load_if_exists=True,
            )
        )
        self._study_id = self._storage.get_study_id_from_name(STUDY_NAME)
        self._take_up()
        for number, params in enumerate(self._configs):
            if (
                number not in self._optuna_numbers
            ):  # the storage was damaged: it has lost what had been drawn
                self._seen.pop(point_key(params), None)
                self._ask(number, params)
            self._seen.setdefault(point_key(params), number)
