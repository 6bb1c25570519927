"""What a comparison will train: every trial numbered and drawn before the first one starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from foldrace.search.spec.arms import Arm
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.seeds import derive_seed

__all__ = ["Part", "Phase", "Plan", "draw_plan"]


class Phase(StrEnum):
    """Why a comparison trains a trial; the first two compete for their arm's best
    configuration."""

    DEFAULT = "default"
    SEARCH = "search"
    REPEAT = "repeat"


@dataclass(frozen=True)
class Part:
    """A trial's part in a comparison; ``repeat`` counts from 1 and is 0 outside the repeats."""

    arm: str
    phase: Phase
    repeat: int = 0

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Part | None:
        """The part in a trial's configuration; None in a sweep that is no comparison."""
        return (
            cls(config["arm"], Phase(config["phase"]), config["repeat"])
            if "arm" in config
            else None
        )

    @property
    def tags(self) -> dict[str, object]:
        """As the trial's run is tagged."""
        return {"arm": self.arm, "phase": self.phase.value} | (
            {"repeat": self.repeat} if self.repeat else {}
        )

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

    They are numbered whatever the order in which they end: from 0 the arms' default trials, then
    the arms' first drawn ones, and so on; from A(1 + n) the first arm's repeats, then the
    second's.

    Attributes:
        points: for each arm its parameters, the default trial's first.
    """

    points: Mapping[str, Sequence[Mapping[str, Value]]]
    repeats: int

    @property
    def arms(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(self.points)

    @property
    def candidates(self) -> int:
        """How many trials there are before the repeats, A(1 + n)."""
        return sum(map(len, self.points.values()))

    def candidates_of(self, arm: str) -> range:
        """The numbers of an arm's default and drawn trials."""
        return range(self.arms.index(arm), self.candidates, len(self.arms))

    def candidate(self, number: int) -> dict[str, Any]:
        """The configuration of a trial before the repeats."""
        place, turn = number % len(self.arms), number // len(self.arms)
        arm = self.arms[place]
        phase = Phase.SEARCH if turn else Phase.DEFAULT
        return _config(number, self.points[arm][turn], Part(arm, phase))

    def repeat(self, arm: str, repeat: int, best: int) -> dict[str, Any]:
        """The configuration of an arm's repeat, from 1, of its best trial so far."""
        number = self.candidates + self.arms.index(arm) * self.repeats + repeat - 1
        return _config(number, self.candidate(best)["params"], Part(arm, Phase.REPEAT, repeat))


def _config(number: int, params: Mapping[str, Value], part: Part) -> dict[str, Any]:
    return {
        "trial": number,
        "params": dict(params),
        "arm": part.arm,
        "phase": part.phase.value,
        "repeat": part.repeat,
    }


def draw_plan(arms: Sequence[Arm], *, sampler: str, trials: int, repeats: int, seed: int) -> Plan:
    """The plan of a comparison: each arm's trials drawn by a sampler of its own, seeded with
    (seed, label).

    Args:
        sampler: ``random``, or ``qmc`` for a scrambled Sobol sequence.
        trials: drawn for each arm, beside its default one.
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
        # the sequence has a dimension for each parameter of the first trial that has ended: let it
        # be one with all
        first = study.ask()
        arm.space.draw_all(first)
        study.tell(first, 0.0)
    return [arm.space.suggest(study.ask()) for _ in range(trials)]
