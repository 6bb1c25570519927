"""Drop-in layers with which small convolutional networks train faster on a CPU.

Each is a subclass of the layer of the same name in `torch.nn`: its parameters, its arguments, its results within
rounding (of dropout: its distribution, see `dropout_mask`). On a GPU, and for what they are not made for, they are that
layer.

What they know: oneDNN, which torch calls, is slow at the transpose of a strided convolution, slowest where its result
has few channels, and torch draws a dropout mask in more time than the layer before it takes. Activations lie in memory
with the channels last, which suits both sides; tensors of any layout may come in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function_unary

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout", "dropout_mask", "torch_kernels"]

_KERNEL, _STRIDE = 3, 2
_NARROW = 16  # channels of the larger image up to which `_transpose` beats oneDNN's
_RUN = 4  # channels up to which copying two taps at once is slower than each apart
_LAYOUT = torch.channels_last
_torch_kernels: ContextVar[bool] = ContextVar("torch_kernels", default=False)


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Within this block these layers compute with torch's own kernels alone, which `torch.func` can batch."""
    token = _torch_kernels.set(True)
    try:
        yield
    finally:
        _torch_kernels.reset(token)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`; where its kernel is 3×3 and its stride 2, its gradient is faster on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        if not (_fast(self, input) and self.in_channels <= _NARROW):
            return super().forward(input)
        output: Tensor = _Strided.apply(_channels_last(input), self.weight, self.bias, _pair(self.padding))
        return output


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`; faster on a CPU where its kernel is 3×3 and its stride 2."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        if output_size is not None or not (_fast(self, input) and self.out_channels <= _NARROW):
            return super().forward(input, output_size)
        padding = _pair(self.padding)
        height, width = (
            (side - 1) * _STRIDE - 2 * pad + _KERNEL + extra
            for side, pad, extra in zip(input.shape[2:], padding, _pair(self.output_padding), strict=True)
        )
        output: Tensor = _Transposed.apply(_channels_last(input), self.weight, self.bias, padding, (height, width))
        return output


def _fast(layer: nn.Conv2d | nn.ConvTranspose2d, images: Tensor) -> bool:
    """Whether these images through this layer are what `_transpose` is made for."""
    # an exported network is of torch's operations alone
    if torch.compiler.is_compiling() or _torch_kernels.get() or torch.is_autocast_enabled(images.device.type):
        return False
    here = images.device.type == "cpu" and images.dim() == 4
    shape = layer.kernel_size == (_KERNEL, _KERNEL) and layer.stride == (_STRIDE, _STRIDE)
    plain = layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
    return here and shape and plain and not isinstance(layer.padding, str) and max(_pair(layer.padding)) <= 1


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _channels_last(images: Tensor) -> Tensor:
    images = images.contiguous(memory_format=_LAYOUT)
    if images.shape[1] == 1:  # torch takes the strides of a single channel for the other layout
        images = images.as_strided(images.shape, (images[0].numel(), 1, images.shape[3], 1), images.storage_offset())
    return images


def _transpose(images: Tensor, weight: Tensor, padding: Sequence[int], size: Sequence[int]) -> Tensor:
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
    result = images.new_zeros(batch, blocks[0], 2, blocks[1], 2, narrow)
    for shape, to, place, out_of, start in _falls(batch, *small, *blocks, *padding, narrow):
        result.as_strided(shape, to, place).add_(taps.as_strided(shape, out_of, start))
    result = result.view(batch, 2 * blocks[0], 2 * blocks[1], narrow)[:, : size[0], : size[1]]
    return result.permute(0, 3, 1, 2).contiguous(memory_format=_LAYOUT)


@lru_cache(maxsize=256)
def _falls(
    batch: int, height: int, width: int, block_rows: int, block_columns: int, row_padding: int, column_padding: int,
    narrow: int,
) -> Sequence[tuple[Sequence[int], Sequence[int], int, Sequence[int], int]]:  # fmt: skip
    """Which parts of the taps fall where in the result: shape, strides and offset there, strides and offset here.

    Slices with five parts each take Python longer than many a batch its copies, so they are taken once, of nothing.
    """
    result = torch.empty(batch, block_rows, 2, block_columns, 2, narrow, device="meta")
    if narrow < _RUN:
        taps = torch.empty(_KERNEL, _KERNEL, narrow, batch, height, width, device="meta").permute(3, 4, 0, 5, 1, 2)
    else:
        taps = torch.empty(batch, height, width, _KERNEL, _KERNEL, narrow, device="meta").permute(0, 1, 3, 2, 4, 5)
    rows = _side(row_padding, height, block_rows, apart=narrow < _RUN)
    columns = _side(column_padding, width, block_columns, apart=narrow < _RUN)
    falls = []
    for (tap_row, pixel_row, block_row, row), (tap, pixel, block, column) in product(rows, columns):
        there = result[:, block_row, row, block, column]
        here = taps[:, pixel_row, tap_row, pixel, tap]
        starts = int(there.storage_offset()), int(here.storage_offset())
        falls.append((there.shape, there.stride(), starts[0], here.stride(), starts[1]))
    return falls


def _side(padding: int, pixels: int, blocks: int, *, apart: bool) -> list[tuple[slice, slice, slice, slice]]:
    """Where the taps along one side fall, ``apart`` or two at once: the taps, of which pixels, in which blocks, where
    in them."""
    own, other = padding, 0 if padding else 2
    groups = [(tap, 1) for tap in range(_KERNEL)] if apart else [(own, 2), (other, 1)]
    sides = []
    for tap, count in groups:
        shift, phase = divmod(tap - padding, _STRIDE)
        first, last = max(0, -shift), min(pixels, blocks - shift)
        places = slice(first, last), slice(first + shift, last + shift)
        sides.append((slice(tap, tap + count), *places, slice(phase, phase + count)))
    return sides


def _convolve(images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
    """The convolution itself; (B, 1, H, W) is faster in torch's other layout, the way back from there included."""
    if images.shape[1] == 1:
        images = images.squeeze(1).unsqueeze(1)  # with that layout's strides
    return torch.conv2d(images, weight, bias, _STRIDE, padding).contiguous(memory_format=_LAYOUT)


class _Strided(torch.autograd.Function):
    """A convolution; its gradient by the images is `_transpose`."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        return _convolve(images, weight, bias, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        gradient = _channels_last(gradients[0])
        by_images = None
        if ctx.needs_input_grad[0]:
            by_images = _transpose(gradient, weight, ctx.padding, images.shape[2:])
        by_weight, by_bias = _by_weight(gradient, images, weight, ctx.padding, ctx.needs_input_grad[2])
        return by_images, by_weight, by_bias, None


class _Transposed(torch.autograd.Function):
    """`_transpose` and a bias; its gradient by the images is a convolution."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int], size: Sequence[int]
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.padding = padding
        result = _transpose(images, weight, padding, size)
        return result if bias is None else result.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        gradient = _channels_last(gradients[0])
        by_images = _convolve(gradient, weight, None, ctx.padding) if ctx.needs_input_grad[0] else None
        by_weight, _ = _by_weight(images, gradient, weight, ctx.padding, False)
        by_bias = _by_bias(gradient) if ctx.needs_input_grad[2] else None
        return by_images, by_weight, by_bias, None, None


def _by_weight(
    gradient: Tensor, images: Tensor, weight: Tensor, padding: Sequence[int], bias: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of a convolution of ``images`` by its weight and, if wanted, its bias."""
    _, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, images, weight, [len(weight)], [_STRIDE, _STRIDE], padding, [1, 1], False, [0, 0], 1,
        [False, True, False],
    )  # fmt: skip
    return by_weight, _by_bias(gradient) if bias else None


def _by_bias(gradient: Tensor) -> Tensor:
    """Summed in double precision: before a batch norm it is zero but for rounding, which Adam would take steps on."""
    return gradient.sum((0, 2, 3), dtype=torch.float64).to(gradient.dtype)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` in torch's first layout, whose sums are the more exact: with channels last the gradient of
    a bias before it, zero but for rounding, is ten times as noisy, and Adam takes steps on the noise."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return super().forward(input.contiguous())


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with a cheaper mask on a CPU: see `dropout_mask`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape with the batch first → the same."""
        if not self.training or self.p == 0.0 or input.device.type != "cpu" or input.dim() < 2:
            return super().forward(input)
        return input * dropout_mask(input, self.p)


def dropout_mask(images: Tensor, rate: float, draw: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Zeros with probability ``rate`` and else 1/(1 − rate), of the shape and type of ``images``.

    The rate is exact where it is a multiple of 1/256, which takes one random byte an element; any other is rounded to
    the nearest multiple of 1/65,536, which takes two. What is kept is scaled for the rounded rate, so the expectation
    is exact. torch's own mask takes a random number of 32 bits and a comparison in double precision an element.

    Args:
        draw: fills a tensor of 64-bit integers with random bits; torch's global random state if it is None.
    """
    size, kind, lowest = (1, torch.uint8, 0) if (rate * 256).is_integer() else (2, torch.int16, -(2**15))
    if has_torch_function_unary(images):
        drawn: Tensor = handle_torch_function(dropout_mask, (images,), images, rate)
        return drawn
    levels = 256**size
    dropped = round(rate * levels)
    if dropped == levels:
        return torch.zeros_like(images)
    count = images.numel()
    words = torch.empty((count * size + 7) // 8, dtype=torch.int64)
    words = words.random_(-(2**63), None) if draw is None else draw(words)
    mask = torch.ge(words.view(kind)[:count], lowest + dropped, out=images.new_empty(count))
    mask = mask.mul_(levels / (levels - dropped))
    return mask.view(len(images), *images.shape[2:], -1).movedim(-1, 1)  # as the images lie, channels last
