"""The plan of a comparison: every trial is numbered and drawn before the first one starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from foldrace.search.sampling.arms import Arm
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.seeds import derive_seed

__all__ = ["Phase", "Plan", "TrialRole", "draw_plan"]


class Phase(StrEnum):
    """Why a comparison trains a trial.

    An arm's best configuration is chosen among its DEFAULT and SEARCH trials.
    """

    DEFAULT = "default"
    SEARCH = "search"
    REPEAT = "repeat"


@dataclass(frozen=True)
class TrialRole:
    """A trial's role in a comparison: its arm and why it is trained.

    Attributes:
        arm: the label of its arm.
        repeat: number of the repeat, from 1; 0 for the other phases.
    """

    arm: str
    phase: Phase
    repeat: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TrialRole | None:
        """The role in a trial's configuration; None in a sweep that is not a comparison."""
        if "arm" not in config:
            return None
        return cls(config["arm"], Phase(config["phase"]), config["repeat"])

    @property
    def tags(self) -> dict[str, object]:
        """The tags of the trial's run."""
        repeat: dict[str, object] = {"repeat": self.repeat} if self.repeat else {}
        return {"arm": self.arm, "phase": self.phase.value, **repeat}

    def __str__(self) -> str:
        """``adam``, ``adam default``, ``adam repeat 2``."""
        words = {
            Phase.DEFAULT: " default",
            Phase.SEARCH: "",
            Phase.REPEAT: f" repeat {self.repeat}",
        }
        return self.arm + words[self.phase]


@dataclass(frozen=True)
class Plan:
    """The trials of a comparison of A arms with n drawn trials and S repeats each.

    Their numbers do not depend on the order in which they end: from 0 the default trials of the
    arms, then the first drawn trial of each arm, and so on; from A(1 + n) the repeats of the first
    arm, then those of the second.

    Attributes:
        points: for each arm the parameters of its trials, the default trial first.
        repeats: S, per arm.
    """

    points: Mapping[str, Sequence[Mapping[str, Value]]]
    repeats: int

    @property
    def arms(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(self.points)

    @property
    def candidates(self) -> int:
        """The number of trials before the repeats, A(1 + n)."""
        return sum(map(len, self.points.values()))

    def candidates_of(self, arm: str) -> range:
        """The numbers of an arm's default and drawn trials."""
        return range(self.arms.index(arm), self.candidates, len(self.arms))

    def candidate(self, number: int) -> dict[str, Any]:
        """The configuration of a trial before the repeats."""
        place, turn = number % len(self.arms), number // len(self.arms)
        arm = self.arms[place]
        phase = Phase.SEARCH if turn else Phase.DEFAULT
        return _config(number, self.points[arm][turn], TrialRole(arm, phase))

    def repeat(self, arm: str, repeat: int, best: int) -> dict[str, Any]:
        """The configuration of a repeat of an arm.

        Args:
            repeat: from 1.
            best: number of the arm's best trial so far, whose parameters are trained again.
        """
        number = self.candidates + self.arms.index(arm) * self.repeats + repeat - 1
        return _config(
            number, self.candidate(best)["params"], TrialRole(arm, Phase.REPEAT, repeat)
        )


def _config(number: int, params: Mapping[str, Value], role: TrialRole) -> dict[str, Any]:
    return {
        "trial": number,
        "params": dict(params),
        "arm": role.arm,
        "phase": role.phase.value,
        "repeat": role.repeat,
    }


def draw_plan(arms: Sequence[Arm], *, sampler: str, trials: int, repeats: int, seed: int) -> Plan:
    """The plan of a comparison. Each arm has its own sampler, seeded with (seed, label).

    Args:
        sampler: ``random``, or ``qmc`` for a scrambled Sobol sequence.
        trials: number of drawn trials per arm, beside its default trial.
        repeats: number of repeats per arm.
    """
    drawn = {
        arm.label: _draw(arm, sampler, trials, derive_seed(seed, arm.label, "search") % 2**32)
        for arm in arms
    }
    return Plan({arm.label: (arm.default, *drawn[arm.label]) for arm in arms}, repeats)


def _draw(arm: Arm, sampler: str, trials: int, seed: int) -> list[Mapping[str, Value]]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if sampler == "random":
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                sampler=optuna.samplers.QMCSampler(scramble=True, seed=seed)
            )
        # The sequence has a dimension for each parameter of the first trial that has ended, so
        # that one gets all parameters, active or not.
        first = study.ask()
        for name in arm.space.tunable:
            arm.space.entries[name].suggest(first, name)
        study.tell(first, 0.0)
    return [arm.space.suggest(study.ask()) for _ in range(trials)]
