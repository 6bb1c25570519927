"""Batch normalization with ReLU and dropout, each fused into one pass over the activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foldrace.trainables.cpu.gate import is_plain
from foldrace.trainables.cpu.kernels import (
    Gradients,
    Mask,
    Moments,
    normalize,
    normalize_gradient,
    rectify,
)
from foldrace.trainables.cpu.layout import (
    channels_last,
    empty_images,
    laid_out_like,
    pixel_rows,
)

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
        exposed: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize images (B, C, H, W).

        Args:
            weight, bias: (C,), applied after normalization.
            omitted_bias: (C,), a bias that the images lack. It cancels in the result, and is added
                to the returned mean.
            rectified: apply ReLU.
            mask: apply dropout; only with ``rectified``.
            exposed: the result may be overwritten by others.

        Returns:
            The result (B, C, H, W) with the channels last; each channel's mean and biased
            variance, (C,) in double precision.
        """
        result = empty_images(images, images.shape)
        mean = torch.empty(len(weight), dtype=torch.float64)
        variance = torch.empty(len(weight), dtype=torch.float64)
        normalize(
            pixel_rows(images.detach()).numpy(),
            weight.detach().numpy(),
            bias.detach().numpy(),
            eps,
            rectified,
            mask,
            pixel_rows(result).numpy(),
            Moments(mean.numpy(), variance.numpy()),
        )
        kept = _kept(result, exposed) if rectified else None
        ctx.save_for_backward(images, weight, kept, mean, variance)
        ctx.eps, ctx.factor = eps, mask.factor
        full_mean = mean if omitted_bias is None else mean + omitted_bias
        ctx.mark_non_differentiable(full_mean, variance)
        return result, full_mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight, result, mean, variance = ctx.saved_tensors
        gradient, rest = gradients[0], (None, None, None, None)
        by_omitted_bias = torch.zeros_like(weight) if ctx.needs_input_grad[3] else None
        if torch.is_grad_enabled() or not is_plain(gradient, images, weight, result):
            if result is not None:
                gradient = _through_rectified(gradient, result, ctx.factor)
            found = torch.ops.aten.native_batch_norm_backward(
                gradient,
                images,
                weight,
                None,
                None,
                mean.to(images.dtype),
                (variance + ctx.eps).rsqrt().to(images.dtype),
                True,
                ctx.eps,
                [True, True, True],
            )
            return *found, by_omitted_bias, *rest
        rows, by_images = pixel_rows(images.detach()), empty_images(images, images.shape)
        by_weight, by_bias = torch.empty_like(weight), torch.empty_like(weight)
        normalize_gradient(
            pixel_rows(gradient).numpy(),
            rows.numpy(),
            weight.detach().numpy(),
            ctx.eps,
            ctx.factor,
            Moments(mean.numpy(), variance.numpy()),
            result is not None,
            (rows if result is None else pixel_rows(result.detach())).numpy(),
            Gradients(pixel_rows(by_images).numpy(), by_weight.numpy(), by_bias.numpy()),
        )
        return laid_out_like(images, by_images), by_weight, by_bias, by_omitted_bias, *rest


class RectifiedDropout(torch.autograd.Function):
    """ReLU and dropout of images (B, C, H, W), overwriting them if ``in_place``.

    ``exposed`` and the result are as in `NormalizedBatch`.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, mask: Mask, in_place: bool, exposed: bool) -> Tensor:
        images = channels_last(images.detach())
        result = images if in_place else empty_images(images, images.shape)
        rectify(pixel_rows(images).numpy(), mask, pixel_rows(result).numpy())
        ctx.save_for_backward(_kept(result, exposed))
        ctx.factor = mask.factor
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (result,) = ctx.saved_tensors
        return _through_rectified(gradients[0], result, ctx.factor), None, None, None


def _kept(result: Tensor, exposed: bool) -> Tensor:
    """What to save of a rectified result."""
    return result.clone() if exposed else result


def _through_rectified(gradient: Tensor, result: Tensor, factor: float) -> Tensor:
    """The gradient before ReLU and dropout, whose ``result`` shows where they set it to zero."""
    before: Tensor = torch.ops.aten.threshold_backward(gradient, result, 0.0)
    return before.mul_(factor)
