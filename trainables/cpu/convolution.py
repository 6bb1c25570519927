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

from foldrace.trainables.cpu.gate import is_plain
from foldrace.trainables.cpu.kernels import sum_taps
from foldrace.trainables.cpu.layout import (
    LAYOUT,
    channel_sums,
    channels_last,
    empty_images,
    laid_out_like,
    pixel_rows,
)

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
    result = empty_images(images, (batch, outputs, *size))
    bias = images.new_zeros(outputs) if bias is None else bias.detach()
    sum_taps(
        taps.detach().view(-1).numpy(),
        stride,
        counts,
        offsets,
        bias.numpy(),
        pixel_rows(result).numpy(),
    )
    return result


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
    """A convolution whose gradient with respect to the images is `transpose_of_convolution`.

    The result has the channels last.
    """

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        return _convolve(channels_last(images), weight, bias, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not is_plain(*gradients, images, weight):
            return *_torchs_gradients(gradients[0], images, weight, ctx.padding, needs), None
        gradient, by_images = channels_last(gradients[0]), None
        if needs[0]:
            size = images.shape[2:]
            by_images = transpose_of_convolution(gradient, weight, None, ctx.padding, size)
            by_images = laid_out_like(images, by_images)
        by_weight = _by_weight(gradient, channels_last(images), weight, ctx.padding)
        return by_images, by_weight, _by_bias(gradient) if needs[2] else None, None


class TransposedConvolution(torch.autograd.Function):
    """`transpose_of_convolution`; its gradient with respect to the images is a convolution.

    The result has the channels last, and is larger by ``extra`` rows and columns.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: Sequence[int],
        extra: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding, ctx.extra = padding, extra
        size = [
            (side - 1) * STRIDE - 2 * pad + KERNEL + more
            for side, pad, more in zip(images.shape[2:], padding, extra, strict=True)
        ]
        return transpose_of_convolution(channels_last(images), weight, bias, padding, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled() or not is_plain(*gradients, images, weight):
            gradient = gradients[0]
            found = _torchs_gradients(gradient, images, weight, ctx.padding, needs, ctx.extra)
            return *found, None, None
        gradient, by_images = channels_last(gradients[0]), None
        if needs[0]:
            by_images = laid_out_like(images, _convolve(gradient, weight, None, ctx.padding))
        by_weight = _by_weight(channels_last(images), gradient, weight, ctx.padding)
        return by_images, by_weight, _by_bias(gradient) if needs[2] else None, None, None


def _torchs_gradients(
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    padding: Sequence[int],
    needs: Sequence[bool],
    extra: Sequence[int] | None = None,
) -> Sequence[Tensor | None]:
    """The gradients by images, weight and bias, by an operation that has gradients itself.

    Args:
        needs: which of the three are needed.
        extra: the output padding of a transposed convolution; None: it is not transposed.
    """
    found: Sequence[Tensor | None] = torch.ops.aten.convolution_backward(
        gradient,
        images,
        weight,
        [gradient.shape[1]],
        [STRIDE, STRIDE],
        padding,
        [1, 1],
        extra is not None,
        extra or [0, 0],
        1,
        needs,
    )
    return found


def _by_weight(gradient: Tensor, images: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The gradient of a convolution of ``images`` with respect to its weight."""
    by_weight = _torchs_gradients(gradient, images, weight, padding, [False, True, False])[1]
    assert by_weight is not None
    return by_weight


def _by_bias(gradient: Tensor) -> Tensor:
    """The gradient with respect to the bias."""
    return channel_sums(pixel_rows(gradient), gradient.shape[1]).to(gradient.dtype)
