"""How a fold's weights move: optimizers, schedules, and what happens to gradients and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.optimizers import build_optimizer, build_schedule

__all__ = ["Stepping"]


class Stepping:
    """Moves a model's weights, a batch at a time.

    Args:
        params: the trial's complete parameters.
        model: on its device.
        batches: of an epoch.
        epochs: that the schedule spans.
        own: the task's own optimizers and schedulers; None: those that the parameters name.

    Attributes:
        optimizers, schedules: in the order in which they are stepped.
    """

    def __init__(
        self,
        params: Mapping[str, Value],
        model: nn.Module,
        batches: int,
        epochs: int,
        own: object = None,
    ) -> None:
        self._params, self._model, self._epochs = params, model, epochs
        self._accumulate = int(params.get("accumulate") or 1)
        self._steps = -(-batches // self._accumulate)  # of an epoch
        self._taken = 0  # steps, counted for the average
        self._pending = 0
        self.optimizers: list[torch.optim.Optimizer]
        self.schedules: list[LRScheduler]
        if own is None:
            optimizer = build_optimizer(params, model.parameters())
            schedule = self.new_schedule(optimizer)
            self.optimizers, self.schedules = [optimizer], [schedule] if schedule else []
        else:
            self.optimizers, self.schedules = _own(own)
        self._averaged = self._new_average()

    def new_schedule(self, optimizer: torch.optim.Optimizer) -> LRScheduler | None:
        """The trial's learning-rate schedule from its first step on, for ``optimizer``."""
        lr = float(self._params["lr"] or 0.0)
        steps = self._epochs * self._steps
        return build_schedule(str(self._params["schedule"]), optimizer, lr, steps)

    @property
    def is_plain(self) -> bool:
        """Whether each batch is one step of one optimizer, and nothing else happens."""
        clips = self._params.get("clip_norm") is None and self._params.get("clip_value") is None
        return (
            len(self.optimizers) == 1
            and self._accumulate == 1
            and clips
            and self._averaged is None
        )

    def minimise(self, loss: Tensor) -> None:
        """One batch: the gradients of ``loss``, and a step once enough batches are together."""
        if not self._pending:
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss if self._accumulate == 1 else loss / self._accumulate)
        self._pending += 1
        if self._pending == self._accumulate:
            self._step()

    def end_epoch(self) -> None:
        """Takes the step of the batches that are left: of their mean, as of the others'."""
        if not self._pending:
            return
        for weight in self._model.parameters():
            if weight.grad is not None:
                weight.grad.mul_(self._accumulate / self._pending)
        self._step()

    def _step(self) -> None:
        self._pending = 0
        weights = list(self._model.parameters())
        if (value := self._params.get("clip_value")) is not None:
            nn.utils.clip_grad_value_(weights, float(value))
        if (norm := self._params.get("clip_norm")) is not None:
            nn.utils.clip_grad_norm_(weights, float(norm))
        for optimizer in self.optimizers:
            optimizer.step()
        self.after_step()

    def after_step(self) -> None:
        """What follows a step of the optimizers: the schedules' steps, and the average."""
        for schedule in self.schedules:
            schedule.step()
        if self._averaged is not None:
            self._taken += 1
            if self._taken > self._first_averaged:
                self._averaged.update_parameters(self._model)

    # --- averages of the weights -----------------------------------------------------------------

    def _new_average(self) -> AveragedModel | None:
        decay, start = self._params.get("ema_decay"), self._params.get("swa_start")
        self._first_averaged = 0
        if decay is not None:
            return AveragedModel(
                self._model,
                multi_avg_fn=get_ema_multi_avg_fn(float(decay)),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
        if start is not None:
            self._first_averaged = int(float(start) * self._epochs * self._steps)
            return AveragedModel(self._model, use_buffers=True)
        return None

    @property
    def judged(self) -> nn.Module:
        """The model to evaluate: with averaged weights, if they are averaged."""
        if self._averaged is None or self._taken <= self._first_averaged:
            return self._model
        averaged: nn.Module = self._averaged.module
        return averaged

    # --- checkpoints -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to continue; between two epochs."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "averaged": None if self._averaged is None else self._averaged.state_dict(),
            "taken": self._taken,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from the `state_dict` of an object with the same arguments."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])
        self._taken = state["taken"]


def _own(made: object) -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
    """The optimizers and schedulers of what a task's ``optimizers`` returns.

    Raises:
        TypeError: it is none of the allowed forms.
    """
    pair: Sequence[object] = (made, ())
    if isinstance(made, tuple) and len(made) == 2 and not isinstance(made[1], _OPTIMIZER):
        pair = made
    optimizers, schedules = (_listed(part) for part in pair)
    if not optimizers or not all(isinstance(one, _OPTIMIZER) for one in optimizers):
        raise TypeError(
            "optimizers() must return an optimizer, a list of them, or a pair of optimizers and"
            f" schedulers; it returned {type(made).__name__}"
        )
    if not all(isinstance(one, LRScheduler) for one in schedules):
        raise TypeError("optimizers() must return schedulers of torch.optim.lr_scheduler")
    return list(optimizers), list(schedules)  # type: ignore[arg-type]


_OPTIMIZER = torch.optim.Optimizer


def _listed(part: object) -> Sequence[object]:
    return part if isinstance(part, list | tuple) else [part]
