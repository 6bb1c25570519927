"""Loads a task by name, from a file or from a module, and checks what it declares.

PyTorch is not imported here, so that a sweep file is checked quickly.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from foldrace.errors import InputError, nearest
from foldrace.trainables.tasks.parameters import TRAINING_PARAMETERS, Parameter, Value, complete
from foldrace.trainables.tasks.protocol import Means, Params, SampleShape, numbered
from foldrace.trainables.user_code import load_object, referenced_module
from foldrace.trainables.user_sources import project_sources, sources_digest

if TYPE_CHECKING:
    import torch

__all__ = ["BUILT_IN_TASKS", "LoadedTask", "load_task"]

BUILT_IN_TASKS = {
    "autoencoder": "foldrace.trainables.tasks.autoencoder:AutoencoderTask",
    "variational": "foldrace.trainables.tasks.variational:VariationalTask",
}


@dataclass(frozen=True)
class LoadedTask:
    """A user's or a built-in task with its declarations read and checked.

    The rest of Foldrace works with this class; `load_task` makes it.

    Attributes:
        reference: what it was loaded by: ``autoencoder``, ``./my_models.py:DenoisingAE``.
        implementation: the instance of the task's class (see `Task`).
        parameters: the task's tunable names, without those of the training.
        objective: the term that trials are compared by; None if the task does not say.
        sources: the code of a user's task as it was loaded, and of the project modules that it
            imports, by name (`project_sources`); empty for a built-in task.
    """

    reference: str
    implementation: Any
    parameters: Mapping[str, Parameter]
    objective: str | None
    sources: Mapping[str, str] = field(default_factory=dict)

    def losses(
        self,
        model: torch.nn.Module,
        images: torch.Tensor,
        params: Params,
        epoch: float | None = None,
    ) -> Mapping[str, torch.Tensor]:
        """The loss terms of a batch (see `Task.losses`).

        Args:
            images: (B, C, H, W) in [0, 1].
            epoch: epochs trained so far, with their fraction; None in evaluation.

        Raises:
            ValueError: the first axis of a term is not B.
        """
        timing = {"epoch": epoch} if self.takes_epoch else {}
        terms: Mapping[str, torch.Tensor] = self.implementation.losses(
            model, images, params, **timing
        )
        for name, values in terms.items():
            if values.shape[:1] != images.shape[:1]:
                raise ValueError(
                    f"losses() must give one value per sample: {name!r} has shape"
                    f" {tuple(values.shape)} for {len(images)} samples"
                )
        return terms

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the task's `sources`; empty for a built-in task."""
        return sources_digest(self.sources)

    @cached_property
    def takes_epoch(self) -> bool:
        """Whether its ``losses`` gets the epochs trained so far."""
        try:
            return "epoch" in inspect.signature(self.implementation.losses).parameters
        except (TypeError, ValueError):  # a callable without a readable signature
            return False

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

    def check(self, params: Params, sample_shape: SampleShape) -> None:
        """Let the task refuse parameters or an image shape.

        Raises:
            InputError: the task's ``check`` raised an exception.
        """
        if not self.can("check"):
            return
        try:
            self.implementation.check(params, sample_shape)
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


def load_task(reference: str) -> LoadedTask:
    """Load the task that a sweep file names.

    Args:
        reference: a built-in task (``autoencoder``), a class or an instance in a file
            (``./my_models.py:DenoisingAE``), or in a module (``package.module:Name``).

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
    parameters = _parameters(reference, getattr(implementation, "parameters", {}))
    objective = getattr(implementation, "objective", None)
    sources = {} if reference in BUILT_IN_TASKS else project_sources(referenced_module(target))
    return LoadedTask(reference, implementation, parameters, objective, sources)


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
        if name in TRAINING_PARAMETERS:
            rule = f"its parameter {name} is already one of the training's"
            raise InputError("task", reference, rule, "rename it")
    return {n: p if isinstance(p, Parameter) else Parameter(p) for n, p in declared.items()}
