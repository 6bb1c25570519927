"""Several folds of a trial trained as one batched program.

The folds of a trial have the same network, shapes and schedule; only their numbers differ. Their
weights are stacked, one vectorised call computes all gradients, and one optimizer step updates all
of them (as HFTA does for models: Wang et al., 2021). This keeps a GPU busy that a single small
network leaves idle.

The folds are stacked before an epoch and written back after it. So checkpoints, early stopping and
resuming work the same with and without it. Each fold draws the random numbers that it would draw
if it were trained alone.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from foldrace.trainables.cpu.layers import torch_kernels
from foldrace.trainables.training.fold import Fold, add_terms
from foldrace.trainables.training.fused_random import PerFoldRandom
from foldrace.trainables.training.optimizers import build_optimizer
from foldrace.trainables.training.reports import FoldReport

__all__ = ["CannotFuseError", "can_fuse", "train_epoch_fused"]

_UNSTACKED_STATES = ("step", "mu_product")
"""An optimizer's states for a weight that do not have the weight's shape and are not stacked."""


class CannotFuseError(RuntimeError):
    """The task cannot be batched over folds, for example because it reads a tensor's value."""


def can_fuse(folds: Sequence[Fold]) -> bool:
    """Whether these folds are at the same epoch and have the same number of batches per epoch."""
    kinds = {(fold.epoch, len(fold.batches(fold.train_indices))) for fold in folds}
    return len(folds) > 1 and len(kinds) == 1


def train_epoch_fused(folds: Sequence[Fold]) -> list[FoldReport]:
    """Trains the next epoch of each fold, as `Fold.train_epoch` would up to rounding.

    Args:
        folds: folds that `can_fuse` and have not stopped.

    Raises:
        CannotFuseError: the task cannot be batched; the folds are unchanged.
    """
    assert can_fuse(folds) and not any(fold.stopped for fold in folds)
    started = time.perf_counter()
    try:
        metrics = _Stack(folds).train()
    except (RuntimeError, NotImplementedError) as error:
        raise CannotFuseError(str(error).strip().splitlines()[0]) from error
    seconds = (time.perf_counter() - started) / len(folds)
    return [fold.end_epoch(each, seconds) for fold, each in zip(folds, metrics, strict=True)]


class _Losses(nn.Module):
    """A fold's loss and summed terms as a module, so that other weights can be substituted."""

    def __init__(self, fold: Fold) -> None:
        super().__init__()
        self.network, self._fold = fold.model, fold

    def forward(self, pixels: Tensor, moment: float) -> tuple[Tensor, dict[str, Tensor]]:
        terms = self._fold.losses(pixels, moment)
        return terms["loss"].mean(), add_terms({}, terms)


class _Stack:
    """Weights, buffers and optimizer states of several folds, stacked in a new first dimension."""

    def __init__(self, folds: Sequence[Fold]) -> None:
        self._folds = folds
        modules = [_Losses(fold) for fold in folds]
        self._losses = modules[0]
        self._weights, self._buffers = stack_module_state(modules)
        self._indices = torch.arange(len(folds))  # on the CPU: reading it from a GPU would wait
        self._optimizer = self._stacked_optimizer()
        self._sums: dict[str, Tensor] = {}

    def train(self) -> list[dict[str, float]]:
        """Trains one epoch and writes the folds back; returns the ``train_…`` metrics of each."""
        folds, first = self._folds, self._folds[0]
        randomness = [fold.random_epoch() for fold in folds]
        batches = [fold.batches(order) for fold, (order, _) in zip(folds, randomness, strict=True)]
        counts = [0] * len(folds)
        random = PerFoldRandom([generator for _, generator in randomness])
        with ExitStack() as stack:
            stack.enter_context(torch_kernels())
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for fold in folds:
                fold.model.train()
            for parts in zip(*batches, strict=True):
                moment = first.epoch + counts[0] / sum(map(len, batches[0]))
                self._step(parts, moment, random)
                counts = [count + len(part) for count, part in zip(counts, parts, strict=True)]
                if first.schedule is not None:
                    first.schedule.step()
                    self._optimizer.param_groups[0]["lr"] = first.optimizer.param_groups[0]["lr"]
            metrics = self._means(counts)
        for index in range(len(folds)):
            self._write_back(index)
        return [{f"train_{name}": value for name, value in means.items()} for means in metrics]

    def _step(self, parts: Sequence[Tensor], moment: float, random: PerFoldRandom) -> None:
        """One optimizer step on a batch of indices per fold."""
        trained = {name: weight for name, weight in self._weights.items() if weight.requires_grad}
        frozen = {name: self._weights[name] for name in self._weights if name not in trained}
        others = {**frozen, **self._buffers}
        pixels = [fold.pixels(part) for fold, part in zip(self._folds, parts, strict=True)]

        def fold_loss(
            weights: Mapping[str, Tensor],
            others: Mapping[str, Tensor],
            images: Tensor,
            fold: Tensor,
        ) -> tuple[Tensor, dict[str, Tensor]]:
            with random.of(fold):
                found: tuple[Tensor, dict[str, Tensor]] = functional_call(
                    self._losses, {**weights, **others}, (images, moment)
                )
            return found

        batched: Callable[..., Any] = vmap(
            grad_and_value(fold_loss, has_aux=True), randomness="error"
        )
        if len({len(part) for part in parts}) == 1:
            gradients, (_, sums) = batched(trained, others, torch.stack(pixels), self._indices)
        else:  # the last batches differ in size by a sample: one fold at a time
            found = [
                batched(*_slice((trained, others), i), images[None], self._indices[i : i + 1])
                for i, images in enumerate(pixels)
            ]
            gradients = _concatenate([gradient for gradient, _ in found])
            sums = _concatenate([sums for _, (_, sums) in found])
        for name, total in sums.items():
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        for name, weight in trained.items():
            weight.grad = gradients[name]
        self._optimizer.step()

    def _means(self, counts: Sequence[int]) -> list[dict[str, float]]:
        return [
            fold.means({name: total[index] for name, total in self._sums.items()}, count)
            for index, (fold, count) in enumerate(zip(self._folds, counts, strict=True))
        ]

    def _stacked_optimizer(self) -> torch.optim.Optimizer:
        stacked = build_optimizer(self._folds[0].params, self._weights.values())
        group = self._folds[0].optimizer.param_groups[0]
        stacked.param_groups[0].update(
            {key: value for key, value in group.items() if key != "params"}
        )
        for index, weight in enumerate(self._weights.values()):
            states = [_state(fold, index) for fold in self._folds]
            stacked.state[weight] = {
                key: (
                    torch.stack([state[key] for state in states])
                    if _is_stacked(key, value)
                    else _copy(value)
                )
                for key, value in states[0].items()
            }
        return stacked

    @torch.no_grad()
    def _write_back(self, index: int) -> None:
        """Copies weights, buffers, optimizer and schedule states into the fold at ``index``."""
        first, fold = self._folds[0], self._folds[index]
        for buffer, value in zip(fold.model.buffers(), self._buffers.values(), strict=True):
            buffer.copy_(value[index])
        for weight, stacked in zip(fold.model.parameters(), self._weights.values(), strict=True):
            weight.copy_(stacked[index])
            weight.grad = None if stacked.grad is None else stacked.grad[index].clone()
            fold.optimizer.state[weight] = {
                key: value[index].clone() if _is_stacked(key, value) else _copy(value)
                for key, value in self._optimizer.state[stacked].items()
            }
        if fold is not first and fold.schedule is not None and first.schedule is not None:
            fold.schedule.load_state_dict(first.schedule.state_dict())
            fold.optimizer.param_groups[0]["lr"] = first.optimizer.param_groups[0]["lr"]


def _state(fold: Fold, index: int) -> dict[str, Any]:
    """The optimizer's state of the weight at ``index``; empty before the first step."""
    weight = fold.optimizer.param_groups[0]["params"][index]
    state: dict[str, Any] = fold.optimizer.state.get(weight, {})
    return state


def _is_stacked(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) and key not in _UNSTACKED_STATES


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _slice(stacked: Sequence[Mapping[str, Tensor]], index: int) -> list[dict[str, Tensor]]:
    """One fold's part, as views: running statistics written to them are written to the whole."""
    return [{name: value[index : index + 1] for name, value in each.items()} for each in stacked]


def _concatenate(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
