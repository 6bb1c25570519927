"""Random numbers inside a program that is batched over folds, drawn for each fold separately."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from foldrace.trainables.cpu.dropout import dropout_mask

__all__ = ["PerFoldRandom"]

Draw = Callable[[Tensor, torch.Generator], Tensor]


class PerFoldRandom(TorchFunctionMode):
    """While active, each fold's random numbers come from its own generator.

    So a fold draws the numbers that it would draw if it were trained alone. This covers dropout,
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
        mask = self._draw(
            input,
            lambda like, generator: (
                torch.empty_like(like).bernoulli_(1 - p, generator=generator).div_(1 - p)
            ),
        )
        return input.mul_(mask) if inplace else input * mask

    def _draw(self, like: Tensor, draw: Draw) -> Tensor:
        def draw_for(fold: int, one: Tensor) -> Tensor:
            return draw(one, self._generators[fold])

        drawn: Tensor = _Drawn.apply(self._fold, like, draw_for)
        return drawn


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
