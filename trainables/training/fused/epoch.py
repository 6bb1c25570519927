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

import copy
import io
import pickle
import random
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from foldrace.trainables.cpu.layers import torch_kernels
from foldrace.trainables.training.fold import Fold, add_totals
from foldrace.trainables.training.fused.random import PerFoldRandom
from foldrace.trainables.training.optimizers import build_optimizer
from foldrace.trainables.training.reports import FoldReport
from foldrace.trainables.training.samples import Batch
from foldrace.trainables.training.seeds import seeded

__all__ = ["CannotFuseError", "can_fuse", "train_epoch_fused"]

_UNSTACKED_STATES = ("step", "mu_product")
"""An optimizer's states for a weight that do not have the weight's shape and are not stacked."""

_NAMED = (Tensor, type, FunctionType, BuiltinFunctionType, ModuleType)

_OF_THE_DEVICE = re.compile(r"CUDA|HIP|cuBLAS|cuDNN|out of memory|allocate memory", re.IGNORECASE)


class CannotFuseError(RuntimeError):
    """The task cannot be batched over folds, for example because it reads a tensor's value."""


def can_fuse(folds: Sequence[Fold]) -> bool:
    """Whether these folds are at the same epoch and have the same number of batches per epoch.

    Raises:
        CannotFuseError: they never can be trained as one program.
    """
    if (reason := folds[0].cannot_fuse) is not None:
        raise CannotFuseError(reason)
    kinds = {(fold.epoch, len(fold.batches(fold.train_indices))) for fold in folds}
    return len(folds) > 1 and len(kinds) == 1


def train_epoch_fused(folds: Sequence[Fold]) -> list[FoldReport]:
    """Trains the next epoch of each fold, as `Fold.train_epoch` would up to rounding.

    Args:
        folds: folds that `can_fuse` and have not stopped.

    Raises:
        CannotFuseError: the task cannot be batched; the folds are unchanged. What a device or the
            lack of memory raises is raised as it is.
    """
    assert can_fuse(folds) and not any(fold.stopped for fold in folds)
    started = time.perf_counter()
    try:
        metrics = _Stack(folds).train()
    except (CannotFuseError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        # Whatever else it is: training fold by fold raises it again if it is the task's own.
        if isinstance(error, RuntimeError) and _OF_THE_DEVICE.search(str(error)):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CannotFuseError(reason) from error
    seconds = (time.perf_counter() - started) / len(folds)
    return [fold.end_epoch(each, seconds) for fold, each in zip(folds, metrics, strict=True)]


class _Losses(nn.Module):
    """A fold's loss and summed terms as a module, so that other weights can be substituted."""

    def __init__(self, fold: Fold) -> None:
        super().__init__()
        self.network, self._fold = fold.model, fold

    def forward(
        self, batch: Batch, moment: float, mean_weight: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self._fold.loss_and_sums(batch, moment, mean_weight=mean_weight)


class _Stack:
    """Weights, buffers, optimizer and schedule of several folds, stacked in a new first dimension.

    All of it are copies, the task and the network that is called among them.
    """

    def __init__(self, folds: Sequence[Fold]) -> None:
        self._folds = folds
        for fold in folds:
            fold.model.train()
        _check_alike(folds)
        self._twin = _twin(folds[0])
        self._losses = _Losses(self._twin)
        self._weights, self._buffers = stack_module_state([_Losses(fold) for fold in folds])
        self._indices = torch.arange(len(folds))  # on the CPU: reading it from a GPU would wait
        self._mean_weights = torch.tensor([fold.mean_weight for fold in folds])
        self._mean_weights = self._mean_weights.to(folds[0].device)
        self._optimizer = build_optimizer(folds[0].params, self._weights.values())
        self._schedule = folds[0].stepping.new_schedule(self._optimizer)
        self._copy_states()
        self._sums: dict[str, Tensor] = {}

    def train(self) -> list[dict[str, float]]:
        """Trains one epoch and writes the folds back; returns the ``train_…`` metrics of each."""
        folds, first = self._folds, self._folds[0]
        randomness = [fold.random_epoch() for fold in folds]
        batches = [fold.batches(order) for fold, (order, _) in zip(folds, randomness, strict=True)]
        counts = [0] * len(folds)
        generators = PerFoldRandom([generator for _, generator in randomness])
        with first.options.precision.of_products(), torch_kernels(), seeded(0, first.device):
            shared = _Shared(self._twin)
            for number, parts in enumerate(zip(*batches, strict=True), 1):
                self._step(parts, counts, generators)
                counts = [count + len(part) for count, part in zip(counts, parts, strict=True)]
                if self._schedule is not None:
                    self._schedule.step()
                if number in (1, len(batches[0])):
                    shared.check_unchanged()
            metrics = self._means(counts)
        self._write_back()
        return [{f"train_{name}": value for name, value in means.items()} for means in metrics]

    def _step(
        self, parts: Sequence[Tensor], counts: Sequence[int], generators: PerFoldRandom
    ) -> None:
        """One optimizer step on a batch of indices per fold, after ``counts`` images of each."""
        alike: dict[tuple[int, float], list[int]] = defaultdict(list)
        for index, (fold, part) in enumerate(zip(self._folds, parts, strict=True)):
            alike[len(part), self._moment(fold, counts[index])].append(index)
        found = []
        for (_, moment), members in alike.items():
            each = [self._folds[i].samples.take(parts[i]) for i in members]
            batch = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            found.append(self._batched(members, batch, moment, generators))
        losses, sums, buffers = zip(*found, strict=True)
        order = [index for members in alike.values() for index in members]
        self._buffers = _joined(buffers, order)
        self._sums = add_totals(self._sums, _joined(sums, order))
        self._optimizer.zero_grad(set_to_none=True)
        # A fold's weights change its own loss alone, so these are the gradients of each.
        torch.autograd.backward(torch.cat(losses).sum())
        self._optimizer.step()

    def _moment(self, fold: Fold, count: int) -> float:
        """What `Fold.losses` gets after ``count`` images; the same for all if the task ignores
        it."""
        return fold.moment(count) if fold.task.takes_epoch else float(fold.epoch)

    def _batched(
        self, members: Sequence[int], batch: Batch, moment: float, generators: PerFoldRandom
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The loss, the summed terms and the new buffers of the folds at ``members``.

        Args:
            batch: of each fold, (folds, B, …).
        """

        def one_fold(
            state: dict[str, Tensor], batch: Batch, fold: Tensor, mean_weight: Tensor
        ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
            state = dict(state)
            with generators.of(fold):
                loss, sums = functional_call(self._losses, state, (batch, moment, mean_weight))
            # functional_call puts a buffer that was assigned anew into its argument
            return loss, sums, {name: state[name] for name in self._buffers}

        chosen, mean_weights = self._indices[list(members)], self._mean_weights[list(members)]
        state = {**self._weights, **self._buffers}
        if len(members) < len(self._folds):
            state = {name: value[list(members)] for name, value in state.items()}
        found: tuple[Tensor, dict[str, Tensor], dict[str, Tensor]] = vmap(
            one_fold, randomness="error"
        )(state, batch, chosen, mean_weights)
        return found

    def _means(self, counts: Sequence[int]) -> list[dict[str, float]]:
        return [
            fold.means({name: total[index] for name, total in self._sums.items()}, count)
            for index, (fold, count) in enumerate(zip(self._folds, counts, strict=True))
        ]

    def _copy_states(self) -> None:
        """Copies the states of the folds' optimizers and schedules into the stacked ones."""
        first = self._folds[0]
        if self._schedule is not None:
            self._schedule.load_state_dict(first.stepping.schedules[0].state_dict())
        group = _optimizer(first).param_groups[0]
        self._optimizer.param_groups[0].update(
            {key: value for key, value in group.items() if key != "params"}
        )
        for index, weight in enumerate(self._weights.values()):
            states = [_state(fold, index) for fold in self._folds]
            self._optimizer.state[weight] = {
                key: (
                    torch.stack([state[key] for state in states])
                    if _is_stacked(key, value)
                    else _copy(value)
                )
                for key, value in states[0].items()
            }

    @torch.no_grad()
    def _write_back(self) -> None:
        """Copies weights, buffers, optimizer and schedule states into the folds."""
        for index, fold in enumerate(self._folds):
            for buffer, value in zip(fold.model.buffers(), self._buffers.values(), strict=True):
                buffer.copy_(value[index])
            for weight, stacked in zip(
                fold.model.parameters(), self._weights.values(), strict=True
            ):
                weight.copy_(stacked[index])
                weight.grad = None if stacked.grad is None else stacked.grad[index].clone()
                if stacked in self._optimizer.state:
                    _optimizer(fold).state[weight] = {
                        key: value[index].clone() if _is_stacked(key, value) else _copy(value)
                        for key, value in self._optimizer.state[stacked].items()
                    }
            if self._schedule is not None:
                fold.stepping.schedules[0].load_state_dict(self._schedule.state_dict())
            group = self._optimizer.param_groups[0]
            _optimizer(fold).param_groups[0]["lr"] = _copy(group["lr"])


class _Shared:
    """What all folds share while their task is called once for all of them: the task, the
    network without its weights, and the random states that are not drawn from per fold.

    A task that changes any of it would have another outcome for each fold.
    """

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._notes, self._states = _Notes(fold), _random_states()

    def check_unchanged(self) -> None:
        """Raises: CannotFuseError."""
        if _random_states() != self._states:
            raise CannotFuseError("the task draws from a global random state")
        if _Notes(self._fold).content != self._notes.content:
            raise CannotFuseError("the task or its network keeps notes while it trains")


class _Notes(pickle.Pickler):
    """All that a fold's task and network hold, in bytes that can be compared.

    Of a tensor these have its identity and version; of a function, a class or a module its
    identity. Such objects are kept, so that no other one gets the identity of one of them.
    """

    def __init__(self, fold: Fold) -> None:
        self._file, self._named = io.BytesIO(), list[object]()
        super().__init__(self._file)
        self.dump((fold.task.implementation, fold.model))
        self.content = self._file.getvalue()

    def persistent_id(self, obj: Any) -> Any:
        """A name for an object that is not pickled; None for all others."""
        if not isinstance(obj, _NAMED):
            return None
        self._named.append(obj)
        if isinstance(obj, Tensor) and not obj.is_inference():
            return id(obj), obj._version
        return id(obj)


class _Content(pickle.Pickler):
    """All that a fold's task and network hold but for its weights and buffers, by its values, in
    bytes that can be compared with another fold's."""

    def __init__(self, fold: Fold) -> None:
        self._file = io.BytesIO()
        stacked = (*fold.model.named_parameters(), *fold.model.named_buffers())
        self._stacked = {id(tensor): name for name, tensor in stacked}
        super().__init__(self._file)
        self.fast = True  # without the sharing of equal values, which may differ
        self.dump((fold.task.implementation, fold.model))
        self.content = self._file.getvalue()

    def persistent_id(self, obj: Any) -> Any:
        """What stands for an object that is not pickled; None for all others."""
        if not isinstance(obj, _NAMED):
            return None
        if not isinstance(obj, Tensor):
            return id(obj)
        name = self._stacked.get(id(obj))
        values = obj.detach().cpu() if name is None else None
        return name, obj.dtype, obj.shape, values if values is None else values.tolist()


def _check_alike(folds: Sequence[Fold]) -> None:
    """Checks that the folds differ in their weights and buffers alone.

    Raises:
        CannotFuseError: what else the network or the task holds differs, such as random features.
    """
    first, *others = (_Content(fold).content for fold in folds)
    if any(other != first for other in others):
        raise CannotFuseError("the networks or the tasks of the folds differ in more than weights")


def _twin(fold: Fold) -> Fold:
    """The fold with copies of its task and network."""
    twin = copy.copy(fold)
    implementation, twin.model = copy.deepcopy((fold.task.implementation, fold.model))
    twin.task = replace(fold.task, implementation=implementation)
    return twin


def _random_states() -> tuple[Any, ...]:
    """The states of Python's, NumPy's and torch's global generators on the CPU."""
    numpy = np.random.get_state(legacy=False)
    return random.getstate(), pickle.dumps(numpy), torch.random.get_rng_state().numpy().tobytes()


def _optimizer(fold: Fold) -> torch.optim.Optimizer:
    """The only optimizer of a fold that can be fused."""
    (only,) = fold.stepping.optimizers
    return only


def _state(fold: Fold, index: int) -> dict[str, Any]:
    """The optimizer's state of the weight at ``index``; empty before the first step."""
    weight = _optimizer(fold).param_groups[0]["params"][index]
    state: dict[str, Any] = _optimizer(fold).state.get(weight, {})
    return state


def _is_stacked(key: str, value: Any) -> bool:
    return isinstance(value, Tensor) and key not in _UNSTACKED_STATES


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _joined(parts: Sequence[Mapping[str, Tensor]], order: Sequence[int]) -> dict[str, Tensor]:
    """The values of groups of folds, whose indices are in ``order``, as one tensor by index."""
    if len(parts) == 1:
        return dict(parts[0])
    places = [order.index(index) for index in range(len(order))]
    return {name: torch.cat([part[name] for part in parts])[places] for name in parts[0]}
