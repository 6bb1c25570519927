"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, optim

from foldrace.trainables.tasks.parameters import Value, check_optimizer_parameters

__all__ = ["build_optimizer", "build_schedule"]

_CLASSES: dict[str, type[optim.Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "sgd": optim.SGD,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "adadelta": optim.Adadelta,
}
_FUSED = ("adam", "adamw", "sgd", "adagrad")  # one kernel per step, on a CPU too
_OPTIONAL = (
    "momentum",
    "nesterov",
    "amsgrad",
    "momentum_decay",
    "alpha",
    "centered",
    "lr_decay",
    "rho",
    "eps",
)


def build_optimizer(params: Mapping[str, Value], weights: Iterable[Tensor]) -> optim.Optimizer:
    """Builds the optimizer of a trial.

    Args:
        params: the trial's complete parameters: ``optimizer``, ``lr``, ``weight_decay`` and those
            of the optimizer.
        weights: what it optimises.

    Raises:
        InputError: the optimizer does not have one of the parameters.
    """
    check_optimizer_parameters(params)
    name = str(params["optimizer"])
    arguments: dict[str, Any] = {"lr": params["lr"], "weight_decay": params["weight_decay"]}
    arguments |= {key: params[key] for key in _OPTIONAL if params.get(key) is not None}
    if "beta1" in params or "beta2" in params:
        arguments["betas"] = (params.get("beta1", 0.9), params.get("beta2", 0.999))
    if name in _FUSED:
        arguments["fused"] = True
    return _CLASSES[name](weights, **arguments)


def build_schedule(
    name: str, optimizer: optim.Optimizer, lr: float, steps: int
) -> optim.lr_scheduler.LRScheduler | None:
    """Builds the learning-rate schedule of a trial.

    Args:
        name: ``constant``, ``cosine`` or ``one-cycle``.
        optimizer: whose learning rate it changes.
        lr: the peak of the learning rate.
        steps: optimizer steps in total.

    Returns:
        The schedule, to be stepped after each optimizer step; None if it is constant.
    """
    if name == "constant":
        return None
    if name == "cosine":
        return optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    # The momentum stays as tuned: only the learning rate changes.
    return optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=steps, cycle_momentum=False
    )
