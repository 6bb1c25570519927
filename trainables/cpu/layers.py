"""Drop-in layers that train small convolutional networks faster on a CPU.

Each is a subclass of the layer of the same name in `torch.nn`, with its arguments, its parameters,
and, within rounding, its results (of dropout: its distribution, see
`foldrace.trainables.cpu.dropout`). On a GPU, and for arguments that they do not speed up, they are
that layer. Activations have the channels last in memory; tensors of any layout are accepted.

>>> model = Sequential(Conv2d(1, 8, 3, stride=2, padding=1), BatchNorm2d(8), nn.ReLU())
>>> model(torch.zeros(2, 1, 28, 28)).shape
torch.Size([2, 8, 14, 14])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from foldrace.trainables.cpu.batch_norm import NormalizedBatch, RectifiedDropout
from foldrace.trainables.cpu.convolution import (
    KERNEL,
    MAX_CHANNELS,
    STRIDE,
    StridedConvolution,
    TransposedConvolution,
)
from foldrace.trainables.cpu.dropout import KEEP_ALL, draw_mask, dropout_mask
from foldrace.trainables.cpu.layout import channels_last

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout", "Sequential", "torch_kernels"]

_torch_kernels: ContextVar[bool] = ContextVar("torch_kernels", default=False)


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Within this block the layers use only torch's own kernels, which `torch.func` can batch."""
    token = _torch_kernels.set(True)
    try:
        yield
    finally:
        _torch_kernels.reset(token)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` with a faster gradient on a CPU, if kernel is 3×3 and stride 2."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        return self.convolve(input, self.bias) if self.is_fast(input) else super().forward(input)

    def is_fast(self, input: Tensor) -> bool:
        """Whether `convolve` may be called on this input."""
        return _fast(self, input) and self.in_channels <= MAX_CHANNELS

    def convolve(self, images: Tensor, bias: Tensor | None) -> Tensor:
        """Like `forward`, but with this bias; only if `is_fast`."""
        output: Tensor = StridedConvolution.apply(
            channels_last(images), self.weight, bias, _pair(self.padding)
        )
        return output


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, faster on a CPU if kernel is 3×3 and stride 2."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        if output_size is not None or not self.is_fast(input):
            return super().forward(input, output_size)
        return self.convolve(input, self.bias)

    def is_fast(self, input: Tensor) -> bool:
        """Whether `convolve` may be called on this input."""
        return _fast(self, input) and self.out_channels <= MAX_CHANNELS

    def convolve(self, images: Tensor, bias: Tensor | None) -> Tensor:
        """Like `forward`, but with this bias; only if `is_fast`."""
        padding = _pair(self.padding)
        height, width = (
            (side - 1) * STRIDE - 2 * pad + KERNEL + extra
            for side, pad, extra in zip(
                images.shape[2:], padding, _pair(self.output_padding), strict=True
            )
        )
        output: Tensor = TransposedConvolution.apply(
            channels_last(images), self.weight, bias, padding, (height, width)
        )
        return output


def _fast(layer: nn.Conv2d | nn.ConvTranspose2d, images: Tensor) -> bool:
    """Whether `foldrace.trainables.cpu.convolution` can compute this layer on these images."""
    return (
        _on_cpu(images)
        and layer.kernel_size == (KERNEL, KERNEL)
        and layer.stride == (STRIDE, STRIDE)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and max(_pair(layer.padding)) <= 1
    )


def _on_cpu(images: Tensor) -> bool:
    """Whether the CPU kernels can be used for these images."""
    # An exported network must consist of torch's own operations.
    if torch.compiler.is_compiling() or _torch_kernels.get():
        return False
    return (
        images.device.type == "cpu"
        and images.dim() == 4
        and images.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, faster and more exact in training on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return self.normalize(input) if self.is_fast(input) else super().forward(input)

    def is_fast(self, input: Tensor) -> bool:
        """Whether `normalize` may be called on this input."""
        return self.training and self.affine and _on_cpu(input) and input.numel() > input.shape[1]

    def normalize(
        self,
        images: Tensor,
        *,
        rectify: bool = False,
        dropout: float = 0.0,
        omitted_bias: Tensor | None = None,
    ) -> Tensor:
        """Normalize a training batch (B, C, H, W), then optionally apply ReLU and dropout.

        Args:
            rectify: apply ReLU.
            dropout: the dropout rate; only with ``rectify``.
            omitted_bias: (C,), a bias that was not added to the images. It cancels in the result;
                the running mean takes it into account.
        """
        mask = draw_mask(dropout) if dropout else KEEP_ALL
        output: Tensor
        output, mean, variance = NormalizedBatch.apply(
            images, self.weight, self.bias, omitted_bias, self.eps, rectify, mask
        )
        if (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        ):
            self.num_batches_tracked.add_(1)
            step = (
                1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            )
            count = images.numel() / images.shape[1]
            # not lerp_, which turns an infinite value into NaN
            self.running_mean.mul_(1 - step).add_(mean, alpha=step)
            self.running_var.mul_(1 - step).add_(variance, alpha=step * count / (count - 1))
        return output


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with a cheaper mask on a CPU: see `foldrace.trainables.cpu.dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape with the batch first → the same."""
        if not self.training or self.p == 0.0 or input.device.type != "cpu" or input.dim() < 2:
            return super().forward(input)
        return input * dropout_mask(input, self.p)


class Sequential(nn.Sequential):
    """`torch.nn.Sequential` that fuses a convolution, batch norm, ReLU and dropout in a row.

    The bias of a convolution before a batch norm has no effect on a training batch. Its gradient
    is zero here, instead of rounding errors on which Adam would take steps.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last layer."""
        for group in _groups(tuple(self)):
            input = group[0](input) if len(group) == 1 else _fused(group, input)
        return input


def _groups(modules: Sequence[nn.Module]) -> Sequence[Sequence[nn.Module]]:
    """Divide the modules, in order, into groups that can be fused.

    A group is an optional convolution, then a batch norm, a ReLU and a dropout in either order, or
    both; or it is a single module.
    """
    groups, start = [], 0
    while start < len(modules):
        kinds = [type(module) for module in modules[start : start + 4]]
        first = int(kinds[0] in (Conv2d, ConvTranspose2d))
        norm = int(kinds[first : first + 1] == [BatchNorm2d])
        count = first + norm
        if set(kinds[count : count + 2]) == {nn.ReLU, Dropout}:
            count += 2
        elif norm and kinds[count : count + 1] == [nn.ReLU]:
            count += 1
        elif not norm:
            count = 1
        groups.append(modules[start : start + count])
        start += count
    return groups


def _fused(group: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Compute a group of `_groups` with more than one module, fused where possible."""
    # A hook must see its module called.
    if any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in group
    ):
        return _in_turn(group, images)
    conv = group[0] if isinstance(group[0], Conv2d | ConvTranspose2d) else None
    rest = group[1:] if conv is not None else group
    norm = rest[0] if isinstance(rest[0], BatchNorm2d) else None
    rate = next(
        (module.p for module in rest if isinstance(module, Dropout) and module.training), 0.0
    )
    # The output of a fast convolution is not saved for its gradient, so it can be overwritten.
    in_place, omitted_bias = conv is not None and conv.is_fast(images), None
    if conv is not None and in_place and norm is not None and norm.training and norm.affine:
        images, omitted_bias = conv.convolve(images, None), conv.bias
    elif conv is not None:
        images = conv(images)
    if norm is not None and norm.is_fast(images):
        rectify = len(rest) > 1
        return norm.normalize(images, rectify=rectify, dropout=rate, omitted_bias=omitted_bias)
    if norm is None and rate and _on_cpu(images):
        rectified: Tensor = RectifiedDropout.apply(images, draw_mask(rate), in_place)
        return rectified
    return _in_turn(rest, images)


def _in_turn(modules: Iterable[nn.Module], images: Tensor) -> Tensor:
    for module in modules:
        images = module(images)
    return images
