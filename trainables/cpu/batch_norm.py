"""Batch normalisation, ReLU and dropout on a CPU, each one's pass over the activations made while
they are at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foldrace.trainables.cpu.dropout import Draw
from foldrace.trainables.cpu.kernels import normalize, normalize_gradient, rectify
from foldrace.trainables.cpu.layout import channels_last, images_of, pixel_rows

__all__ = ["NormalizedBatch", "RectifiedDropout"]


class NormalizedBatch(torch.autograd.Function):
    """A batch (B, C, H, W) normalized by its own mean and variance, then rectified and dropped out
    if that is wanted.

    torch's own sums with the channels last are rough: the gradient of a bias before the layer,
    zero but for rounding, becomes a noise above Adam's epsilon, on which Adam takes steps, and
    networks train measurably worse.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        left_out: Tensor | None,
        eps: float,
        rectified: bool,
        drawn: Draw,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``drawn`` drops something with ``rectified`` alone. ``left_out`` (C,) is added to the
        mean alone.

        Returns: the result; the mean and the (biased) variance of each channel, (C,) in double
            precision.
        """
        rows = pixel_rows(images.detach())
        result = torch.empty_like(rows)
        mean, variance = (
            torch.empty(len(weight), dtype=torch.float64),
            torch.empty(len(weight), dtype=torch.float64),
        )
        normalize(
            rows.numpy(),
            weight.detach().numpy(),
            bias.detach().numpy(),
            eps,
            rectified,
            *drawn,
            result.numpy(),
            mean.numpy(),
            variance.numpy(),
        )
        ctx.save_for_backward(rows, weight, result if rectified else None, mean, variance)
        ctx.eps, ctx.factor, ctx.shape = eps, drawn.factor, images.shape
        told = mean if left_out is None else mean + left_out
        ctx.mark_non_differentiable(told, variance)
        return images_of(result, images.shape), told, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, weight, result, mean, variance = ctx.saved_tensors
        gradient, by_rows = pixel_rows(gradients[0]), torch.empty_like(rows)
        by_weight, by_bias = torch.empty_like(weight), torch.empty_like(weight)
        normalize_gradient(
            gradient.numpy(),
            rows.numpy(),
            weight.detach().numpy(),
            ctx.eps,
            ctx.factor,
            mean.numpy(),
            variance.numpy(),
            result is not None,
            (rows if result is None else result).numpy(),
            by_rows.numpy(),
            by_weight.numpy(),
            by_bias.numpy(),
        )
        by_left_out = torch.zeros_like(weight) if ctx.needs_input_grad[3] else None
        return images_of(by_rows, ctx.shape), by_weight, by_bias, by_left_out, None, None, None


class RectifiedDropout(torch.autograd.Function):
    """Images (B, C, H, W) rectified and dropped out. Images that are ``ours`` are written over."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, drawn: Draw, ours: bool) -> Tensor:
        images = channels_last(images.detach())
        result = images if ours else torch.empty_like(images)
        rectify(pixel_rows(images).numpy(), *drawn, pixel_rows(result).numpy())
        ctx.save_for_backward(result)
        ctx.factor = drawn.factor
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (result,) = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        return (
            torch.ops.aten.threshold_backward(gradient, result, 0.0).mul_(ctx.factor),
            None,
            None,
        )
