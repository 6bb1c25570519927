"""Optimizers and learning-rate schedules by name, with their parameters under the field's
names."""

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
_FUSED = ("adam", "adamw", "sgd", "adagrad")  # one kernel a step, on CPU as well
_OWN = (
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
    """The optimizer that a trial's complete parameters name, over ``weights``.

    Raises:
        InputError: a parameter that the optimizer does not have.
    """
    check_optimizer_parameters(params)
    name = str(params["optimizer"])
    arguments: dict[str, Any] = {"lr": params["lr"], "weight_decay": params["weight_decay"]}
    arguments |= {key: params[key] for key in _OWN if params.get(key) is not None}
    if "beta1" in params or "beta2" in params:
        arguments["betas"] = (params.get("beta1", 0.9), params.get("beta2", 0.999))
    if name in _FUSED:
        arguments["fused"] = True
    return _CLASSES[name](weights, **arguments)


def build_schedule(
    name: str, optimizer: optim.Optimizer, lr: float, steps: int
) -> optim.lr_scheduler.LRScheduler | None:
    """The learning rate over ``steps`` optimizer steps; ``lr`` is its peak. None: constant."""
    if name == "constant":
        return None
    if name == "cosine":
        return optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    # momentum stays as tuned; the schedule moves the learning rate alone
    return optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=steps, cycle_momentum=False
    )
