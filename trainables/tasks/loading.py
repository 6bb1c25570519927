"""Loads a task by name, from a file or from a module, and checks what it declares.

PyTorch is not imported here, so that a sweep file is checked quickly.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foldrace.errors import InputError, nearest
from foldrace.trainables.data.sample import Sample
from foldrace.trainables.tasks.metrics import METRICS, Metric
from foldrace.trainables.tasks.objective import MAXIMIZE, MINIMIZE, Objective
from foldrace.trainables.tasks.own_metrics import declared_metrics, referenced_metrics
from foldrace.trainables.tasks.parameters import (
    TECHNIQUES,
    TRAINING_PARAMETERS,
    Parameter,
    Value,
    complete,
)
from foldrace.trainables.tasks.protocol import (
    BATCH_METHODS,
    OPTIONAL_METHODS,
    Means,
    Params,
    numbered,
)
from foldrace.trainables.user_code import load_object, referenced_module
from foldrace.trainables.user_sources import project_sources, sources_digest

if TYPE_CHECKING:
    import torch

__all__ = ["BUILT_IN_TASKS", "LoadedTask", "load_task"]

BUILT_IN_TASKS = {
    "autoencoder": "foldrace.trainables.tasks.autoencoder:AutoencoderTask",
    "variational": "foldrace.trainables.tasks.variational:VariationalTask",
}


_CLOSE = 0.8
"""Similarity of two names from which one may be meant by the other."""


@dataclass(frozen=True)
class LoadedTask:
    """A user's or a built-in task with its declarations read and checked.

    The rest of Foldrace works with this class; `load_task` makes it.

    Attributes:
        reference: what it was loaded by: ``autoencoder``, ``./my_models.py:DenoisingAE``.
        implementation: the instance of the task's class (see `Task`).
        parameters: the task's tunable names, without those of the training.
        objective: the term that trials are compared by; None if the task does not say.
        sources: the code of a user's task and metrics as they were loaded, and of the project
            modules that they import, by name (`project_sources`); empty if all are built in.
        own_metrics: of a whole part, by name, that the task or the sweep file brings.
    """

    reference: str
    implementation: Any
    parameters: Mapping[str, Parameter]
    objective: str | None
    sources: Mapping[str, str] = field(default_factory=dict)
    own_metrics: Mapping[str, Metric] = field(default_factory=dict)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """All metrics of a whole part that can be measured, by name."""
        return {**METRICS, **self.own_metrics}

    def compared_by(self, metric: str | None = None, direction: str | None = None) -> Objective:
        """What trials are compared by.

        Args:
            metric: that of a sweep file; None: the task's own.
            direction: that of a sweep file; None: the task's own, if the metric is its own, else
                ``minimize``.
        """
        chosen = metric or self.objective
        if direction is None and chosen == self.objective:
            direction = getattr(self.implementation, "direction", None)
        return Objective(chosen, direction == MAXIMIZE)

    def build(self, params: Params, sample: Sample, prepared: Any = None) -> torch.nn.Module:
        """The network (see `Task.build`)."""
        second = sample if self.takes("build", "sample") else sample.shape
        network: torch.nn.Module = self.implementation.build(
            params, second, **self._asked("build", prepared=prepared)
        )
        return network

    def losses(
        self,
        model: torch.nn.Module,
        batch: Mapping[str, torch.Tensor],
        params: Params,
        *,
        sample: Sample,
        prepared: Any = None,
        epoch: float | None = None,
        count: int | None = None,
    ) -> Mapping[str, torch.Tensor]:
        """The loss terms of a batch (see `Task.losses`).

        Args:
            batch: the fields of B samples, on the model's device.
            sample: what a sample of the data set holds.
            prepared: what ``prepare`` returned for the fold.
            epoch: epochs trained so far, with their fraction; None in evaluation.
            count: B, where a collate function may have made batches of another shape.

        Raises:
            ValueError: the first axis of a term is not B.
        """
        terms: Mapping[str, torch.Tensor] = self.call(
            "losses", model, batch, params, sample=sample, prepared=prepared, epoch=epoch
        )
        if count is None:
            count = len(next(iter(batch.values())))
        for name, values in terms.items():
            if values.shape[:1] != (count,):
                raise ValueError(
                    f"losses() must give one value per sample: {name!r} has shape"
                    f" {tuple(values.shape)} for {count} samples"
                )
        return terms

    def call(
        self,
        method: str,
        model: torch.nn.Module,
        batch: Mapping[str, torch.Tensor],
        params: Params,
        *,
        sample: Sample,
        **offered: Any,
    ) -> Any:
        """Calls a method of the task on a batch: ``losses``, ``predict``, ``reconstruct``, ….

        A method whose second parameter is called ``batch`` gets all fields by name; any other gets
        the only input. Of what is offered, it gets what it has parameters for.

        Raises:
            ValueError: it does not take a batch, and a sample has not one input.
        """
        second = batch if self.takes(method, "batch") else batch[sample.input.name]
        function = getattr(self.implementation, method)
        return function(model, second, params, **self._asked(method, **offered))

    def call_without_batch(
        self, method: str, model: torch.nn.Module, params: Params, **offered: Any
    ) -> Any:
        """Calls a method of the task on its model alone: ``optimizers``."""
        function = getattr(self.implementation, method)
        return function(model, params, **self._asked(method, **offered))

    def augment(
        self,
        batch: Mapping[str, torch.Tensor],
        generator: torch.Generator,
        params: Params,
        prepared: Any,
    ) -> dict[str, torch.Tensor]:
        """The batch as ``augment`` changes it (see `Task`).

        Raises:
            TypeError: it returned something else than a mapping.
        """
        asked = self._asked("augment", params=params, prepared=prepared)
        made = self.implementation.augment(dict(batch), generator, **asked)
        if not isinstance(made, Mapping):
            raise TypeError(f"augment() must return a batch; it returned {type(made).__name__}")
        return dict(made)

    def takes(self, method: str, parameter: str) -> bool:
        """Whether a method of the task has a parameter of that name."""
        return parameter in self._parameters_of(method)

    def _asked(self, method: str, **offered: Any) -> dict[str, Any]:
        return {name: value for name, value in offered.items() if self.takes(method, name)}

    def _parameters_of(self, method: str) -> Collection[str]:
        known = self._signatures
        if method not in known:
            try:
                known[method] = frozenset(
                    inspect.signature(getattr(self.implementation, method)).parameters
                )
            except (AttributeError, TypeError, ValueError):  # none, or without a signature
                known[method] = frozenset()
        return known[method]

    @cached_property
    def _signatures(self) -> dict[str, frozenset[str]]:
        return {}

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the task's `sources`; empty for a built-in task."""
        return sources_digest(self.sources)

    @property
    def takes_epoch(self) -> bool:
        """Whether its ``losses`` gets the epochs trained so far."""
        return self.takes("losses", "epoch")

    def summarise(self, means: Means, params: Params) -> dict[str, float]:
        """The metrics to record, from the means of the terms over all images."""
        if self.can("summarise"):
            own = self.implementation.summarise(means, params)
            return {name: float(value) for name, value in own.items()}
        metrics: dict[str, float] = {}
        for name, value in means.items():
            metrics |= numbered(name, value)
        return metrics

    @property
    def objectives(self) -> Mapping[str, tuple[str, ...]] | None:
        """Allowed objectives, each with the parameters that cannot be tuned under it.

        None if the task does not say.
        """
        return getattr(self.implementation, "objectives", None)

    @property
    def name(self) -> str:
        """The name of the task's class."""
        return type(self.implementation).__name__

    @property
    def declared(self) -> dict[str, Parameter]:
        """Every name that a search space may have: the training's and the task's."""
        return {**TRAINING_PARAMETERS, **self.parameters}

    def complete(self, params: Params, field: str = "parameters") -> dict[str, Value]:
        """``params``, checked, with defaults filled in.

        Raises:
            InputError: see `foldrace.trainables.tasks.parameters.complete`.
        """
        return complete(params, self.parameters, field)

    def check(self, params: Params, sample: Sample) -> None:
        """Let the task refuse parameters or samples.

        Raises:
            InputError: the task's ``check`` raised an exception, or a method takes the only input
                and there is more than one.
        """
        for method in BATCH_METHODS:
            if self.can(method) and not self.takes(method, "batch") and len(sample.inputs) != 1:
                rule = f"{method}() takes one input, and a sample has {len(sample.inputs)}:"
                named = ", ".join(info.name for info in sample.inputs)
                hint = f"call its parameter batch: {method}(self, model, batch, params)"
                raise InputError("task", self.reference, f"{rule} {named}", hint)
        if not self.can("check"):
            return
        second = sample if self.takes("check", "sample") else sample.shape
        try:
            self.implementation.check(params, second)
        except InputError:
            raise
        except Exception as error:
            rule = f"check() raised {type(error).__name__}: {error}"
            raise InputError("task", self.reference, rule) from error

    @property
    def prior(self) -> str | None:
        """``"normal"`` if codes drawn from N(0, I) decode to new images, else None."""
        return getattr(self.implementation, "prior", None)

    @property
    def reconstructs(self) -> bool:
        """Whether the task has the method ``reconstruct``."""
        return self.can("reconstruct")

    def can(self, *methods: str) -> bool:
        """Whether the task has all of these optional methods."""
        return all(callable(getattr(self.implementation, method, None)) for method in methods)


def load_task(reference: str, metrics: Sequence[str] = ()) -> LoadedTask:
    """Load the task that a sweep file names.

    Args:
        reference: a built-in task (``autoencoder``), a class or an instance in a file
            (``./my_models.py:DenoisingAE``), or in a module (``package.module:Name``).
        metrics: of the sweep file; those with a ``:`` are loaded as well.

    Raises:
        InputError: no such task, file or class; the import fails; the class needs arguments, lacks
            ``build`` or ``losses``, or declares parameters that cannot be used.

    >>> load_task("autoencoder").objective
    'mse'
    """
    target = BUILT_IN_TASKS.get(reference, reference)
    if ":" not in target:
        hint = nearest(reference, BUILT_IN_TASKS) + "; or ./file.py:ClassName"
        raise InputError("task", reference, "unknown task", hint)
    factory = load_object(target, "task")
    try:
        implementation = factory() if isinstance(factory, type) else factory
    except (Exception, SystemExit) as error:
        rule = f"cannot be made without arguments: {type(error).__name__}: {error}"
        raise InputError("task", reference, rule) from error
    missing = [m for m in ("build", "losses") if not callable(getattr(implementation, m, None))]
    if missing:
        rule = f"{target.rpartition(':')[2]} has no method {' and no method '.join(missing)}"
        raise InputError("task", reference, rule)
    _check_names(reference, implementation)
    parameters = _parameters(reference, getattr(implementation, "parameters", {}))
    objective = getattr(implementation, "objective", None)
    direction = getattr(implementation, "direction", MINIMIZE)
    if direction not in (MINIMIZE, MAXIMIZE):
        rule = f"its direction is {direction!r}"
        raise InputError("task", reference, rule, nearest(direction, (MINIMIZE, MAXIMIZE)))
    declared = declared_metrics(reference, getattr(implementation, "metrics", {}))
    named = {f"metrics[{place}]": one for place, one in enumerate(metrics) if ":" in one}
    given = referenced_metrics(named)
    for name in sorted({*declared} & {*given}):
        rule = "the task has a metric of that name"
        raise InputError("metrics", name, rule, "leave it out")
    own = () if reference in BUILT_IN_TASKS else (target,)
    sources: dict[str, str] = {}
    for of in (*own, *named.values()):
        sources |= project_sources(referenced_module(of))
    return LoadedTask(
        reference, implementation, parameters, objective, sources, {**declared, **given}
    )


def _check_names(reference: str, implementation: object) -> None:
    """Refuse a method that is an optional one but for a slip of the pen. Raises: InputError."""
    known = {*OPTIONAL_METHODS, "build", "losses"}
    for name in dir(type(implementation)):
        if name.startswith("_") or name in known or not callable(getattr(implementation, name)):
            continue
        if close := get_close_matches(name, known, n=1, cutoff=_CLOSE):
            rule = f"has a method {name}, which nothing calls"
            raise InputError("task", reference, rule, f"did you mean {close[0]}? else rename it")


def _parameters(reference: str, declared: object) -> dict[str, Parameter]:
    """The parameters that a task declares, each as a `Parameter`. Raises: InputError."""
    if not isinstance(declared, Mapping) or not all(isinstance(name, str) for name in declared):
        rule = "its parameters must be a mapping of names to defaults or Parameter"
        raise InputError("task", reference, rule)
    for name, default in declared.items():
        if not isinstance(default, Parameter | bool | int | float | str):
            rule = f"its parameter {name} has a {type(default).__name__} as its default"
            hint = "a number, text, true or false, or Parameter(...)"
            raise InputError("task", reference, rule, hint)
        if name in TRAINING_PARAMETERS and name not in TECHNIQUES:
            rule = f"its parameter {name} is already one of the training's"
            raise InputError("task", reference, rule, "rename it")
    return {n: p if isinstance(p, Parameter) else Parameter(p) for n, p in declared.items()}
