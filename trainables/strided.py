"""Convolutions of kernel 3×3 and stride 2 on a CPU, and their transpose, in torch's own operations.

oneDNN, which torch calls, is slow at the transpose of a strided convolution, slowest where its result has few channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainables.layout import LAYOUT, channel_sums, channels_last, pixel_rows

__all__ = ["KERNEL", "NARROW", "STRIDE", "StridedConvolution", "TransposedConvolution"]

KERNEL, STRIDE = 3, 2
NARROW = 16  # channels of the larger image up to which this transpose beats oneDNN's
_RUN = 4  # channels up to which copying two taps at once is slower than each apart


def transpose_of_convolution(images: Tensor, weight: Tensor, padding: Sequence[int], size: Sequence[int]) -> Tensor:
    """The transpose of a 3×3 convolution of stride 2: (B, S, h, w) and its weight (S, L, 3, 3) → (B, L, H, W).

    One matrix product gives what every pixel adds to the 3×3 around its place in the result, seen as blocks of 2×2. Of
    the three taps along a side two fall into the pixel's own block, the third into the block before or after.
    """
    batch, channels, *small = images.shape
    blocks = [(side + 1) // 2 for side in size]
    pixels, narrow = images.permute(0, 2, 3, 1).reshape(-1, channels), weight.shape[1]
    if narrow < _RUN:  # a plane for each tap
        taps = weight.permute(2, 3, 1, 0).reshape(-1, channels) @ pixels.t()
    else:  # a row for each pixel, from which two neighbouring taps are taken at once
        taps = pixels @ weight.permute(0, 2, 3, 1).reshape(channels, -1)
    result = images.new_empty(batch, blocks[0], 2, blocks[1], 2, narrow)
    result[:, small[0] :].zero_()
    result[:, :, :, small[1] :].zero_()
    for own, shape, to, place, out_of, start in _falls(batch, *small, *blocks, *padding, narrow):
        there, here = result.as_strided(shape, to, place), taps.as_strided(shape, out_of, start)
        there.copy_(here) if own else there.add_(here)
    result = result.view(batch, 2 * blocks[0], 2 * blocks[1], narrow)[:, : size[0], : size[1]]
    return result.permute(0, 3, 1, 2).contiguous(memory_format=LAYOUT)


@lru_cache(maxsize=256)
def _falls(
    batch: int, height: int, width: int, block_rows: int, block_columns: int, row_padding: int, column_padding: int,
    narrow: int,
) -> Sequence[tuple[bool, Sequence[int], Sequence[int], int, Sequence[int], int]]:  # fmt: skip
    """Which parts of the taps fall where in the result: whether into the pixel's own block, which they are the first
    to do; shape, strides and offset there, strides and offset here.

    Slices with five parts each take Python longer than many a batch its copies, so they are taken once, of nothing.
    """
    result = torch.empty(batch, block_rows, 2, block_columns, 2, narrow, device="meta")
    if narrow < _RUN:
        taps = torch.empty(KERNEL, KERNEL, narrow, batch, height, width, device="meta").permute(3, 4, 0, 5, 1, 2)
    else:
        taps = torch.empty(batch, height, width, KERNEL, KERNEL, narrow, device="meta").permute(0, 1, 3, 2, 4, 5)
    rows = _side(row_padding, height, block_rows, apart=narrow < _RUN)
    columns = _side(column_padding, width, block_columns, apart=narrow < _RUN)
    falls = []
    for (own_row, tap_row, pixel_row, block_row, row), (own, tap, pixel, block, column) in product(rows, columns):
        there = result[:, block_row, row, block, column]
        here = taps[:, pixel_row, tap_row, pixel, tap]
        starts = int(there.storage_offset()), int(here.storage_offset())
        falls.append((own_row and own, there.shape, there.stride(), starts[0], here.stride(), starts[1]))
    return sorted(falls, key=lambda fall: not fall[0])


def _side(padding: int, pixels: int, blocks: int, *, apart: bool) -> list[tuple[bool, slice, slice, slice, slice]]:
    """Where the taps along one side fall, ``apart`` or two at once: whether into a pixel's own block, the taps, of
    which pixels, in which blocks, where in them."""
    first_own, other = padding, 0 if padding else 2
    groups = [(tap, 1) for tap in range(KERNEL)] if apart else [(first_own, 2), (other, 1)]
    sides = []
    for tap, count in groups:
        shift, phase = divmod(tap - padding, STRIDE)
        first, last = max(0, -shift), min(pixels, blocks - shift)
        places = slice(first, last), slice(first + shift, last + shift)
        sides.append((tap != other, slice(tap, tap + count), *places, slice(phase, phase + count)))
    return sides


def _convolve(images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """The convolution itself; (B, 1, H, W) is faster in torch's other layout, the way back from there included."""
    if images.shape[1] == 1:
        images = images.squeeze(1).unsqueeze(1)  # with that layout's strides
    return torch.conv2d(images, weight, bias, STRIDE, padding).contiguous(memory_format=LAYOUT)


class StridedConvolution(torch.autograd.Function):
    """A convolution; its gradient by the images is `transpose_of_convolution`."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
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
            by_images = transpose_of_convolution(gradient, weight, ctx.padding, images.shape[2:])
        by_weight = _by_weight(gradient, images, weight, ctx.padding)
        return by_images, by_weight, _by_bias(gradient) if ctx.needs_input_grad[2] else None, None


class TransposedConvolution(torch.autograd.Function):
    """`transpose_of_convolution` and a bias; its gradient by the images is a convolution."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], size: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        result = transpose_of_convolution(images, weight, padding, size)
        return result if bias is None else result.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        gradient = channels_last(gradients[0])
        by_images = _convolve(gradient, weight, None, ctx.padding) if ctx.needs_input_grad[0] else None
        by_weight = _by_weight(images, gradient, weight, ctx.padding)
        return by_images, by_weight, _by_bias(gradient) if ctx.needs_input_grad[2] else None, None, None


def _by_weight(gradient: Tensor, images: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
    """The gradient of a convolution of ``images`` by its weight."""
    by_weight: Tensor
    _, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, images, weight, [len(weight)], [STRIDE, STRIDE], padding, [1, 1], False, [0, 0], 1,
        [False, True, False],
    )  # fmt: skip
    return by_weight


def _by_bias(gradient: Tensor) -> Tensor:
    return channel_sums(pixel_rows(gradient), gradient.shape[1]).to(gradient.dtype)
