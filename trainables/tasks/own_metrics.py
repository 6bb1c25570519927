"""A user's own metrics of a whole part: functions of predictions and targets, or torchmetrics."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foldrace.errors import InputError
from foldrace.trainables.tasks.metrics import METRICS, Array, Metric, Taken
from foldrace.trainables.user_code import load_object

__all__ = ["declared_metrics", "metric_name", "referenced_metrics"]

_TAKEN = {
    **dict.fromkeys(("predictions", "prediction", "preds", "pred"), Taken.PREDICTIONS),
    **dict.fromkeys(("targets", "target"), Taken.TARGETS),
    **dict.fromkeys(("y_score", "y_prob", "y_proba"), Taken.SCORES),
    "y_true": Taken.TRUE,
    "y_pred": Taken.CHOSEN,
    **dict.fromkeys(("sample_weight", "weights"), Taken.WEIGHTS),
}
"""What a function gets by the name of its parameter: as PyTorch's users call it, a tensor; as
scikit-learn's do, an array."""


@dataclass(frozen=True)
class _Called:
    """A function, and what it gets for each of its parameters."""

    function: Any
    given: Mapping[str, Taken]

    def __call__(self, **arrays: Array) -> float:
        # copies, as one that works in place would change what others get
        given = {name: copy.deepcopy(arrays[of.value]) for name, of in self.given.items()}
        return float(self.function(**given))


@dataclass(frozen=True)
class _Updated:
    """A metric of torchmetrics. It is copied, so that nothing is left in it."""

    metric: Any

    def __call__(self, **arrays: Array) -> float:
        metric = copy.deepcopy(self.metric)
        metric.reset()
        given = (arrays[Taken.PREDICTIONS.value], arrays[Taken.TARGETS.value])
        metric.update(*copy.deepcopy(given))
        return float(metric.compute())


def metric_name(reference: str) -> str:
    """The name that a metric is recorded by: ``./mine.py:gain`` is ``gain``.

    >>> metric_name("sklearn.metrics:matthews_corrcoef"), metric_name("accuracy")
    ('matthews_corrcoef', 'accuracy')
    """
    return reference.rpartition(":")[2]


def referenced_metrics(references: Mapping[str, str]) -> dict[str, Metric]:
    """The metrics of a sweep file that are not built in, by name.

    Args:
        references: ``./file.py:name`` or ``package.module:name`` by the field that names it.

    Raises:
        InputError: no such function, or it cannot be used as a metric.
    """
    found: dict[str, Metric] = {}
    for field, reference in references.items():
        made = load_object(reference, field)
        if isinstance(made, type):
            try:
                made = made()
            except Exception as error:
                rule = f"cannot be made without arguments: {type(error).__name__}: {error}"
                hint = "make it in a file of your own: name = Class(…)"
                raise InputError(field, reference, rule, hint) from error
        name = metric_name(reference)
        if name in found:
            raise InputError(field, reference, f"is a second metric {name}", "rename one")
        found[name] = _metric(made, field, reference, name)
    return found


def declared_metrics(task: str, declared: object) -> dict[str, Metric]:
    """The metrics that a task declares, by name. Raises: InputError: see `referenced_metrics`."""
    if not isinstance(declared, Mapping) or not all(isinstance(name, str) for name in declared):
        rule = "its metrics must be a mapping of names to functions or metrics of torchmetrics"
        raise InputError("task", task, rule)
    return {name: _metric(made, "task", task, name) for name, made in declared.items()}


def _metric(made: Any, field: str, value: str, name: str) -> Metric:
    """A function or a metric of torchmetrics. Raises: InputError."""
    if name in METRICS:
        raise InputError(field, value, f"has the name of the metric {name}", "rename it")
    if not name.isidentifier() or not name.isascii():
        rule = f"has a metric called {name!r}: a name is letters, digits and _"
        raise InputError(field, value, rule)
    better = getattr(made, "higher_is_better", None)
    if better not in (None, True, False):
        raise InputError(field, value, f"{name}.higher_is_better must be true or false")
    if all(callable(getattr(made, method, None)) for method in ("update", "compute", "reset")):
        return Metric(_Updated(made), (Taken.PREDICTIONS, Taken.TARGETS), better)
    if not callable(made):
        rule = (
            f"{name} must be a function or a metric of torchmetrics; it is {type(made).__name__}"
        )
        raise InputError(field, value, rule)
    given = _given(made, field, value, name)
    return Metric(_Called(made, given), tuple(given.values()), better)


def _given(function: Any, field: str, value: str, name: str) -> dict[str, Taken]:
    """What a function gets for each of its parameters. Raises: InputError."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        rule = f"{name} has no signature, so its parameters are not known"
        raise InputError(field, value, rule, "write a function that calls it") from error
    known = {one.name: _TAKEN[one.name] for one in parameters if one.name in _TAKEN}
    if {Taken.PREDICTIONS, Taken.TARGETS} & {*known.values()}:
        swap = {Taken.WEIGHTS: Taken.WEIGHT_TENSOR}
        known = {name: swap.get(of, of) for name, of in known.items()}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    others = [
        one.name
        for one in parameters
        if one.name not in known and one.default is one.empty and one.kind not in variable
    ]
    positional = [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    hint = f"call its parameters predictions and targets: def {name}(predictions, targets)"
    if others or positional:
        raise InputError(field, value, f"{name} has a parameter {(others or positional)[0]}", hint)
    if not {Taken.TARGETS, Taken.TRUE} & {*known.values()} or len(known) < 2:
        raise InputError(field, value, f"{name} does not take predictions and targets", hint)
    return known
