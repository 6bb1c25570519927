"""The tunable parameters: each one's default, range and choices.

A trial's parameters are a flat mapping of names to values: those of the training, which are
declared here, and those of the task (`Task.parameters`). A missing name takes its default; an
unknown name is an error. PyTorch is not imported here, so that a sweep file is checked quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from foldrace.errors import InputError, nearest

__all__ = [
    "DEFAULT_LEARNING_RATES",
    "OPTIMIZER_PARAMETERS",
    "TECHNIQUES",
    "TRAINING_PARAMETERS",
    "Parameter",
    "Value",
    "check_optimizer_parameters",
    "complete",
]

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Parameter:
    """One tunable name.

    Args:
        default: the value if none is set. Its type is the parameter's type; None: an optional
            number.
        doc: one line of help, with the unit.
        low: the lowest value allowed.
        high: the highest value allowed.
        above: a bound that the value must exceed.
        below: a bound that the value must stay under.
        choices: the allowed values of a text parameter.

    >>> Parameter(1e-3, "learning rate", above=0.0).check("lr", 1)
    1.0
    """

    default: Value
    doc: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None

    @property
    def rule(self) -> str:
        """The constraint in words: ``must be a number above 0``."""
        if self.choices is not None:
            return "must be one of " + ", ".join(self.choices)
        if isinstance(self.default, bool):
            return "must be true or false"
        if isinstance(self.default, str):
            return "must be text"
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (
                ("at least", self.low),
                ("above", self.above),
                ("at most", self.high),
                ("below", self.below),
            )
            if bound is not None
        ]
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return f"must be {kind}" + (" " + " and ".join(bounds) if bounds else "")

    def bounds_hold(self, value: float) -> bool:
        """Whether a number is within the bounds."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def read(self, text: str) -> Value:
        """The value that is recorded as ``text``, which is its ``str``.

        The parameter's type decides, not the look of the text. Text that is no such value is
        returned as it is, for `check` to refuse.

        >>> Parameter("a").read("1e3"), Parameter(None).read("None"), Parameter(0.1).read("1e3")
        ('1e3', None, 1000.0)
        """
        if self.choices is not None:
            return next((choice for choice in self.choices if str(choice) == text), text)
        if isinstance(self.default, str):
            return text
        if isinstance(self.default, bool):
            return {"True": True, "False": False}.get(text, text)
        if self.default is None and text == "None":
            return None
        try:
            # a whole number can be larger than what a float holds exactly
            return int(text) if text.lstrip("-").isdecimal() else float(text)
        except ValueError:
            return text

    def check(self, field: str, value: Value) -> Value:
        """Check ``value`` and convert it to the parameter's type.

        Args:
            field: the name that an error shows.

        Raises:
            InputError: wrong type, out of range, or not one of the choices.
        """
        if self.choices is not None:
            if value not in self.choices:
                raise InputError(field, value, self.rule, nearest(value, self.choices))
            return value
        if isinstance(self.default, bool | str):
            if not isinstance(value, type(self.default)):
                raise InputError(field, value, self.rule)
            return value
        if value is None and self.default is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not abs(value) <= sys.float_info.max
        ):
            raise InputError(field, value, self.rule)
        if isinstance(self.default, int) and value != int(value):
            raise InputError(field, value, self.rule)
        if not self.bounds_hold(value):
            raise InputError(field, value, self.rule)
        return int(value) if isinstance(self.default, int) else float(value)


_BETA1 = Parameter(0.9, "decay rate of the gradient's running mean", low=0.0, below=1.0)
_BETA2 = Parameter(0.999, "decay rate of the squared gradient's running mean", low=0.0, below=1.0)
_EPS = Parameter(
    None, "term added to the denominator (if not set: the optimizer's default)", above=0.0
)
_MOMENTUM = Parameter(0.0, "momentum factor", low=0.0, below=1.0)
_AMSGRAD = Parameter(False, "the AMSGrad variant")
_ADAM = {"beta1": _BETA1, "beta2": _BETA2, "eps": _EPS}

OPTIMIZER_PARAMETERS: Mapping[str, Mapping[str, Parameter]] = MappingProxyType(
    {
        "adam": {**_ADAM, "amsgrad": _AMSGRAD},
        "adamw": {**_ADAM, "amsgrad": _AMSGRAD},
        "nadam": {**_ADAM, "momentum_decay": Parameter(0.004, "NAdam's momentum decay", low=0.0)},
        "radam": dict(_ADAM),
        "sgd": {"momentum": _MOMENTUM, "nesterov": Parameter(False, "Nesterov momentum")},
        "rmsprop": {
            "momentum": _MOMENTUM,
            "eps": _EPS,
            "alpha": Parameter(0.99, "smoothing constant", low=0.0, below=1.0),
            "centered": Parameter(False, "normalise by the estimated variance"),
        },
        "adagrad": {"eps": _EPS, "lr_decay": Parameter(0.0, "learning-rate decay", low=0.0)},
        "adadelta": {
            "eps": _EPS,
            "rho": Parameter(0.9, "decay of the squared gradients", low=0.0, below=1.0),
        },
    }
)
"""The parameters of each optimizer besides ``lr`` and ``weight_decay``, which all have."""

DEFAULT_LEARNING_RATES: Mapping[str, float] = MappingProxyType(
    {
        "adam": 1e-3,
        "adamw": 1e-3,
        "nadam": 2e-3,
        "radam": 1e-3,
        "sgd": 1e-3,
        "rmsprop": 1e-2,
        "adagrad": 1e-2,
        "adadelta": 1.0,
    }
)
"""The default learning rate of each optimizer in PyTorch."""

TECHNIQUES: Mapping[str, Parameter] = MappingProxyType(
    {
        "clip_norm": Parameter(None, "largest norm of all gradients together", above=0.0),
        "clip_value": Parameter(None, "largest absolute value of a gradient", above=0.0),
        "accumulate": Parameter(1, "batches whose gradients are averaged for a step", low=1),
        "ema_decay": Parameter(
            None,
            "decay, per step, of the exponential moving average of the weights that is evaluated"
            " and kept",
            low=0.0,
            below=1.0,
        ),
        "swa_start": Parameter(
            None,
            "share of the training after which the weights are averaged (stochastic weight"
            " averaging); their average is evaluated and kept",
            low=0.0,
            below=1.0,
        ),
        "label_smoothing": Parameter(
            None,
            "share of the target that is spread over all classes, for tasks that read it",
            low=0.0,
            below=1.0,
        ),
    }
)
"""The parameters of techniques that are not used unless they are set.

A task that declares a parameter of such a name does it by itself.
"""

TRAINING_PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {
        "optimizer": Parameter("adam", "the optimizer", choices=tuple(OPTIMIZER_PARAMETERS)),
        "lr": Parameter(1e-3, "learning rate (with a schedule: its peak)", above=0.0),
        "weight_decay": Parameter(0.0, "weight decay, as the optimizer defines it", low=0.0),
        "batch_size": Parameter(128, "samples per step", low=1),
        "schedule": Parameter(
            "constant",
            "learning-rate schedule over all epochs",
            choices=("constant", "cosine", "one-cycle"),
        ),
        **{name: p for own in OPTIMIZER_PARAMETERS.values() for name, p in own.items()},
        **TECHNIQUES,
    }
)
"""The parameters of the training of any task.

A parameter of one optimizer is active only with that optimizer.
"""

_OWN = frozenset(name for own in OPTIMIZER_PARAMETERS.values() for name in own)
_WITHOUT_DEFAULT = _OWN | frozenset(TECHNIQUES)


def check_optimizer_parameters(params: Mapping[str, Value], field: str = "parameters") -> None:
    """Refuse a parameter that the chosen optimizer does not have.

    Raises:
        InputError: ``momentum`` with ``optimizer: adam``, for instance.
    """
    optimizer = str(params.get("optimizer", TRAINING_PARAMETERS["optimizer"].default))
    own = OPTIMIZER_PARAMETERS[optimizer]
    for name in params:
        if name in _OWN and name not in own:
            owners = [o for o, names in OPTIMIZER_PARAMETERS.items() if name in names]
            raise InputError(
                f"{field}.{name}",
                params[name],
                f"{optimizer} has no parameter of that name (it has: {', '.join(sorted(own))})",
                f"{name} belongs to {', '.join(owners)}: add `when: {{optimizer:"
                f" [{', '.join(owners)}]}}`",
            )
    if params.get("nesterov") and not params.get("momentum"):
        raise InputError(f"{field}.nesterov", True, "Nesterov momentum needs a momentum above 0")


def complete(
    params: Mapping[str, Value],
    task_parameters: Mapping[str, Parameter],
    field: str = "parameters",
) -> dict[str, Value]:
    """All parameters of a trial: checked, with defaults filled in.

    The parameters of an optimizer get no default here: a missing one is left to PyTorch. A
    technique that is not set is not used.

    Args:
        params: the values that are set.
        task_parameters: what the task declares.
        field: the prefix of a name in an error: ``parameters.lr``.

    Raises:
        InputError: an unknown name, a value out of range, or a parameter that the optimizer does
            not have.
    """
    declared = {**TRAINING_PARAMETERS, **task_parameters}
    for name in params:
        if name not in declared:
            raise InputError(
                f"{field}.{name}", params[name], "unknown parameter", nearest(name, declared)
            )
    checked = {
        name: declared[name].check(f"{field}.{name}", value) for name, value in params.items()
    }
    check_optimizer_parameters(checked, field)
    if checked.get("ema_decay") is not None and checked.get("swa_start") is not None:
        rule = "weights are averaged in one way: ema_decay is set too"
        raise InputError(f"{field}.swa_start", checked["swa_start"], rule, "leave one out")
    left_out = _WITHOUT_DEFAULT - set(task_parameters)
    defaults = {name: p.default for name, p in declared.items() if name not in left_out}
    return {**defaults, **checked}
