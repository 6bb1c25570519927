"""3×3 convolutions of stride 2 and their transpose on a CPU, as matrix products.

oneDNN, which torch calls, is slow at the transpose of a strided convolution, most of all if its
result has few channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from foldrace.trainables.cpu.kernels import sum_taps
from foldrace.trainables.cpu.layout import LAYOUT, channel_sums, channels_last, pixel_rows

__all__ = ["KERNEL", "MAX_CHANNELS", "STRIDE", "StridedConvolution", "TransposedConvolution"]

KERNEL, STRIDE = 3, 2
MAX_CHANNELS = 16  # of the larger image; with more of them oneDNN is faster


def transpose_of_convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """The transpose of a 3×3 convolution of stride 2: (B, S, h, w) → (B, L, H, W).

    One matrix product gives the taps: what each pixel adds to the 3×3 pixels around its position
    in the result. Then each pixel of the result adds up its taps.

    Args:
        weight: (S, L, 3, 3).
        bias: (L,), or None.
        padding: of rows and columns.
        size: (H, W).
    """
    (batch, channels, *small), outputs = images.shape, weight.shape[1]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    if outputs == 1:  # one plane per kernel element
        taps = weight.permute(2, 3, 1, 0).reshape(-1, channels) @ pixels.t()
    else:  # one row per pixel
        taps = pixels @ weight.permute(0, 2, 3, 1).reshape(channels, -1)
    planes = batch if outputs == 1 else 1
    stride, counts, offsets = _tap_offsets(planes, outputs, (*small, *size), tuple(padding))
    result = images.new_empty(batch, *size, outputs)
    bias = images.new_zeros(outputs) if bias is None else bias.detach()
    sum_taps(
        taps.detach().view(-1).numpy(),
        stride,
        counts,
        offsets,
        bias.numpy(),
        result.view(batch, -1).numpy(),
    )
    return result.permute(0, 3, 1, 2)


@lru_cache(maxsize=256)
def _tap_offsets(
    planes: int, outputs: int, sizes: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[int, NDArray[np.int64], NDArray[np.uint64]]:
    """Where the taps of each pixel of the result begin: stride, counts and offsets of `sum_taps`.

    Args:
        planes: images in a plane of taps, if there is one output channel; else 1.
        outputs: channels of the result.
        sizes: height and width of the images, then of the result.
    """
    height, width, rows, columns = sizes
    counts, offsets = np.zeros(rows * columns, np.int64), np.zeros((rows * columns, 4), np.uint64)
    per_pixel, per_tap = KERNEL**2 * outputs, outputs
    if outputs == 1:
        per_pixel, per_tap = 1, planes * height * width
    for target, (row, column) in enumerate(product(range(rows), range(columns))):
        for tap, (down, right) in enumerate(product(range(KERNEL), repeat=2)):
            y, odd_row = divmod(row + padding[0] - down, STRIDE)
            x, odd_column = divmod(column + padding[1] - right, STRIDE)
            if not odd_row and not odd_column and 0 <= y < height and 0 <= x < width:
                offsets[target, counts[target]] = (y * width + x) * per_pixel + tap * per_tap
                counts[target] += 1
    return height * width * per_pixel, counts, offsets


def _convolve(
    images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]
) -> Tensor:
    """torch's convolution, with the channels of the result last."""
    if images.shape[1] == 1:
        # One channel is faster in torch's default layout, whose strides this gives.
        images = images.squeeze(1).unsqueeze(1)
    return torch.conv2d(images, weight, bias, STRIDE, padding).contiguous(memory_format=LAYOUT)


class StridedConvolution(torch.autograd.Function):
    """A convolution whose gradient with respect to the images is `transpose_of_convolution`."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        return _convolve(images, weight, bias, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        by_images = None
        if ctx.needs_input_grad[0]:
            size = images.shape[2:]
            by_images = transpose_of_convolution(gradient, weight, None, ctx.padding, size)
        by_weight = _by_weight(gradient, images, weight, ctx.padding)
        by_bias = _by_bias(gradient) if ctx.needs_input_grad[2] else None
        return by_images, by_weight, by_bias, None


class TransposedConvolution(torch.autograd.Function):
    """`transpose_of_convolution`; its gradient with respect to the images is a convolution."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: Sequence[int],
        size: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        return transpose_of_convolution(images, weight, bias, padding, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        by_images = None
        if ctx.needs_input_grad[0]:
            by_images = _convolve(gradient, weight, None, ctx.padding)
        by_weight = _by_weight(images, gradient, weight, ctx.padding)
        by_bias = _by_bias(gradient) if ctx.needs_input_grad[2] else None
        return by_images, by_weight, by_bias, None, None


def _by_weight(gradient: Tensor, images: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The gradient of a convolution of ``images`` with respect to its weight."""
    by_weight: Tensor
    _, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient,
        images,
        weight,
        [len(weight)],
        [STRIDE, STRIDE],
        padding,
        [1, 1],
        False,
        [0, 0],
        1,
        [False, True, False],
    )
    return by_weight


def _by_bias(gradient: Tensor) -> Tensor:
    """The gradient with respect to the bias."""
    return channel_sums(pixel_rows(gradient), gradient.shape[1]).to(gradient.dtype)
