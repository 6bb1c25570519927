"""Batch normalization with ReLU and dropout, each fused into one pass over the activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from foldrace.trainables.cpu.kernels import (
    Gradients,
    Mask,
    Moments,
    normalize,
    normalize_gradient,
    rectify,
)
from foldrace.trainables.cpu.layout import channels_last, images_of, pixel_rows

__all__ = ["NormalizedBatch", "RectifiedDropout"]


class NormalizedBatch(torch.autograd.Function):
    """Normalizes a batch by its own mean and variance; optionally ReLU and dropout follow.

    torch's own sums in this layout are less exact: the gradient of a bias before the layer, zero
    but for rounding, becomes noise above Adam's epsilon. Adam then takes steps on the noise, and
    networks train measurably worse.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor,
        omitted_bias: Tensor | None,
        eps: float,
        rectified: bool,
        mask: Mask,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize images (B, C, H, W).

        Args:
            weight, bias: (C,), applied after normalization.
            omitted_bias: (C,), a bias that the images lack. It cancels in the result, and is added
                to the returned mean.
            rectified: apply ReLU.
            mask: apply dropout; only with ``rectified``.

        Returns:
            The result (B, C, H, W); each channel's mean and biased variance, (C,) in double
            precision.
        """
        rows = pixel_rows(images.detach())
        result = torch.empty_like(rows)
        mean = torch.empty(len(weight), dtype=torch.float64)
        variance = torch.empty(len(weight), dtype=torch.float64)
        normalize(
            rows.numpy(),
            weight.detach().numpy(),
            bias.detach().numpy(),
            eps,
            rectified,
            mask,
            result.numpy(),
            Moments(mean.numpy(), variance.numpy()),
        )
        ctx.save_for_backward(rows, weight, result if rectified else None, mean, variance)
        ctx.eps, ctx.factor, ctx.shape = eps, mask.factor, images.shape
        full_mean = mean if omitted_bias is None else mean + omitted_bias
        ctx.mark_non_differentiable(full_mean, variance)
        return images_of(result, images.shape), full_mean, variance

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
            Moments(mean.numpy(), variance.numpy()),
            result is not None,
            (rows if result is None else result).numpy(),
            Gradients(by_rows.numpy(), by_weight.numpy(), by_bias.numpy()),
        )
        by_omitted_bias = torch.zeros_like(weight) if ctx.needs_input_grad[3] else None
        by_images = images_of(by_rows, ctx.shape)
        return by_images, by_weight, by_bias, by_omitted_bias, None, None, None


class RectifiedDropout(torch.autograd.Function):
    """ReLU and dropout of images (B, C, H, W), overwriting them if ``in_place``."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, mask: Mask, in_place: bool) -> Tensor:
        images = channels_last(images.detach())
        result = images if in_place else torch.empty_like(images)
        rectify(pixel_rows(images).numpy(), mask, pixel_rows(result).numpy())
        ctx.save_for_backward(result)
        ctx.factor = mask.factor
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (result,) = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        by_images = torch.ops.aten.threshold_backward(gradient, result, 0.0).mul_(ctx.factor)
        return by_images, None, None
