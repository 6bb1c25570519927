"""Convolutions of kernel 3×3 and stride 2 on a CPU, and their transpose, as matrix products.

oneDNN, which torch calls, is slow at the transpose of a strided convolution, slowest where its
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

__all__ = ["KERNEL", "NARROW", "STRIDE", "StridedConvolution", "TransposedConvolution"]

KERNEL, STRIDE = 3, 2
NARROW = 16  # channels of the larger image up to which this transpose beats oneDNN's


def transpose_of_convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    size: Sequence[int],
) -> Tensor:
    """The transpose of a 3×3 convolution of stride 2: (B, S, h, w) and its weight (S, L, 3, 3) →
    (B, L, H, W).

    One matrix product gives what every pixel adds to the 3×3 around its place in the result; then
    each pixel of the result adds up what falls on it.
    """
    (batch, channels, *small), narrow = images.shape, weight.shape[1]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
    if narrow == 1:  # a plane for each tap
        taps = weight.permute(2, 3, 1, 0).reshape(-1, channels) @ pixels.t()
    else:  # a row for each pixel
        taps = pixels @ weight.permute(0, 2, 3, 1).reshape(channels, -1)
    stride, counts, places = _falls(batch if narrow == 1 else 1, *small, *size, *padding, narrow)
    result = images.new_empty(batch, *size, narrow)
    bias = images.new_zeros(narrow) if bias is None else bias.detach()
    sum_taps(
        taps.detach().view(-1).numpy(),
        stride,
        counts,
        places,
        bias.numpy(),
        result.view(batch, -1).numpy(),
    )
    return result.permute(0, 3, 1, 2)


@lru_cache(maxsize=256)
def _falls(
    batch: int,
    height: int,
    width: int,
    rows: int,
    columns: int,
    row_padding: int,
    column_padding: int,
    narrow: int,
) -> tuple[int, NDArray[np.int64], NDArray[np.uint64]]:
    """Where the taps lie that fall on each pixel of the result, for `sum_taps`; ``batch`` matters
    to planes alone."""
    counts, places = np.zeros(rows * columns, np.int64), np.zeros((rows * columns, 4), np.uint64)
    of_pixel, of_tap = (1, batch * height * width) if narrow == 1 else (KERNEL**2 * narrow, narrow)
    for to, (row, column) in enumerate(product(range(rows), range(columns))):
        for tap, (down, right) in enumerate(product(range(KERNEL), repeat=2)):
            y, odd_row = divmod(row + row_padding - down, STRIDE)
            x, odd_column = divmod(column + column_padding - right, STRIDE)
            if not odd_row and not odd_column and 0 <= y < height and 0 <= x < width:
                places[to, counts[to]] = (y * width + x) * of_pixel + tap * of_tap
                counts[to] += 1
    return height * width * of_pixel, counts, places


def _convolve(
    images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]
) -> Tensor:
    """The convolution itself; (B, 1, H, W) is faster in torch's other layout, the way back from
    there included."""
    if images.shape[1] == 1:
        images = images.squeeze(1).unsqueeze(1)  # with that layout's strides
    return torch.conv2d(images, weight, bias, STRIDE, padding).contiguous(memory_format=LAYOUT)


class StridedConvolution(torch.autograd.Function):
    """A convolution; its gradient by the images is `transpose_of_convolution`."""

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
            by_images = transpose_of_convolution(
                gradient, weight, None, ctx.padding, images.shape[2:]
            )
        by_weight = _by_weight(gradient, images, weight, ctx.padding)
        return by_images, by_weight, _by_bias(gradient) if ctx.needs_input_grad[2] else None, None


class TransposedConvolution(torch.autograd.Function):
    """`transpose_of_convolution` and a bias; its gradient by the images is a convolution."""

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
        by_images = (
            _convolve(gradient, weight, None, ctx.padding) if ctx.needs_input_grad[0] else None
        )
        by_weight = _by_weight(images, gradient, weight, ctx.padding)
        return (
            by_images,
            by_weight,
            _by_bias(gradient) if ctx.needs_input_grad[2] else None,
            None,
            None,
        )


def _by_weight(gradient: Tensor, images: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The gradient of a convolution of ``images`` by its weight."""
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
    return channel_sums(pixel_rows(gradient), gradient.shape[1]).to(gradient.dtype)
