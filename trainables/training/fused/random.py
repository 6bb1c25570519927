"""Random numbers inside a program that is batched over folds, drawn for each fold separately."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foldrace.trainables.cpu.dropout import dropout_mask

__all__ = ["PerFoldRandom"]

Draw = Callable[[Tensor], Tensor]
"""Draws numbers in the shape, type and layout of a tensor."""

_SHAPED = (dropout_mask, torch.randn_like, torch.rand_like)


class PerFoldRandom(TorchFunctionMode):
    """While active, each fold's random numbers come from its own generator.

    So a fold draws the numbers that it would draw if it were trained alone: by the same function,
    from the same state, for a tensor of the same shape, type and layout. This covers dropout,
    `torch.randn_like` and `torch.rand_like`.

    Args:
        generators: one per fold.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._generators = generators
        self._fold: Tensor | None = None

    def of(self, fold: Tensor) -> PerFoldRandom:
        """This object, to be entered for ``fold``: an index of a generator, batched over folds."""
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
        if function is F.dropout:
            return self._dropout(*args, **options)
        if function in _SHAPED and args and "generator" not in options:
            return self._draw(args[0], lambda one: function(one, *args[1:], **options))
        return function(*args, **options)

    def _dropout(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        if p == 1.0:
            return torch.zeros_like(input)
        # A GPU draws dropout's numbers in an order of their own: only dropout itself repeats them.
        kept = self._draw(
            input, lambda one: F.dropout(torch.ones_like(one), p).ne(0).to(one.dtype)
        )
        output = input.mul_(kept) if inplace else input * kept
        return output.mul_(1 / (1 - p))

    def _draw(self, like: Tensor, draw: Draw) -> Tensor:
        def draw_for(fold: int, one: Tensor) -> Tensor:
            with _drawing_from(self._generators[fold]):
                return draw(one)

        drawn: Tensor = _Drawn.apply(self._fold, like, draw_for)
        return drawn


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Within this block the numbers of the generator's device come from it: its state stands in
    for that of torch's global one, which is as before afterwards."""
    on_gpu = generator.device.type == "cuda"
    shared = (
        torch.cuda.default_generators[generator.device.index]
        if on_gpu
        else torch.default_generator
    )
    before = shared.get_state()
    shared.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(shared.get_state())
        shared.set_state(before)


class _Drawn(torch.autograd.Function):
    """Random numbers in the shape of a tensor; batched over folds, it draws for one at a time."""

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
        drawn = [draw(fold, one) for fold, one in zip(folds.tolist(), each, strict=True)]
        return torch.stack(drawn), 0
