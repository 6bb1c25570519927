"""What is trained: the task protocol, the built-in tasks, and how a task of yours is loaded.

A task is one small class. It builds a network and says, per sample, what is minimised and what is
measured:

    class LinearAE:
        parameters = {"latent_dim": 8}           # names and defaults, or Parameter(...)

        def build(self, params, sample_shape):   # -> torch.nn.Module
            ...

        def losses(self, model, images, params): # -> {"loss": (B,), "mse": (B,), ...}
            ...

Importing this module does not import torch, so that a sweep file is checked quickly.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from foldrace.errors import InputError, nearest
from foldrace.trainables.tasks.parameters import TRAINING_PARAMETERS, Parameter, Value, complete

if TYPE_CHECKING:
    import torch

__all__ = [
    "BUILT_IN_TASKS",
    "LoadedTask",
    "Means",
    "Params",
    "SampleShape",
    "Task",
    "load_task",
    "numbered",
]

SampleShape = tuple[int, int, int]
"""(channels, height, width) of one image."""

Params = Mapping[str, Value]

_LONGEST = 128

Means = Mapping[str, float | list[float]]
"""Means over images by the name of the term: a number, or D of them for a term of D numbers an
image."""

BUILT_IN_TASKS = {
    "autoencoder": "foldrace.trainables.tasks.autoencoder:AutoencoderTask",
    "variational": "foldrace.trainables.tasks.variational:VariationalTask",
}


@runtime_checkable
class Task(Protocol):
    """What a class must have to be trained. Optional beside these two methods:

    ``parameters``: mapping of names to defaults or `Parameter`;
    ``objective``: name of the term that trials are compared by (default: ``"mse"`` if there is
        one, else ``"loss"``);
    ``objectives``: the terms that they may be compared by, each with the parameters that change
        what it means, and
    which therefore may not be tuned under it; ``check(params, sample_shape)``: raises `InputError`
    for what it cannot take, without importing torch if it can; ``summarise(means, params)``: the
    figures that are recorded, from the means of the terms over all images; ``reconstruct(model,
    images, params)``: (B, C, H, W) in [0, 1], for the pictures; ``encode(model, images, params)``:
    (B, D) codes, and ``decode(model, codes, params)``: (B, C, H, W), for reports; ``prior``:
    ``"normal"`` if codes drawn from N(0, I) decode to new images; ``bound(model, images, params,
    samples)``: (B,), the importance-weighted bound on log p(x).
    """

    def build(self, params: Params, sample_shape: SampleShape) -> torch.nn.Module:
        """The network, freshly initialised from torch's global random state."""
        ...

    def losses(
        self, model: torch.nn.Module, images: torch.Tensor, params: Params
    ) -> Mapping[str, torch.Tensor]:
        """Per-sample terms, each (B,), for ``images`` (B, C, H, W) in [0, 1]; ``"loss"`` is what
        is minimised.

        Called in training mode with gradients, and in evaluation mode without. A term other than
        the loss and the objective may be (B, D): its D means are recorded as ``NAME_0``,
        ``NAME_1``, … An implementation with a parameter ``epoch`` gets the epochs trained so far,
        with their fraction, in training, and None in evaluation.
        """
        ...


@dataclass(frozen=True)
class LoadedTask:
    """A task with its declarations read once: what the rest of Foldrace works with."""

    reference: str
    implementation: Any
    parameters: Mapping[str, Parameter]
    objective: str | None

    def losses(
        self,
        model: torch.nn.Module,
        images: torch.Tensor,
        params: Params,
        epoch: float | None = None,
    ) -> Mapping[str, torch.Tensor]:
        """The task's terms of a batch. See `Task.losses`. Raises: ValueError if one is not of one
        value a sample."""
        moment = {"epoch": epoch} if self._takes_epoch else {}
        terms: Mapping[str, torch.Tensor] = self.implementation.losses(
            model, images, params, **moment
        )
        for name, values in terms.items():
            if values.shape[:1] != images.shape[:1]:
                shape, count = tuple(values.shape), len(images)
                raise ValueError(
                    f"losses() must give one value a sample: {name!r} has shape {shape} for"
                    f" {count} samples"
                )
        return terms

    @cached_property
    def digest(self) -> str:
        """Of the file that the task comes from; empty for a built-in one, whose version is
        Foldrace's."""
        module = sys.modules.get(type(self.implementation).__module__)
        file = getattr(module, "__file__", None)
        if self.reference in BUILT_IN_TASKS or file is None:
            return ""
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()

    @cached_property
    def _takes_epoch(self) -> bool:
        try:
            return "epoch" in inspect.signature(self.implementation.losses).parameters
        except (TypeError, ValueError):  # a callable that has no signature to read
            return False

    def summarise(self, means: Means, params: Params) -> dict[str, float]:
        """The figures to record, from the means of the terms."""
        own = getattr(self.implementation, "summarise", None)
        if own is not None:
            return {name: float(value) for name, value in own(means, params).items()}
        figures: dict[str, float] = {}
        for name, value in means.items():
            figures |= numbered(name, value) if isinstance(value, list) else {name: value}
        return figures

    @property
    def objectives(self) -> Mapping[str, tuple[str, ...]] | None:
        """Terms that trials may be compared by, each with the parameters that may not be tuned
        under it; None if the task does not say."""
        declared: Mapping[str, tuple[str, ...]] | None = getattr(
            self.implementation, "objectives", None
        )
        return declared

    @property
    def name(self) -> str:
        return type(self.implementation).__name__

    @property
    def declared(self) -> dict[str, Parameter]:
        """Every name that may stand in a space: the training's and the task's."""
        return {**TRAINING_PARAMETERS, **self.parameters}

    def complete(self, params: Params, field: str = "parameters") -> dict[str, Value]:
        """``params`` checked, with defaults. Raises: InputError."""
        return complete(params, self.parameters, field)

    def check(self, params: Params, sample_shape: SampleShape) -> None:
        """Refuses what the task cannot take. Raises: InputError."""
        check = getattr(self.implementation, "check", None)
        if check is None:
            return
        try:
            check(params, sample_shape)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                "task", self.reference, f"check() raised {type(error).__name__}: {error}"
            ) from error

    @property
    def prior(self) -> str | None:
        """The distribution of codes that decode to new images: ``"normal"``, or None for no
        generative task."""
        return getattr(self.implementation, "prior", None)

    @property
    def reconstructs(self) -> bool:
        return self.can("reconstruct")

    def can(self, *methods: str) -> bool:
        """Whether the task has these optional methods."""
        return all(callable(getattr(self.implementation, method, None)) for method in methods)


def numbered(name: str, values: float | list[float]) -> dict[str, float]:
    """``{"kl_0": …, "kl_1": …}``. A vector of more than 128 numbers is not for a record:
    nothing."""
    assert isinstance(values, list)
    return (
        {f"{name}_{i}": value for i, value in enumerate(values)} if len(values) <= _LONGEST else {}
    )


def load_task(reference: str) -> LoadedTask:
    """The task behind a name (``autoencoder``), a file (``./my_models.py:DenoisingAE``) or a
    module (``package.module:Name``).

    A file is imported under a private name, so that it can neither shadow nor be shadowed by an
    installed module.

    Raises:
        InputError: no such task, file or class; the file does not import; the class lacks
            ``build`` or ``losses``.
    """
    target = BUILT_IN_TASKS.get(reference, reference)
    if ":" not in target:
        raise InputError(
            "task",
            reference,
            "unknown task",
            nearest(reference, BUILT_IN_TASKS) + "; or ./file.py:ClassName",
        )
    where, _, attribute = target.rpartition(":")
    module = (
        import_file(Path(where), "task")
        if where.endswith(".py")
        else _import_module(where, reference)
    )
    factory = getattr(module, attribute, None)
    if factory is None:
        names = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and v.__module__ == module.__name__
        ]
        raise InputError(
            "task",
            reference,
            f"{where} has no {attribute}",
            nearest(attribute, names) if names else "",
        )
    try:
        implementation = factory() if isinstance(factory, type) else factory
    except (Exception, SystemExit) as error:
        rule = f"cannot be made without arguments: {type(error).__name__}: {error}"
        raise InputError("task", reference, rule) from error
    missing = [m for m in ("build", "losses") if not callable(getattr(implementation, m, None))]
    if missing:
        raise InputError(
            "task", reference, f"{attribute} has no method {' and no method '.join(missing)}"
        )
    declared = getattr(implementation, "parameters", {})
    if not isinstance(declared, Mapping) or not all(isinstance(name, str) for name in declared):
        raise InputError(
            "task", reference, "its parameters must be a mapping of names to defaults or Parameter"
        )
    for name, default in declared.items():
        if not isinstance(default, Parameter | bool | int | float | str):
            rule = f"its parameter {name} has a {type(default).__name__} as its default"
            raise InputError(
                "task", reference, rule, "a number, text, true or false, or Parameter(...)"
            )
    parameters = {n: p if isinstance(p, Parameter) else Parameter(p) for n, p in declared.items()}
    clash = sorted(set(parameters) & set(TRAINING_PARAMETERS))
    if clash:
        raise InputError(
            "task",
            reference,
            f"its parameter {clash[0]} is already one of the training's",
            "rename it",
        )
    return LoadedTask(
        reference, implementation, parameters, getattr(implementation, "objective", None)
    )


def import_file(path: Path, field: str) -> Any:
    """A Python file of the user's as a module under a private name (one per path).

    Raises:
        InputError: no such file, or it fails to import.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise InputError(field, str(path), "no such file")
    name = f"_foldrace_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InputError(
            field, str(path), f"does not import: {type(error).__name__}: {error}"
        ) from error
    return module


def _import_module(name: str, reference: str) -> Any:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise InputError(
            "task", reference, f"module {name} does not import: {type(error).__name__}: {error}"
        ) from error
