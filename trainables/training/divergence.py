"""Whether a fold has diverged."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

__all__ = ["find_divergence"]

_TOLERATED_INCREASE = 0.05  # relative to the loss before training
_VANISHED_GRADIENT = 1e-12


def find_divergence(
    metrics: Mapping[str, float], untrained_loss: float, model: torch.nn.Module
) -> str | None:
    """Why a fold cannot be trained any further, or None.

    A fold has diverged if a metric is not finite, if its gradient has vanished while the loss is
    still high, or if its loss is clearly above that of the untrained network.

    The second check is needed because a sigmoid hides an explosion: at a learning rate of 1000
    the losses stay finite although every unit is saturated.

    Args:
        metrics: an epoch's ``train_…`` and ``val_…`` metrics.
        untrained_loss: mean of the minimised loss over the very first batch.
        model: the network, with the gradients of its last step.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    # The minimised loss decides: while a VAE's KL term is warming up, its objective may rise.
    training, validation = (
        metrics.get(f"{part}_criterion", metrics[f"{part}_loss"]) for part in ("train", "val")
    )
    loss = min(training, validation)
    gradients = [
        weight.grad.abs().max()
        for weight in model.parameters()
        if weight.grad is not None and weight.grad.numel()
    ]
    if (
        gradients
        and loss > untrained_loss / 2
        and float(torch.stack(gradients).max()) < _VANISHED_GRADIENT
    ):
        return "the gradient has vanished: the network is saturated and cannot learn any more"
    if loss > untrained_loss + _TOLERATED_INCREASE * abs(untrained_loss):
        return (
            f"training has made it worse: validation {validation:.3g},"
            f" untrained {untrained_loss:.3g}"
        )
    return None
