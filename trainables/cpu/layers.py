"""Drop-in layers with which small convolutional networks train faster on a CPU.

Each is a subclass of the layer of the same name in `torch.nn`: its parameters, its arguments, its
results within rounding (of dropout: its distribution, see `foldrace.trainables.cpu.dropout`). On a
GPU, and for what they are not made for, they are that layer. Activations lie in memory with the
channels last; tensors of any layout may come in.
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
    NARROW,
    STRIDE,
    StridedConvolution,
    TransposedConvolution,
)
from foldrace.trainables.cpu.dropout import KEEP_ALL, draw, dropout_mask
from foldrace.trainables.cpu.layout import channels_last

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout", "Sequential", "torch_kernels"]

_torch_kernels: ContextVar[bool] = ContextVar("torch_kernels", default=False)


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Within this block these layers compute with torch's own kernels alone, which `torch.func`
    can batch."""
    token = _torch_kernels.set(True)
    try:
        yield
    finally:
        _torch_kernels.reset(token)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`; where its kernel is 3×3 and its stride 2, its gradient is faster on a
    CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        return self.convolve(input, self.bias) if self.is_fast(input) else super().forward(input)

    def is_fast(self, input: Tensor) -> bool:
        """Whether `convolve` may be called on this input."""
        return _fast(self, input) and self.in_channels <= NARROW

    def convolve(self, images: Tensor, bias: Tensor | None) -> Tensor:
        """What `forward` does, with this bias."""
        output: Tensor = StridedConvolution.apply(
            channels_last(images), self.weight, bias, _pair(self.padding)
        )
        return output


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`; faster on a CPU where its kernel is 3×3 and its stride 2."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        if output_size is not None or not self.is_fast(input):
            return super().forward(input, output_size)
        return self.convolve(input, self.bias)

    def is_fast(self, input: Tensor) -> bool:
        """Whether `convolve` may be called on this input."""
        return _fast(self, input) and self.out_channels <= NARROW

    def convolve(self, images: Tensor, bias: Tensor | None) -> Tensor:
        """What `forward` does, with this bias."""
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
    """Whether these images through this layer are what `foldrace.trainables.cpu.convolution` is
    made for."""
    shape = layer.kernel_size == (KERNEL, KERNEL) and layer.stride == (STRIDE, STRIDE)
    plain = layer.dilation == (1, 1) and layer.groups == 1 and layer.padding_mode == "zeros"
    return (
        _here(images)
        and shape
        and plain
        and not isinstance(layer.padding, str)
        and max(_pair(layer.padding)) <= 1
    )


def _here(images: Tensor) -> bool:
    """Whether the kernels below may compute on these images."""
    # an exported network is of torch's operations alone
    if (
        torch.compiler.is_compiling()
        or _torch_kernels.get()
        or torch.is_autocast_enabled(images.device.type)
    ):
        return False
    return (
        images.device.type == "cpu"
        and images.dim() == 4
        and images.dtype in (torch.float32, torch.float64)
    )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`; while it trains on a CPU, faster and more exact with the channels
    last."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return self.normalize(input) if self.is_fast(input) else super().forward(input)

    def is_fast(self, input: Tensor) -> bool:
        """Whether `normalize` may be called on this input."""
        return self.training and self.affine and _here(input) and input.numel() > input.shape[1]

    def normalize(
        self,
        images: Tensor,
        *,
        rectify: bool = False,
        dropout: float = 0.0,
        left_out: Tensor | None = None,
    ) -> Tensor:
        """What this layer, then ReLU if it is to ``rectify``, and dropout at this rate make of a
        training batch.

        Args:
            left_out: a bias that the images are still to be given. It is subtracted again with
                their mean.
        """
        drawn = draw(dropout) if dropout else KEEP_ALL
        output: Tensor
        output, mean, variance = NormalizedBatch.apply(
            images, self.weight, self.bias, left_out, self.eps, rectify, drawn
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
            # not lerp_, which makes a NaN of what is infinite
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
    """`torch.nn.Sequential`, which computes together what follows one another: convolution, batch
    norm, ReLU, dropout.

    The bias of a convolution before a batch norm has no effect on a training batch. Its gradient
    is zero here, and not the rounding errors that Adam would take steps on.
    """

    def forward(self, input: Tensor) -> Tensor:
        """What comes out of the last of the layers."""
        for group in _groups(tuple(self)):
            input = group[0](input) if len(group) == 1 else _together(group, input)
        return input


def _groups(modules: Sequence[nn.Module]) -> Sequence[Sequence[nn.Module]]:
    """These modules in order, in groups that can be computed together: a batch norm, a ReLU and a
    dropout in either order, or both, and the convolution before them."""
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


def _together(group: Sequence[nn.Module], images: Tensor) -> Tensor:
    """A group of `_groups` of more than one, computed as one where that is possible."""
    # those who want to be told when a module is called are told
    if any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for module in group
    ):
        return _apart(group, images)
    conv, rest = (
        (group[0], group[1:]) if isinstance(group[0], Conv2d | ConvTranspose2d) else (None, group)
    )
    norm = rest[0] if isinstance(rest[0], BatchNorm2d) else None
    rate = next(
        (module.p for module in rest if isinstance(module, Dropout) and module.training), 0.0
    )
    ours, left_out = conv is not None and conv.is_fast(images), None
    if conv is not None and ours and norm is not None and norm.training and norm.affine:
        images, left_out = conv.convolve(images, None), conv.bias
    elif conv is not None:
        images = conv(images)
    if norm is not None and norm.is_fast(images):
        return norm.normalize(images, rectify=len(rest) > 1, dropout=rate, left_out=left_out)
    if norm is None and rate and _here(images):
        rectified: Tensor = RectifiedDropout.apply(images, draw(rate), ours)
        return rectified
    return _apart(rest, images)


def _apart(modules: Iterable[nn.Module], images: Tensor) -> Tensor:
    for module in modules:
        images = module(images)
    return images
