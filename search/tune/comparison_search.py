"""The searcher of a comparison: the trials of its plan, then repeats of each arm's best."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from foldrace.search.preparing.prepared import Prepared
from foldrace.search.sampling.comparison_plan import Plan, draw_plan
from foldrace.search.sampling.optuna_search import METRIC

__all__ = ["ComparisonSearch", "make_comparison_search"]


def make_comparison_search(prepared: Prepared) -> ComparisonSearch:
    """The search of a prepared comparison, with its trials drawn."""
    search, comparison = prepared.spec.search, prepared.spec.comparison
    assert comparison is not None
    plan = draw_plan(
        prepared.arms,
        sampler=search.sampler,
        trials=search.trials,
        repeats=comparison.repeats,
        seed=search.seed,
    )
    return ComparisonSearch(plan)


class ComparisonSearch(Searcher):  # type: ignore[misc]
    """Follows a plan. Its suggestions depend on the losses of the trials, but not on the order in
    which they end.

    An arm's repeats follow once all its other trials have ended. An arm without a completed trial
    has no repeats.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(metric=METRIC, mode="min")
        self._plan = plan
        self._given: dict[str, dict[str, Any]] = {}
        # of the trials that have ended; infinite if they have no loss
        self._losses: dict[int, float] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next configuration; None while it depends on trials that still run; FINISHED when
        there is none."""
        if trial_id not in self._given:
            config = self._next()
            if config is None:
                waiting = any(not self._all_ended(arm) for arm in self._plan.arms)
                return None if waiting else str(Searcher.FINISHED)
            self._given[trial_id] = config
        return self._given[trial_id]

    def _next(self) -> dict[str, Any] | None:
        given = {config["trial"] for config in self._given.values()}
        for number in range(self._plan.candidates):
            if number not in given:
                return self._plan.candidate(number)
        ready = {arm: best for arm in self._plan.arms if (best := self._best(arm)) is not None}
        for repeat in range(1, self._plan.repeats + 1):
            for arm, best in ready.items():
                config = self._plan.repeat(arm, repeat, best)
                if config["trial"] not in given:
                    return config
        return None

    def _all_ended(self, arm: str) -> bool:
        return all(number in self._losses for number in self._plan.candidates_of(arm))

    def _best(self, arm: str) -> int | None:
        """The arm's trial with the lowest loss, the earlier of equals; None while some have not
        ended, or if none has a loss."""
        if not self._all_ended(arm):
            return None
        best = min(
            self._plan.candidates_of(arm), key=lambda number: (self._losses[number], number)
        )
        return best if math.isfinite(self._losses[best]) else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Notes a trial's loss; a second call for the same trial changes nothing."""
        completed = result is not None and result.get("finished") and not error
        value = result.get(METRIC) if result is not None and completed else None
        loss = value if value is not None and math.isfinite(value) else math.inf
        self._losses.setdefault(self._given[trial_id]["trial"], loss)

    def save(self, checkpoint_path: str) -> None:
        """Writes the suggestions and the losses so far."""
        Path(checkpoint_path).write_bytes(pickle.dumps((self._given, self._losses)))

    def restore(self, checkpoint_path: str) -> None:
        """Continues from the state that `save` wrote, with the same plan."""
        self._given, self._losses = pickle.loads(Path(checkpoint_path).read_bytes())
