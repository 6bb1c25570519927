"""The task protocol: what a class must have to be trained.

A task is one small class. It builds a network and computes, for each sample, the loss to minimise
and the terms to record:

    class Classifier:
        parameters = {"width": 32}               # names and defaults, or Parameter(...)
        objective, direction = "accuracy", "maximize"

        def build(self, params, sample):         # -> torch.nn.Module
            ...

        def losses(self, model, batch, params):  # -> {"loss": (B,), "accuracy": (B,), ...}
            ...

PyTorch is not imported here, so that a sweep file is checked quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from foldrace.trainables.data.sample import Sample
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    import torch

__all__ = [
    "BATCH_METHODS",
    "OPTIONAL_METHODS",
    "Means",
    "Params",
    "SampleShape",
    "Task",
    "numbered",
]

SampleShape = tuple[int, int, int]
"""(channels, height, width) of one image."""

Params = Mapping[str, Value]
"""A trial's parameters by name, checked and with defaults."""

Means = Mapping[str, float | list[float]]
"""The mean over all samples of each term: a number, or D numbers for a term of shape (B, D)."""

BATCH_METHODS = ("losses", "predict", "reconstruct", "encode", "bound")
"""The methods that take a batch, or its only input."""

OPTIONAL_METHODS = (
    "augment",
    "bound",
    "check",
    "decode",
    "encode",
    "optimizers",
    "predict",
    "prepare",
    "reconstruct",
    "step",
    "summarise",
)
"""The methods that a task may have besides ``build`` and ``losses``."""

_LONGEST_RECORDED = 128


@runtime_checkable
class Task(Protocol):
    """What a class must have to be trained.

    ``build`` and ``losses`` are required. Whatever is below is optional.

    A **batch** is a mapping: for each field of the data set a tensor of B samples on the device,
    with the field's own type. Images of bytes are float32 in [0, 1]. Sequences of unequal length
    are padded with zeros to the longest of the batch, and ``NAME_length`` holds their lengths. A
    method whose parameter is not called ``batch`` gets only the input, if a sample has one:
    ``losses(self, model, images, params)``.

    Attributes:

    * ``parameters``: the tunable names, each with its default or a `Parameter`.
    * ``objective``: the term or metric that trials are compared by. Default: ``"mse"`` if there is
      such a term, else ``"loss"``. ``direction``: ``"minimize"`` (the default) or ``"maximize"``.
    * ``metrics``: metrics of a whole part by name, which are measured in validation: functions of
      ``predictions`` and ``targets``, or metrics of torchmetrics. It needs ``predict``.
    * ``objectives``: the allowed objectives, each with the parameters that change its meaning.
      Such a parameter cannot be tuned under that objective.
    * ``prior``: ``"normal"`` if codes drawn from N(0, I) decode to new images.

    Methods, in the order in which a fold calls them:

    * ``check(params, sample)``: raises `InputError` for parameters or samples that the task cannot
      use; preferably without importing torch.
    * ``prepare(train, params)``: what is to be learned from the fold's training part alone, such
      as means and class weights. ``train`` is a mapping of the fields of all its samples, and
      ``train.batches()`` gives them in batches. The result, of tensors, numbers, texts, lists and
      mappings, is given to each of ``build``, ``losses``, ``predict``, ``augment``,
      ``optimizers`` and ``step`` that has a parameter ``prepared``. It is kept in checkpoints.
    * ``optimizers(model, params)``: an optimizer, or a list of them, or a pair of optimizers and
      schedulers (``torch.optim.lr_scheduler``, stepped after each step), instead of those that the
      parameters ``optimizer`` and ``schedule`` name.
    * ``augment(batch, generator)``: a changed batch, in training only; ``params``, if it has a
      parameter of that name. What it draws from
      ``generator``, a `torch.Generator` on the device, is the same every time.
    * ``step(model, batch, params, optimizers)``: one whole training step, with its own backward
      passes; returns the terms as ``losses`` does. For what one loss cannot say.
    * ``predict(model, batch, params)``: (B, …), what metrics compare with the target: for classes
      their scores (B, classes), logits or probabilities.
    * ``summarise(means, params)``: the metrics to record, from the means of the terms.
    * ``reconstruct(model, images, params)``: (B, C, H, W) in [0, 1], for figures.
    * ``encode(model, images, params)``: (B, D) codes; ``decode(model, codes, params)``:
      (B, C, H, W). For reports.
    * ``bound(model, images, params, samples)``: (B,), the importance-weighted bound on log p(x).

    A fold has a task of its own: notes that it keeps on itself are not seen by other folds, and
    are not part of a checkpoint. ``model.training`` is True in training, and False in evaluation,
    where no gradient is computed.
    """

    def build(self, params: Params, sample: Sample) -> torch.nn.Module:
        """The network, initialised from torch's global random state.

        Args:
            sample: what a sample holds: ``sample["x"].shape``, ``sample.target.classes``. If the
                parameter has another name, it is ``sample.shape``, the shape of the only input.
        """
        ...

    def losses(
        self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor], params: Params
    ) -> Mapping[str, torch.Tensor]:
        """The terms of a batch, one value per sample; ``"loss"`` is minimised.

        Called in training mode with gradients, and in evaluation mode without. If the method has a
        parameter ``epoch``, it gets the epochs trained so far, with their fraction, in training,
        and None in evaluation.

        Returns:
            Terms of shape (B,). A term other than the loss and the objective may be (B, D): its D
            means are recorded as ``NAME_0``, ``NAME_1``, …
        """
        ...


def numbered(name: str, value: float | list[float]) -> dict[str, float]:
    """Name a number, or each element of a vector. A vector of more than 128 is left out.

    >>> numbered("mse", 0.1), numbered("kl", [0.5, 0.0])
    ({'mse': 0.1}, {'kl_0': 0.5, 'kl_1': 0.0})
    """
    if not isinstance(value, list):
        return {name: value}
    elements = value if len(value) <= _LONGEST_RECORDED else []
    return {f"{name}_{i}": element for i, element in enumerate(elements)}
