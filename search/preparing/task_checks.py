"""Checks of a task before Ray starts: its objective, and one training step on two samples."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from foldrace.errors import InputError, first_line, nearest
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.search.spec.training_sections import ObjectiveSpec
from foldrace.trainables.data.items.flat import drawn_from
from foldrace.trainables.data.sample import Sample
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.metrics import are_probabilities, measure
from foldrace.trainables.tasks.objective import Objective, sounds_better_high
from foldrace.trainables.tasks.own_metrics import metric_name
from foldrace.trainables.tasks.parameters import TECHNIQUES, TRAINING_PARAMETERS, Value

if TYPE_CHECKING:
    from foldrace.trainables.data.arrays import Dataset

__all__ = [
    "Tried",
    "check_direction",
    "check_metrics",
    "check_objective",
    "part_metrics",
    "try_task",
]

_TERM = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TAKEN = ("criterion", "loss_se")
_MEASURED = 64


def check_objective(task: LoadedTask, given: ObjectiveSpec, tunable: Sequence[str]) -> None:
    """Refuses an objective that the task does not measure or that depends on what is tuned.

    Args:
        given: the sweep file's.
        tunable: the parameters that differ between trials.

    Raises:
        InputError: for instance an objective of ``negative_elbo`` while ``likelihood`` is tuned.
    """
    objective = given.metric
    known = task.objectives or {"loss": ("loss",)}
    if objective is not None and task.objectives is not None and objective not in known:
        rule, hint = f"{task.reference} measures no such term", nearest(objective, known)
        raise InputError("objective", objective, rule, hint)
    chosen = (
        objective
        or task.objective
        or ("mse" if "mse" in known or task.objectives is None else "loss")
    )
    for name in known.get(chosen, ()):
        if name in tunable:
            others = [other for other, bending in known.items() if not set(bending) & set(tunable)]
            rule = f"trials of different {name} cannot be compared by {chosen}"
            hint = f"fix space.{name}" + (f", or set objective: {others[0]}" if others else "")
            raise InputError("objective", chosen, rule, hint)


def check_direction(task: LoadedTask, given: ObjectiveSpec, compared: Objective) -> None:
    """Refuses to minimise, unless it is said so, what by its name is better the higher it is.

    Args:
        given: the sweep file's.
        compared: what trials would be compared by.

    Raises:
        InputError: see above.
    """
    declared = hasattr(task.implementation, "direction") and compared.metric == task.objective
    own = task.own_metrics.get(compared.metric or "")
    if own is not None and own.maximize is None and not given.direction and not declared:
        rule = f"does not say whether more or less of {compared.metric} is better"
        hint = f"write objective: {{metric: {compared.metric}, direction: minimize}}, or maximize"
        raise InputError("objective", compared.metric, rule, hint)
    if (
        compared.metric is None
        or compared.maximize
        or given.direction
        or declared
        or not sounds_better_high(compared.metric)
    ):
        return
    rule = f"would be minimised, and {compared.metric} sounds as if more were better"
    hint = f"write objective: {{metric: {compared.metric}, direction: maximize}}, or minimize"
    raise InputError("objective", compared.metric, rule, hint)


def part_metrics(
    spec: SweepSpec,
    task: LoadedTask,
    sample: Sample,
    objective: str,
    measured: Collection[str],
) -> tuple[str, ...]:
    """The metrics of a whole part that a sweep measures: those of its file, those that the task
    declares, and the objective if the task does not measure it itself.

    Raises:
        InputError: an unknown metric, or what is needed for one is missing.
    """
    wanted = {metric_name(name): f"metrics[{place}]" for place, name in enumerate(spec.metrics)}
    wanted = {**dict.fromkeys(task.own_metrics, "task"), **wanted}
    for name in sorted({*task.own_metrics} & {*measured}):
        rule = f"is the name of a metric, and of what {task.reference} measures itself"
        raise InputError(wanted[name], name, rule, "rename one")
    for name in sorted({*task.own_metrics} & {"loss", *_TAKEN}):
        rule = "is a name that Foldrace records something else by"
        raise InputError(wanted[name], name, rule, "rename it")
    if measured and objective not in measured:
        wanted.setdefault(objective, "objective")
    for name, field in wanted.items():
        if name not in task.metrics:
            hint = f"{nearest(name, task.metrics)}; or ./file.py:function"
            raise InputError(field, name, "is no metric", hint)
        if not task.can("predict"):
            rule = f"is computed from predictions, and {task.reference} has no predict()"
            hint = "write predict(self, model, batch, params)"
            raise InputError(field, name, rule, hint)
        target = sample.target
        if target is None:
            rule = "is computed from targets, and the data set has none"
            raise InputError(field, name, rule, "name the field: dataset: {…, target: …}")
        if task.metrics[name].needs_classes and target.classes is None:
            rule = f"needs classes, and {target.name} is {target.dtype}, from {target.low:g}"
            raise InputError(field, name, rule, "choose rmse, mae or r2")
    return tuple(name for name in wanted if name not in measured)


@dataclass(frozen=True)
class Tried:
    """What is known of a user's task that was tried.

    Attributes:
        measured: the names of what it measures itself.
        predicted: the targets of some samples, its predictions, untrained, and the weights, if
            there are any; None without targets or predictions.
    """

    measured: Collection[str] = ()
    predicted: tuple[NDArray[Any], ...] | None = None


def try_task(
    task: LoadedTask, params: Mapping[str, Value], dataset: Dataset, objective: str | None
) -> Tried:
    """Trains and evaluates a user's task on two samples, to find what would fail in every trial.

    What it draws at random is the same every time.

    Raises:
        InputError: names the method that fails, or the term that breaks a rule.
    """
    with drawn_from(0):
        return _tried(task, params, dataset, objective)


def _tried(
    task: LoadedTask, params: Mapping[str, Value], dataset: Dataset, objective: str | None
) -> Tried:
    import torch

    from foldrace.trainables.training.fold import moved
    from foldrace.trainables.training.samples import Samples, TrainingPart
    from foldrace.trainables.training.stepping import Stepping

    trial = replace(task, implementation=copy.deepcopy(task.implementation))
    plain, params = params, _Read(params)
    sample, count = dataset.sample, min(2, len(dataset))
    tried: tuple[Any, ...] | None = None
    doing = "build()"
    try:
        samples = Samples.of(dataset.training, sample, torch.device("cpu"))
        two, everything = torch.arange(count), torch.arange(len(dataset))
        batch = samples.take(two)
        prepared = None
        if trial.can("prepare"):
            doing = "prepare()"  # of all samples, as some may be constant over two
            prepared = trial.implementation.prepare(TrainingPart(samples, everything), params)
            _check_prepared(task, prepared)
            prepared = moved(prepared, samples.device)
        doing = "build()"
        model = trial.build(params, sample, prepared)
        if trial.can("augment"):
            doing = "augment()"
            batch = trial.augment(batch, torch.Generator(), params, prepared)
        offered: dict[str, Any] = {"sample": sample, "prepared": prepared}
        doing = "losses()"
        terms = dict(trial.losses(model.train(), batch, params, **offered, epoch=0.0, count=count))
        _check_terms(task, terms, count, objective)
        _check_summary(trial, terms, params, objective)
        doing = "the gradient of the loss"
        torch.autograd.backward(terms["loss"].mean())
        own = None
        if trial.can("optimizers"):
            doing = "optimizers()"
            own = trial.call_without_batch("optimizers", model, params, prepared=prepared)
        stepping = Stepping(plain, model, 1, 1, own)
        if trial.can("step"):
            doing = "step()"
            own = stepping.optimizers
            terms = dict(
                trial.call("step", model, batch, params, **offered, optimizers=own, epoch=0.0)
            )
            _check_terms(task, terms, count, objective, of="step()")
        batch = samples.take(two)
        with torch.inference_mode():
            doing = "losses() in evaluation"
            terms = dict(trial.losses(model.eval(), batch, params, **offered, count=count))
            _check_terms(task, terms, count, objective)
            measured = _check_summary(trial, terms, params, objective)
            if trial.can("predict"):
                doing = "predict()"
                predicted = trial.call("predict", model, batch, params, **offered)
                _check_predicted(task, predicted, count)
                if sample.target is not None:
                    some = torch.arange(len(dataset))[:: -(-len(dataset) // _MEASURED)]
                    batch = samples.take(some)
                    predicted = trial.call("predict", model, batch, params, **offered).float()
                    tried = (batch[sample.target.name].numpy(), predicted.numpy())
                    if sample.roles.weight is not None:
                        tried = (*tried, batch[sample.roles.weight].double().numpy())
            if trial.reconstructs and sample.holds_an_image:
                doing = "reconstruct()"
                pictures = trial.call("reconstruct", model, batch, params, **offered)
                _check_reconstructed(task, pictures, batch[sample.input.name])
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        rule = f"{doing} fails on two samples of {shown(sample)}: {type(error).__name__}: {error}"
        raise InputError("task", task.reference, rule, _type_hint(sample, error)) from error
    _check_read(task, plain, params.names)
    return Tried(frozenset(measured), tried)


def check_metrics(task: LoadedTask, metrics: Sequence[str], tried: Tried, sample: Sample) -> bool:
    """Refuses metrics that cannot be computed from what the task predicts.

    Returns:
        Whether the task's scores are probabilities, as they are before training.

    Raises:
        InputError: names the metric.
    """
    if tried.predicted is None or not metrics:
        return False
    targets, predicted, *weights = tried.predicted
    classes = (sample.target.classes if sample.target else None) or 0
    scores = predicted[:, 0] if predicted.ndim == 2 and predicted.shape[1] == 1 else predicted
    probabilities = scores.ndim in (1, 2) and are_probabilities(scores)
    for name in metrics:
        try:
            measure(
                {name: task.metrics[name]},
                targets,
                predicted,
                *weights,
                classes=classes,
                probabilities=probabilities,
            )
        except Exception as error:
            kinds = ", ".join(f"{array.shape} {array.dtype}" for array in (targets, predicted))
            rule = f"{name} fails on targets and predictions of {kinds}: {first_line(error)}"
            raise InputError("metrics", name, rule) from error
    return probabilities


def _check_read(task: LoadedTask, params: Mapping[str, Value], read: Collection[str]) -> None:
    """Refuses parameters of the training that the task has taken over and does not read."""
    smoothing = 'cross_entropy(…, label_smoothing=params.get("label_smoothing") or 0.0)'
    taken_over = {"label_smoothing": ("losses()", smoothing)}
    if task.can("optimizers"):
        hint = "leave it out, or read it: params[…]"
        left = {*TRAINING_PARAMETERS} - {*TECHNIQUES, "batch_size"}
        taken_over |= dict.fromkeys(left, ("optimizers()", hint))
    if task.can("step"):
        hint = "leave it out, or do it in step()"
        taken_over |= dict.fromkeys(("clip_norm", "clip_value", "accumulate"), ("step()", hint))
    for name, (method, hint) in taken_over.items():
        used = params.get(name) not in (None, TRAINING_PARAMETERS[name].default)
        if used and name not in read and name not in task.parameters:
            rule = f"the {method} of {task.reference} does not read it"
            raise InputError(f"space.{name}", params[name], rule, hint)


class _Read(Mapping[str, Value]):
    """Parameters that note which of them are read.

    Attributes:
        names: of those that were read, by name.
    """

    def __init__(self, params: Mapping[str, Value]) -> None:
        self._params, self.names = params, set[str]()

    def __len__(self) -> int:
        return len(self._params)

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __contains__(self, name: object) -> bool:
        return name in self._params

    def __getitem__(self, name: str) -> Value:
        self.names.add(name)
        return self._params[name]


def shown(sample: Sample) -> str:
    """The shapes of a sample: ``shape (1, 28, 28)``, or of several fields by name."""
    if len(sample.fields) == 1 or sample.holds_an_image:
        return f"shape {sample.shape}"
    each = (f"{name} {info.shape} {info.dtype}" for name, info in sample.fields.items())
    return "; ".join(each)


def _type_hint(sample: Sample, error: BaseException) -> str:
    """What to do if a network of float32 gets float64, or a field is not there."""
    if isinstance(error, KeyError) and error.args and error.args[0] not in sample.fields:
        has = f"a batch has {', '.join(sample.fields)}"
        if "x" not in sample.fields:
            return has
        column = "a column of numbers is part of x, unless it has a role"
        return f"{has}; of a table, {column}: dataset: {{target: {error.args[0]}}}"
    doubles = [name for name, info in sample.fields.items() if info.dtype == "float64"]
    if not doubles or not re.search(r"dtype|Double|double", str(error)):
        return ""
    return f"{doubles[0]} is float64: save it as float32, or make the network .double()"


def _check_prepared(task: LoadedTask, prepared: object) -> None:
    """Refuse what a checkpoint cannot hold."""
    import torch

    if prepared is None or isinstance(prepared, torch.Tensor | bool | int | float | str):
        return
    if isinstance(prepared, Mapping) and all(isinstance(key, str | int) for key in prepared):
        each = list(prepared.values())
    elif type(prepared) in (list, tuple):
        each = list(prepared)  # type: ignore[call-overload]
    else:
        rule = f"prepare() returns a {type(prepared).__name__}, which a checkpoint cannot hold"
        hint = "return tensors, numbers, texts, and lists and mappings of them"
        raise InputError("task", task.reference, rule, hint)
    for value in each:
        _check_prepared(task, value)


def _check_predicted(task: LoadedTask, predicted: object, count: int) -> None:
    shape = tuple(getattr(predicted, "shape", ()))
    if not shape or shape[0] != count:
        rule = f"predict() must return one row per sample: {shape} for {count} samples"
        raise InputError("task", task.reference, rule)


def _check_reconstructed(task: LoadedTask, made: object, images: Any) -> None:
    if tuple(getattr(made, "shape", ())) != tuple(images.shape):
        rule = "reconstruct() must return images of the shape that it is given"
        raise InputError("task", task.reference, rule)


def _check_terms(
    task: LoadedTask,
    terms: Mapping[str, Any],
    count: int,
    objective: str | None,
    of: str = "losses()",
) -> None:
    def wrong(rule: str, hint: str = "") -> InputError:
        return InputError("task", task.reference, rule, hint)

    compared = objective or task.objective
    judged = ("loss", compared or "mse")  # any other term is only recorded, and may be infinite
    for name, values in terms.items():
        if not _TERM.fullmatch(name) or name in _TAKEN:
            raise wrong(
                f"{of} names a term {name!r}; names are letters, digits and _, and not"
                f" {' or '.join(_TAKEN)}"
            )
        shape = tuple(getattr(values, "shape", ()))
        if shape != (count,) and (
            len(shape) != 2 or shape[0] != count or name in ("loss", compared)
        ):
            rule = (
                f"{of} must give one value per sample: {name!r} has the shape {shape} for"
                f" {count} samples"
            )
            square = shape[:2] == (count, count)
            kept = f"is an axis left? ({count}, 1) and ({count},) give ({count}, {count})"
            raise wrong(rule, kept if square else "average over pixels, not over the batch")
        if name in judged and not math.isfinite(float(values.detach().sum())):
            raise wrong(f"{name!r} is not finite on two samples with an untrained model")
    known = f"it returns: {', '.join(sorted(terms))}"
    if of != "losses()":
        return  # its terms are of training alone
    if "loss" not in terms:
        raise wrong("losses() returns no 'loss'", known)
    if task.can("summarise"):
        return  # which may name the objective
    known_names = {*terms, *task.metrics}
    if objective is not None and objective not in known_names:
        rule = "losses() returns no such term, nor is it a metric"
        raise InputError("objective", objective, rule, nearest(objective, known_names))
    if task.objective not in (None, *known_names):
        raise wrong(f"losses() returns no {task.objective!r}", known)


def _check_summary(
    task: LoadedTask,
    terms: Mapping[str, Any],
    params: Mapping[str, Value],
    objective: str | None,
) -> Collection[str]:
    """Refuses wrong names of metrics; returns the names."""
    means = {name: values.detach().double().mean(0).tolist() for name, values in terms.items()}
    try:
        summary = task.summarise(means, params)
    except Exception as error:
        rule = f"summarise() fails on the means of two samples: {type(error).__name__}: {error}"
        raise InputError("task", task.reference, rule) from error
    known = f"it returns: {', '.join(map(str, summary))}"
    for name in ("loss", objective or task.objective or "loss"):
        if name not in summary and name not in task.metrics:
            raise InputError("task", task.reference, f"summarise() returns no {name!r}", known)
    for name in summary:
        if not isinstance(name, str) or not _TERM.fullmatch(name) or name in _TAKEN:
            rule = f"summarise() names a metric {name!r}; names are letters, digits and _"
            raise InputError("task", task.reference, rule, known)
    return summary.keys()
