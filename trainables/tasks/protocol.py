"""The task protocol: what a class must have to be trained.

A task is one small class. It builds a network and computes, for each sample, the loss to minimise
and the terms to record:

    class LinearAutoencoder:
        parameters = {"latent_dim": 8}           # names and defaults, or Parameter(...)

        def build(self, params, sample_shape):   # -> torch.nn.Module
            ...

        def losses(self, model, images, params): # -> {"loss": (B,), "mse": (B,), ...}
            ...

PyTorch is not imported here, so that a sweep file is checked quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    import torch

__all__ = ["Means", "Params", "SampleShape", "Task", "numbered"]

SampleShape = tuple[int, int, int]
"""(channels, height, width) of one image."""

Params = Mapping[str, Value]
"""A trial's parameters by name, checked and with defaults."""

Means = Mapping[str, float | list[float]]
"""The mean over all images of each term: a number, or D numbers for a term of shape (B, D)."""

_LONGEST_RECORDED = 128


@runtime_checkable
class Task(Protocol):
    """What a class must have to be trained.

    The two methods below are required. These attributes and methods are optional:

    * ``parameters``: the tunable names, each with its default or a `Parameter`.
    * ``objective``: the term that trials are compared by. Default: ``"mse"`` if there is such a
      term, else ``"loss"``.
    * ``objectives``: the allowed objectives, each with the parameters that change its meaning.
      Such a parameter cannot be tuned under that objective.
    * ``check(params, sample_shape)``: raises `InputError` for parameters or image shapes that the
      task cannot use; preferably without importing torch.
    * ``summarise(means, params)``: the metrics to record, from the means of the terms.
    * ``reconstruct(model, images, params)``: (B, C, H, W) in [0, 1], for figures.
    * ``encode(model, images, params)``: (B, D) codes; ``decode(model, codes, params)``:
      (B, C, H, W). For reports.
    * ``prior``: ``"normal"`` if codes drawn from N(0, I) decode to new images.
    * ``bound(model, images, params, samples)``: (B,), the importance-weighted bound on log p(x).
    """

    def build(self, params: Params, sample_shape: SampleShape) -> torch.nn.Module:
        """The network, initialised from torch's global random state."""
        ...

    def losses(
        self, model: torch.nn.Module, images: torch.Tensor, params: Params
    ) -> Mapping[str, torch.Tensor]:
        """The terms of a batch, one value per sample; ``"loss"`` is minimised.

        Called in training mode with gradients, and in evaluation mode without. If the method has a
        parameter ``epoch``, it gets the epochs trained so far, with their fraction, in training,
        and None in evaluation.

        Args:
            images: (B, C, H, W) in [0, 1].

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
