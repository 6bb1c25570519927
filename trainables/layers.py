"""Drop-in layers with which small convolutional networks train faster on a CPU.

Each is a subclass of the layer of the same name in `torch.nn`: its parameters, its arguments, its results within
rounding (of dropout: its distribution, see `trainables.dropout`). On a GPU, and for what they are not made for, they
are that layer. Activations lie in memory with the channels last; tensors of any layout may come in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from trainables.dropout import dropout_mask, keep_mask
from trainables.layout import channels_last
from trainables.normalized import NormalizedBatch, RectifiedDropout
from trainables.strided import KERNEL, NARROW, STRIDE, StridedConvolution, TransposedConvolution

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout", "Sequential", "torch_kernels"]

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
        if not (_fast(self, input) and self.in_channels <= NARROW):
            return super().forward(input)
        output: Tensor = StridedConvolution.apply(channels_last(input), self.weight, self.bias, _pair(self.padding))
        return output


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`; faster on a CPU where its kernel is 3×3 and its stride 2."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        if output_size is not None or not (_fast(self, input) and self.out_channels <= NARROW):
            return super().forward(input, output_size)
        padding = _pair(self.padding)
        height, width = (
            (side - 1) * STRIDE - 2 * pad + KERNEL + extra
            for side, pad, extra in zip(input.shape[2:], padding, _pair(self.output_padding), strict=True)
        )
        output: Tensor = TransposedConvolution.apply(
            channels_last(input), self.weight, self.bias, padding, (height, width)
        )
        return output


def _fast(layer: nn.Conv2d | nn.ConvTranspose2d, images: Tensor) -> bool:
    """Whether these images through this layer are what `_transpose` is made for."""
    shape = layer.kernel_size == (KERNEL, KERNEL) and layer.stride == (STRIDE, STRIDE)
    plain = layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
    return _here(images) and shape and plain and not isinstance(layer.padding, str) and max(_pair(layer.padding)) <= 1


def _here(images: Tensor) -> bool:
    """Whether the kernels below may compute on these images."""
    # an exported network is of torch's operations alone
    if torch.compiler.is_compiling() or _torch_kernels.get() or torch.is_autocast_enabled(images.device.type):
        return False
    return images.device.type == "cpu" and images.dim() == 4


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`; while it trains on a CPU, faster and more exact with the channels last."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return self.normalize(input) if self.is_fast(input) else super().forward(input)

    def is_fast(self, input: Tensor) -> bool:
        """Whether `normalize` may be called on this input."""
        return self.training and self.affine and _here(input) and input.numel() > input.shape[1]

    def normalize(self, images: Tensor, *, rectify: bool = False, dropout: float = 0.0) -> Tensor:
        """What this layer, then ReLU if it is to ``rectify``, and dropout at this rate make of a training batch."""
        mask, factor = keep_mask(images, dropout) if dropout else (None, 1.0)
        output: Tensor
        output, mean, variance = NormalizedBatch.apply(images, self.weight, self.bias, self.eps, rectify, mask, factor)
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            step = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            count = images.numel() / images.shape[1]
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), step)
            self.running_var.lerp_(variance.mul_(count / (count - 1)).to(self.running_var.dtype), step)
        return output


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with a cheaper mask on a CPU: see `keep_mask`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape with the batch first → the same."""
        if not self.training or self.p == 0.0 or input.device.type != "cpu" or input.dim() < 2:
            return super().forward(input)
        return input * dropout_mask(input, self.p)


class Sequential(nn.Sequential):
    """`torch.nn.Sequential`, which computes together what follows one another: batch norm, ReLU and dropout."""

    def forward(self, input: Tensor) -> Tensor:
        """What comes out of the last of the layers."""
        for group in _groups(tuple(self)):
            input = group[0](input) if len(group) == 1 else _together(group, input)
        return input


def _groups(modules: Sequence[nn.Module]) -> Sequence[Sequence[nn.Module]]:
    """These modules in order, in groups that can be computed together: a batch norm with its ReLU, a ReLU with a
    dropout before or after it, or all three."""
    groups, start = [], 0
    while start < len(modules):
        first = int(type(modules[start]) is BatchNorm2d)
        kinds = [type(module) for module in modules[start + first : start + first + 2]]
        count = 1
        if set(kinds) == {nn.ReLU, Dropout}:
            count = first + 2
        elif first and kinds[:1] == [nn.ReLU]:
            count = 2
        groups.append(modules[start : start + count])
        start += count
    return groups


def _together(group: Sequence[nn.Module], images: Tensor) -> Tensor:
    """A group of `_groups` of more than one, computed as one where that is possible."""
    norm = group[0] if isinstance(group[0], BatchNorm2d) else None
    rate = next((module.p for module in group if isinstance(module, Dropout) and module.training), 0.0)
    # those who want to be told when a module is called are told
    if not any(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in group):
        if norm is not None and norm.is_fast(images):
            return norm.normalize(images, rectify=True, dropout=rate)
        if norm is None and rate and _here(images):
            rectified: Tensor = RectifiedDropout.apply(images, *keep_mask(images, rate))
            return rectified
    for module in group:
        images = module(images)
    return images
