"""Batch normalisation, ReLU and dropout on a CPU, each one's pass over the activations made while they are at hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainables.layout import channel_sums, channels_last, for_every_pixel, images_of, pixel_rows

__all__ = ["NormalizedBatch", "RectifiedDropout"]


class NormalizedBatch(torch.autograd.Function):
    """A batch (B, C, H, W) normalized by its own mean and variance, then rectified and dropped out if that is wanted.

    torch's own sums with the channels last are rough: the gradient of a bias before the layer, zero but for rounding,
    becomes a noise above Adam's epsilon, on which Adam takes steps, and networks train measurably worse.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, left_out: Tensor | None, eps: float, rectify: bool,
        mask: Tensor | None, factor: float, ours: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """``mask`` (B, H·W·C) of zeros and ones, given with ``rectify`` alone; ``factor`` is what remains times.
        ``left_out`` (C,) is added to the mean alone. Images that are ``ours`` are written over.

        Returns: the result; the mean and the (biased) variance of each channel, (C,) in double precision.
        """
        rows, channels = pixel_rows(images.detach()), images.shape[1]
        pixels = rows.shape[1] // channels
        mean = channel_sums(rows, channels).div_(rows.shape[0] * pixels)
        every_mean = for_every_pixel(mean.to(rows.dtype), pixels)
        rows = rows.sub_(every_mean) if ours else rows - every_mean
        variance = channel_sums(rows * rows, channels).div_(rows.shape[0] * pixels)
        inverse = (variance + eps).rsqrt_()
        slope, constant = for_every_pixel(torch.stack((weight * inverse, bias)).mul_(factor).to(rows.dtype), pixels)
        result = torch.addcmul(constant, rows, slope)
        if rectify:
            result.clamp_min_(0.0)
        if mask is not None:
            result.mul_(mask)
        ctx.save_for_backward(rows, inverse, weight, result if rectify else None)
        ctx.factor, ctx.shape = factor, images.shape
        if left_out is not None:
            mean += left_out
        ctx.mark_non_differentiable(mean, variance)
        return images_of(result, images.shape), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, inverse, weight, result = ctx.saved_tensors
        channels = weight.shape[0]
        gradient = pixel_rows(gradients[0])
        if result is not None:  # zero where it was rectified or dropped
            gradient = torch.ops.aten.threshold_backward(gradient, result, 0.0)
        pixels = rows.shape[1] // channels
        sums = torch.stack((channel_sums(gradient, channels), channel_sums(gradient * rows, channels)))
        sums.mul_(ctx.factor)
        by_weight = sums[1] * inverse
        scale = weight * inverse
        means = torch.stack((sums[0], by_weight * inverse)).mul_(scale / (-rows.shape[0] * pixels))
        slopes = for_every_pixel(torch.cat((means, scale[None] * ctx.factor)).to(rows.dtype), pixels)
        by_rows = torch.addcmul(slopes[0], rows, slopes[1]).addcmul_(gradient, slopes[2])
        by_parameters = by_weight.to(rows.dtype), sums[0].to(rows.dtype)
        by_left_out = torch.zeros_like(weight) if ctx.needs_input_grad[3] else None
        return images_of(by_rows, ctx.shape), *by_parameters, by_left_out, None, None, None, None, None


class RectifiedDropout(torch.autograd.Function):
    """Images (B, C, H, W) rectified, and times a mask (B, H·W·C) of zeros and ones, and a factor. Images that are
    ``ours`` are written over."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, mask: Tensor, factor: float, ours: bool) -> Tensor:
        images = channels_last(images)
        result = images.detach().clamp_min_(0.0) if ours else images.clamp_min(0.0)
        pixel_rows(result).mul_(mask.mul_(factor))
        ctx.save_for_backward(result)
        ctx.factor = factor
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (result,) = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        return torch.ops.aten.threshold_backward(gradient, result, 0.0).mul_(ctx.factor), None, None, None
