"""Folds of a trial trained as one batched program.

The folds of a trial have the same network, shapes and schedule, and differ in their numbers alone.
Their weights are stacked, one vectorised call computes all their gradients, and one optimizer step
moves them (as HFTA does for models: Wang et al., 2021). A GPU that one small network leaves idle
is then busy with several.

The folds themselves stay the truth: they are stacked before an epoch and written back after it, so
that checkpoints, early stopping and resuming know nothing of it. Every fold draws its own random
numbers, those that it would draw alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foldrace.trainables.cpu.dropout import dropout_mask
from foldrace.trainables.cpu.layers import torch_kernels
from foldrace.trainables.training.fold import Fold, FoldReport, add_terms, timed
from foldrace.trainables.training.optimizers import build_optimizer

__all__ = ["CannotFuseError", "can_fuse", "train_epoch_fused"]

_SCALAR_STATES = (
    "step",
    "mu_product",
)  # of an optimizer's state for a weight, what has not the weight's shape


class CannotFuseError(RuntimeError):
    """The task does something that cannot be batched over folds: it reads a tensor's value,
    say."""


def can_fuse(runs: Sequence[Fold]) -> bool:
    """Whether these folds stand at the same epoch and have equally many batches to come."""
    return (
        len(runs) > 1
        and len({(run.epoch, len(run.batches(run.train_indices))) for run in runs}) == 1
    )


def train_epoch_fused(runs: Sequence[Fold]) -> list[FoldReport]:
    """Trains the next epoch of each of these folds, as `Fold.train_epoch` would within
    rounding.

    Raises:
        CannotFuseError: nothing has been changed then.
    """
    assert can_fuse(runs) and not any(run.stopped for run in runs)
    with timed() as elapsed:
        try:
            metrics = _Stack(runs).train()
        except (RuntimeError, NotImplementedError) as error:
            raise CannotFuseError(str(error).strip().splitlines()[0]) from error
    return [
        run.end_epoch(figures, elapsed() / len(runs))
        for run, figures in zip(runs, metrics, strict=True)
    ]


class _Losses(nn.Module):
    """A task's terms as a module's output, so that its weights can be put in from outside."""

    def __init__(self, run: Fold) -> None:
        super().__init__()
        self.network, self._run = run.model, run

    def forward(self, pixels: Tensor, moment: float) -> tuple[Tensor, dict[str, Tensor]]:
        terms = self._run.losses(pixels, moment)
        return terms["loss"].mean(), add_terms({}, terms)


class _Stack:
    """The weights, buffers and optimizer states of several folds, each with a first dimension
    more."""

    def __init__(self, runs: Sequence[Fold]) -> None:
        self._runs = runs
        self._losses = _Losses(runs[0])
        self._names = [f"network.{name}" for name, _ in runs[0].model.named_parameters()]
        weights = [list(run.model.parameters()) for run in runs]
        self._weights = {
            name: (
                torch.stack([weight.detach() for weight in same]).requires_grad_(
                    same[0].requires_grad
                )
            )
            for name, same in zip(self._names, zip(*weights, strict=True), strict=True)
        }
        buffers = [dict(run.model.named_buffers()) for run in runs]
        self._buffers = {
            f"network.{name}": torch.stack([each[name] for each in buffers]) for name in buffers[0]
        }
        self._folds = torch.arange(len(runs))  # never on a GPU, where reading it would wait
        self._optimizer = self._stacked_optimizer()
        self._sums: dict[str, Tensor] = {}

    def train(self) -> list[dict[str, float]]:
        """One epoch of all folds; writes them back and returns each one's training metrics."""
        runs, first = self._runs, self._runs[0]
        randomness = [run.random_epoch() for run in runs]
        batches = [run.batches(order) for run, (order, _) in zip(runs, randomness, strict=True)]
        untrained: list[dict[str, float]] = []
        counts = [0] * len(runs)
        draws = _PerFold([generator for _, generator in randomness])
        with ExitStack() as stack:
            stack.enter_context(torch_kernels())
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            for run in runs:
                run.model.train()
            for parts in zip(*batches, strict=True):
                moment = first.epoch + counts[0] / sum(map(len, batches[0]))
                self._step(parts, moment, draws)
                counts = [count + len(part) for count, part in zip(counts, parts, strict=True)]
                if first.schedule is not None:
                    first.schedule.step()
                    self._optimizer.param_groups[0]["lr"] = first.optimizer.param_groups[0]["lr"]
                if first.epoch == 0 and not untrained:
                    untrained = self._means(counts)
            metrics = self._means(counts)
        self._write_back()
        for index, run in enumerate(runs):
            if untrained:
                run.note_untrained(untrained[index])
        return [{f"train_{name}": value for name, value in figures.items()} for figures in metrics]

    def _step(self, parts: Sequence[Tensor], moment: float, draws: _PerFold) -> None:
        trained = {name: weight for name, weight in self._weights.items() if weight.requires_grad}
        fixed = {
            name: weight for name, weight in self._weights.items() if not weight.requires_grad
        }
        pixels = [run.pixels(part) for run, part in zip(self._runs, parts, strict=True)]

        def fold_loss(
            weights: Mapping[str, Tensor],
            others: Mapping[str, Tensor],
            images: Tensor,
            fold: Tensor,
        ) -> tuple[Tensor, dict[str, Tensor]]:
            with draws.of(fold):
                found: tuple[Tensor, dict[str, Tensor]] = functional_call(
                    self._losses, {**weights, **others}, (images, moment)
                )
            return found

        others = {**fixed, **self._buffers}
        together: Callable[..., Any] = vmap(
            grad_and_value(fold_loss, has_aux=True), randomness="error"
        )
        if len({len(part) for part in parts}) == 1:
            gradients, (_, sums) = together(trained, others, torch.stack(pixels), self._folds)
        else:  # the last batch of folds that differ by a sample: each by itself
            found = [
                together(
                    *_slice((trained, others), index), images[None], self._folds[index : index + 1]
                )
                for index, images in enumerate(pixels)
            ]
            gradients = {name: torch.cat([each[0][name] for each in found]) for name in trained}
            sums = {
                name: torch.cat([each[1][1][name] for each in found]) for name in found[0][1][1]
            }
        for name, total in sums.items():
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        for name, weight in trained.items():
            weight.grad = gradients[name]
        self._optimizer.step()

    def _means(self, counts: Sequence[int]) -> list[dict[str, float]]:
        return [
            run.means({name: total[index] for name, total in self._sums.items()}, count)
            for index, (run, count) in enumerate(zip(self._runs, counts, strict=True))
        ]

    def _stacked_optimizer(self) -> torch.optim.Optimizer:
        stacked = build_optimizer(self._runs[0].params, self._weights.values())
        group = self._runs[0].optimizer.param_groups[0]
        stacked.param_groups[0].update(
            {key: value for key, value in group.items() if key != "params"}
        )
        for index, weight in enumerate(self._weights.values()):
            states = [_state(run, index) for run in self._runs]
            for key, value in states[0].items():
                whole = not isinstance(value, Tensor) or key in _SCALAR_STATES
                joined = _copy(value) if whole else torch.stack([state[key] for state in states])
                stacked.state[weight][key] = joined
        return stacked

    def _write_back(self) -> None:
        with torch.no_grad():
            for index, run in enumerate(self._runs):
                buffers = dict(run.model.named_buffers())
                for name, value in self._buffers.items():
                    buffers[name.removeprefix("network.")].copy_(value[index])
                for weight, stacked in zip(
                    run.model.parameters(), self._weights.values(), strict=True
                ):
                    weight.copy_(stacked[index])
                    weight.grad = None if stacked.grad is None else stacked.grad[index].clone()
                    run.optimizer.state[weight] = {
                        key: (
                            value[index].clone()
                            if isinstance(value, Tensor) and key not in _SCALAR_STATES
                            else _copy(value)
                        )
                        for key, value in self._optimizer.state[stacked].items()
                    }
                if (
                    run is not self._runs[0]
                    and run.schedule is not None
                    and self._runs[0].schedule is not None
                ):
                    run.schedule.load_state_dict(self._runs[0].schedule.state_dict())
                    run.optimizer.param_groups[0]["lr"] = self._runs[0].optimizer.param_groups[0][
                        "lr"
                    ]


def _state(run: Fold, index: int) -> dict[str, Any]:
    state: dict[str, Any] = run.optimizer.state.get(
        run.optimizer.param_groups[0]["params"][index], {}
    )
    return state


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _slice(stacked: Sequence[Mapping[str, Tensor]], index: int) -> list[dict[str, Tensor]]:
    """One fold's part, as a view: what is written into it (running statistics) is written into the
    whole."""
    return [{name: value[index : index + 1] for name, value in each.items()} for each in stacked]


class _PerFold(TorchFunctionMode):
    """Within `of`, what is drawn at random is drawn for each fold from its own generator, as it
    would be alone."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._generators = generators
        self._fold: Tensor | None = None

    def of(self, fold: Tensor) -> _PerFold:
        """Args: fold: the fold's index among the generators, batched over folds."""
        self._fold = fold
        return self

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if function is dropout_mask:
            return self._draw(
                args[0], lambda like, generator: dropout_mask(like, args[1], generator)
            )
        if function is F.dropout:
            return self._dropout(*args, **options)
        if function in (torch.randn_like, torch.rand_like):
            fill = "normal_" if function is torch.randn_like else "uniform_"
            return self._draw(
                args[0],
                lambda like, generator: getattr(torch.empty_like(like, **options), fill)(
                    generator=generator
                ),
            )
        return function(*args, **options)

    def _dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        if p == 1.0:
            return torch.zeros_like(input)
        kept = self._draw(
            input,
            lambda like, generator: (
                torch.empty_like(like).bernoulli_(1 - p, generator=generator).div_(1 - p)
            ),
        )
        return input.mul_(kept) if inplace else input * kept

    def _draw(self, like: Tensor, draw: Callable[[Tensor, torch.Generator], Tensor]) -> Tensor:
        def draw_for(fold: int, one: Tensor) -> Tensor:
            return draw(one, self._generators[fold])

        drawn: Tensor = _Drawn.apply(self._fold, like, draw_for)
        return drawn


class _Drawn(torch.autograd.Function):
    """Random numbers like a tensor; batched over folds it draws for one after the other."""

    @staticmethod
    def forward(fold: Tensor, like: Tensor, draw: Callable[[int, Tensor], Tensor]) -> Tensor:
        return draw(int(fold), like)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, folds: Tensor, like: Tensor, draw: Any
    ) -> tuple[Tensor, int]:
        each = [like] * info.batch_size if in_dims[1] is None else like.movedim(in_dims[1], 0)
        return (
            torch.stack([draw(fold, one) for fold, one in zip(folds.tolist(), each, strict=True)]),
            0,
        )
