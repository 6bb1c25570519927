"""The ``comparison`` section of a sweep file: optimizers tuned side by side at equal cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

from foldrace.errors import nearest
from foldrace.search.spec.distributions import SpaceEntry
from foldrace.search.spec.fields import Bare, Count, Name, SpecSection, Worded, broken
from foldrace.trainables.tasks.parameters import OPTIMIZER_PARAMETERS

__all__ = ["ArmSpec", "ComparisonSpec", "with_defaults"]

# What a comparison sets where the file does not: section, key, value.
_DEFAULTS = {"scheduler": ("kind", "fifo"), "search": ("sampler", "random")}

Label = Annotated[
    str,
    Field(pattern=r"^(?:[A-Za-z_][A-Za-z0-9_-]*)$", max_length=100),
    Worded("must be an arm's label: letters, digits, '_' and '-'"),
]


def _optimizer(value: object) -> str:
    if value not in OPTIMIZER_PARAMETERS:
        raise broken("is not an optimizer", nearest(value, OPTIMIZER_PARAMETERS))
    return str(value)


_Optimizer = Annotated[
    str,
    PlainValidator(_optimizer),
    WithJsonSchema({"type": "string", "enum": list(OPTIMIZER_PARAMETERS)}),
]


class ArmSpec(SpecSection):
    """One optimizer of a comparison, with the parameters that are tuned for it alone."""

    optimizer: _Optimizer | None = None
    """The optimizer. By default the one that the arm's label names."""

    space: dict[Name, SpaceEntry] = Field(default_factory=dict)
    """Parameters of this arm: a fixed value or a distribution each. By default there are none."""

    defaults: dict[Name, Bare] = Field(default_factory=dict)
    """Values of the arm's default trial. By default PyTorch's default learning rate of the
    optimizer and the declared defaults of the other parameters."""


def _checked_arms(arms: dict[str, ArmSpec]) -> dict[str, ArmSpec]:
    """``arms`` with the optimizers that their labels name. Raises: PydanticCustomError."""
    if len(arms) < 2:
        raise broken("must hold at least two arms", "arms: {adam: {}, sgd: {}}")
    for label, arm in arms.items():
        if arm.optimizer is None and label not in OPTIMIZER_PARAMETERS:
            rule = f"is missing, and {label} is not an optimizer's name"
            hint = nearest(label, OPTIMIZER_PARAMETERS)
            raise broken(rule, hint, at=(label, "optimizer"), value=None)
        for part, names in (("space", arm.space), ("defaults", arm.defaults)):
            if "optimizer" in names:
                rule = "belongs to the arm itself, beside its space"
                raise broken(rule, at=(label, part, "optimizer"), value=None)
    return {
        label: arm.model_copy(update={"optimizer": arm.optimizer or label})
        for label, arm in arms.items()
    }


class ComparisonSpec(SpecSection):
    """The ``comparison`` section: which optimizers are compared."""

    arms: Annotated[dict[Label, ArmSpec], AfterValidator(_checked_arms)]
    """The optimizers, two or more, each under a label. Required."""

    repeats: Count = 3
    """How often each arm's best configuration is trained again, with new seeds on newly drawn
    folds. Default: 3."""

    def trials(self, drawn: int) -> int:
        """Number of trials if each arm draws ``drawn`` and none fails altogether."""
        return len(self.arms) * (1 + drawn + self.repeats)

    def trials_text(self, drawn: int, sampler: str) -> str:
        """The trials in words: ``2 arms × (1 default + 8 random trials + 3 repeats)``."""
        kind = "quasi-random" if sampler == "qmc" else sampler
        each = f"1 default + {drawn} {kind} trials + {self.repeats} repeats"
        return f"{len(self.arms)} arms × ({each})"


def with_defaults(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sweep file's mapping, with the defaults that differ in a comparison filled in."""
    if tree.get("kind") != "comparison":
        return tree
    given = {section: tree.get(section, {}) for section in _DEFAULTS}
    filled = {
        section: {key: default, **given[section]}
        for section, (key, default) in _DEFAULTS.items()
        if isinstance(given[section], Mapping)
    }
    return {**tree, **filled}
