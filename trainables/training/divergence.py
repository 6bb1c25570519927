"""Whether a fold has diverged: its numbers are not finite, or training keeps making it worse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy

__all__ = ["DivergenceCheck", "Untrained", "criterion", "not_finite"]

_STANDARD_ERRORS = 3.0
_STANDARD_DEVIATIONS = 10.0
_VANISHED_GRADIENT = 1e-12


def criterion(metrics: Mapping[str, float], part: str) -> float:
    """The minimised loss of ``part``, ``train`` or ``val``, whatever the objective is."""
    return metrics[_criterion_name(metrics, part)]


def _criterion_name(metrics: Mapping[str, float], part: str) -> str:
    return f"{part}_criterion" if f"{part}_criterion" in metrics else f"{part}_loss"


def not_finite(metrics: Mapping[str, float], model: torch.nn.Module) -> str | None:
    """Which of what a fold cannot do without is not finite, or None.

    That is the minimised loss, the objective on the validation part, and the trained weights. A
    term that is only recorded may be infinite: the PSNR of a perfect reconstruction is.

    Args:
        metrics: an epoch's ``train_…`` metrics, and ``val_…`` if it was validated.
    """
    needed = [_criterion_name(metrics, part) for part in ("train", "val")]
    for name in (*needed, "val_loss"):
        if not math.isfinite(metrics.get(name, 0.0)):
            return f"{name} is {metrics[name]}"
    trained = [w for w in model.parameters() if w.requires_grad and not is_lazy(w)]
    if not math.isfinite(_largest([weight.detach() for weight in trained])):
        return "a weight is not finite"
    return None


@dataclass(frozen=True)
class Untrained:
    """The untrained network's minimised loss on the validation part, in evaluation.

    Attributes:
        mean: over images.
        deviation: its standard deviation over images.
        count: of images.
    """

    mean: float
    deviation: float
    count: int

    @property
    def standard_error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / math.sqrt(self.count)

    @property
    def scale(self) -> float:
        """The loss's order of magnitude; the deviation alone is 0 if a network starts with zeros,
        the mean may be 0 for a log-likelihood. If both are, such as those of an error beyond a
        forecast's, it is not known: 0."""
        return abs(self.mean) + _STANDARD_DEVIATIONS * self.deviation


class DivergenceCheck:
    """Judges one fold after each of its epochs.

    A fold whose loss is finite has diverged after ``patience`` successive epochs in which training
    and validation loss are both

    * worse than the untrained network's by its `Untrained.scale`: training has exploded; or
    * worse by three standard errors, while the gradient is zero: the network is saturated.

    Three standard errors alone are no evidence. A network whose batch norm has just begun to
    estimate its statistics is worse than before by up to 20 of them, and a slow one stays so for
    many epochs. What may still learn is for the scheduler to prune.

    Args:
        patience: at least 1; None: a fold whose numbers are finite never diverges.

    Attributes:
        untrained: what the epochs are compared with; None until it is known.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.untrained: Untrained | None = None
        self._worse_epochs = 0

    @property
    def needs_untrained(self) -> bool:
        """Whether `untrained` is yet to be set."""
        return self.patience is not None and self.untrained is None

    def verdict(self, metrics: Mapping[str, float], model: torch.nn.Module) -> str | None:
        """Why the fold has diverged, or None.

        Args:
            metrics: the epoch's ``train_…`` and ``val_…`` metrics.
            model: the network, with the gradients of its last step.
        """
        if (reason := not_finite(metrics, model)) is not None:
            return reason
        reason = self.judgement(metrics, model)
        if self.patience is None:
            return None
        self._worse_epochs = 0 if reason is None else self._worse_epochs + 1
        if self._worse_epochs < self.patience:
            return None
        return f"{reason} (epochs in succession: {self._worse_epochs})"

    def judgement(self, metrics: Mapping[str, float], model: torch.nn.Module) -> str | None:
        """How these metrics show that training makes the network worse, or None."""
        if self.patience is None or self.untrained is None or not self.untrained.scale:
            return None
        return _made_worse(metrics, self.untrained, model)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs, in plain containers."""
        untrained = None if self.untrained is None else asdict(self.untrained)
        return {"untrained": untrained, "worse_epochs": self._worse_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a `state_dict`."""
        untrained = state["untrained"]
        self.untrained = None if untrained is None else Untrained(**untrained)
        self._worse_epochs = state["worse_epochs"]


def _made_worse(
    metrics: Mapping[str, float], untrained: Untrained, model: torch.nn.Module
) -> str | None:
    """How an epoch shows that training makes the network worse, or None."""
    loss = min(criterion(metrics, "train"), criterion(metrics, "val"))
    worse = f"validation loss {criterion(metrics, 'val'):.3g}, untrained {untrained.mean:.3g}"
    if loss > untrained.mean + untrained.scale:
        return f"training has made it worse: {worse}"
    if loss > untrained.mean + _STANDARD_ERRORS * untrained.standard_error:
        gradients = [w.grad for w in model.parameters() if w.grad is not None]
        if gradients and _largest(gradients) <= _VANISHED_GRADIENT * untrained.scale:
            return f"the gradient has vanished, and the network is worse than before: {worse}"
    return None


def _largest(tensors: list[torch.Tensor]) -> float:
    """The largest absolute value, or NaN if there is one; 0 without any element."""
    tensors = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    largest = [tensor.abs().max() for tensor in tensors if tensor.numel()]
    return float(torch.stack(largest).max()) if largest else 0.0
