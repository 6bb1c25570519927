"""Drop-in layers that train small convolutional networks faster on a CPU.

Each is a subclass of the layer of the same name in `torch.nn`, with its arguments, its parameters,
and, within rounding, its results (of dropout: its distribution, see
`foldrace.trainables.cpu.dropout`). What `foldrace.trainables.cpu.gate` does not know to be plain,
and arguments that they do not speed up, they leave to that layer: so its errors, hooks, transforms
and higher derivatives are torch's.

>>> model = Sequential(Conv2d(1, 8, 3, stride=2, padding=1), BatchNorm2d(8), nn.ReLU())
>>> model(torch.zeros(2, 1, 28, 28)).shape
torch.Size([2, 8, 14, 14])
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
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
from foldrace.trainables.cpu.gate import is_plain, is_torch_only, is_unobserved, torch_kernels
from foldrace.trainables.cpu.layout import has_channels_last, laid_out_like

__all__ = ["BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dropout", "Sequential", "torch_kernels"]

_PADDINGS = ((0, 0), (0, 1), (1, 0), (1, 1))
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class _Scriptable:
    """A layer that TorchScript compiles as torch's layer."""

    def __prepare_scriptable__(self) -> _Scriptable:
        kinds = type(self).__mro__
        if next(kind for kind in kinds if "forward" in vars(kind)).__module__ != __name__:
            return self
        plain = copy.copy(self)
        plain.__dict__["_modules"] = dict(self.__dict__["_modules"])  # which TorchScript changes
        plain.__class__ = next(kind for kind in kinds if kind.__module__.startswith("torch."))
        return plain


class Conv2d(_Scriptable, nn.Conv2d):
    """`torch.nn.Conv2d` with a faster gradient on a CPU, if kernel is 3×3 and stride 2."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        if not self.is_fast(input):
            return super().forward(input)
        return laid_out_like(input, self.convolve(input, self.bias))

    def is_fast(self, input: Tensor) -> bool:
        """Whether `convolve` may be called on this input."""
        shape = (self.out_channels, self.in_channels, KERNEL, KERNEL)
        if type(self) is not Conv2d or not _is_fast(self, input, shape, self.in_channels):
            return False
        padding: Sequence[Any] = self.padding
        sides = zip(input.shape[2:], padding, strict=True)
        return all(side + 2 * added >= KERNEL for side, added in sides)

    def convolve(self, images: Tensor, bias: Tensor | None) -> Tensor:
        """Like `forward`, but with this bias and the channels last; only if `is_fast`."""
        output: Tensor = StridedConvolution.apply(images, self.weight, bias, self.padding)
        return output


class ConvTranspose2d(_Scriptable, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, faster on a CPU if kernel is 3×3 and stride 2."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, H, W) → (B, out_channels, H', W')."""
        if output_size is not None or not self.is_fast(input):
            return super().forward(input, output_size)
        return laid_out_like(input, self.convolve(input, self.bias))

    def is_fast(self, input: Tensor) -> bool:
        """Whether `convolve` may be called on this input."""
        shape = (self.in_channels, self.out_channels, KERNEL, KERNEL)
        return (
            type(self) is ConvTranspose2d
            and self.output_padding in _PADDINGS
            and _is_fast(self, input, shape, self.out_channels)
        )

    def convolve(self, images: Tensor, bias: Tensor | None) -> Tensor:
        """Like `forward`, but with this bias and the channels last; only if `is_fast`."""
        output: Tensor = TransposedConvolution.apply(
            images, self.weight, bias, self.padding, self.output_padding
        )
        return output


def _is_fast(
    layer: nn.Conv2d | nn.ConvTranspose2d,
    images: Tensor,
    shape: tuple[int, ...],
    larger: int,
) -> bool:
    """Whether `foldrace.trainables.cpu.convolution` can compute this layer on these images.

    Args:
        shape: that the weight must have.
        larger: channels of the larger image.
    """
    # A weight that is computed when it is read, as by weight norm, is not among the parameters.
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    return (
        larger <= MAX_CHANNELS
        and layer.stride == (STRIDE, STRIDE)
        and layer.padding in _PADDINGS
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and weight is not None
        and is_plain(images, weight, bias)
        and images.dim() == 4
        and images.shape[1] == layer.in_channels
        and weight.shape == shape
        and weight.is_contiguous()
        and (bias is None or bias.shape == (layer.out_channels,))
    )


class BatchNorm2d(_Scriptable, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, faster and more exact in training on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        if not self.is_fast(input):
            return super().forward(input)
        return laid_out_like(input, self.normalize(input))

    def is_fast(self, input: Tensor) -> bool:
        """Whether `normalize` may be called on this input."""
        if type(self) is not BatchNorm2d or not self.training:
            return False
        parameters, buffers = self._parameters, self._buffers
        affine = [parameters.get("weight"), parameters.get("bias")]
        tracked = [buffers.get("running_mean"), buffers.get("running_var")]
        counted = buffers.get("num_batches_tracked")
        # Either every running value is there and kept, or there is none.
        running = {one is not None for one in (*tracked, counted)}
        return (
            running == {bool(self.track_running_stats)}
            and all(one is not None for one in affine)
            and is_plain(input, *affine, *tracked)
            and input.dim() == 4
            and input.numel() > input.shape[1]
            and all(
                one is None or (one.shape == (input.shape[1],) and one.is_contiguous())
                for one in affine + tracked
            )
            and type(self.eps) is float
            and self.eps > 0
            and (self.momentum is None or type(self.momentum) is float)
        )

    def normalize(
        self,
        images: Tensor,
        *,
        rectify: bool = False,
        dropout: float = 0.0,
        omitted_bias: Tensor | None = None,
        exposed: bool = True,
    ) -> Tensor:
        """Normalize a training batch (B, C, H, W), then optionally apply ReLU and dropout.

        Only if `is_fast`. The result has the channels last.

        Args:
            rectify: apply ReLU.
            dropout: the dropout rate; only with ``rectify``.
            omitted_bias: (C,), a bias that was not added to the images. It cancels in the result;
                the running mean takes it into account.
            exposed: the result may be overwritten by others.
        """
        mask = draw_mask(dropout) if dropout else KEEP_ALL
        output: Tensor
        output, mean, variance = NormalizedBatch.apply(
            images, self.weight, self.bias, omitted_bias, self.eps, rectify, mask, exposed
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


class Dropout(_Scriptable, nn.Dropout):
    """`torch.nn.Dropout`, with a cheaper mask on a CPU: see `foldrace.trainables.cpu.dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape with the batch first → the same."""
        if not self.is_fast() or not (is_torch_only() or is_plain(input, dtypes=_FLOATS)):
            return super().forward(input)
        if input.device.type != "cpu" or input.dim() < 2:
            return super().forward(input)
        return input * dropout_mask(input, self.p)

    def is_fast(self) -> bool:
        """Whether a mask is drawn, into a new tensor."""
        return type(self) is Dropout and self.training and 0 < self.p <= 1 and not self.inplace


_CARRIERS = (
    Conv2d,
    ConvTranspose2d,
    BatchNorm2d,
    Dropout,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
)
"""Modules for whose result the layout of the images does not matter."""


class Sequential(_Scriptable, nn.Sequential):
    """`torch.nn.Sequential` that fuses a convolution, batch norm, ReLU and dropout in a row.

    The bias of a convolution before a batch norm has no effect on a training batch. Its gradient
    is zero here, instead of rounding errors on which Adam would take steps.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last layer."""
        groups = _groups(tuple(self))
        fusible = [all(map(_is_carrier, group)) for group in groups]
        moved = False  # the images have the channels last, where torch's layers' had not
        for index, group in enumerate(groups):
            given, carried = input, index + 1 < len(groups) and fusible[index + 1]
            if fusible[index]:
                # Dropout that drops nothing returns what it is given.
                exposed = not carried or type(groups[index + 1][0]) is Dropout
                input, fast = _fused(group, given, exposed)
                moved = moved or (fast and not has_channels_last(given))
            else:
                input = _in_turn(group, given)
            if moved and not carried:
                input, moved = input.contiguous(), False
        return input


def _is_carrier(module: nn.Module) -> bool:
    """Whether a module may be given a layout of ours, and be computed with its neighbours."""
    attributes = vars(module)
    return (
        type(module) in _CARRIERS
        and not attributes.get("inplace", False)
        and 0 <= attributes.get("p", 0) <= 1
        and is_unobserved(module)
    )


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


def _fused(group: Sequence[nn.Module], images: Tensor, exposed: bool) -> tuple[Tensor, bool]:
    """Compute a group of `_groups`, fused where possible.

    Args:
        exposed: the result may be overwritten by others.

    Returns:
        The result, and whether any of it was computed here, with the channels last.
    """
    conv = group[0] if isinstance(group[0], Conv2d | ConvTranspose2d) else None
    rest = group[1:] if conv is not None else group
    norm = rest[0] if rest and isinstance(rest[0], BatchNorm2d) else None
    rate = next((one.p for one in rest if isinstance(one, Dropout) and one.is_fast()), 0.0)
    fast, omitted_bias = conv is not None and conv.is_fast(images), None
    if conv is not None and fast:
        omitted_bias = conv.bias if norm is not None and norm.training else None
        images = conv.convolve(images, conv.bias if omitted_bias is None else None)
    elif conv is not None:
        images = conv(images)
    if norm is not None and norm.is_fast(images):
        images = norm.normalize(
            images,
            rectify=len(rest) > 1,
            dropout=rate,
            omitted_bias=omitted_bias,
            exposed=exposed,
        )
        return images, True
    if omitted_bias is not None:
        images = images + omitted_bias.view(-1, 1, 1)
    if norm is None and len(rest) > 1 and rate and is_plain(images) and images.dim() == 4:
        # The output of a fast convolution is not saved for its gradient: it can be overwritten.
        in_place = fast and not exposed
        return RectifiedDropout.apply(images, draw_mask(rate), in_place, exposed), True
    return _in_turn(rest, images), fast


def _in_turn(modules: Sequence[nn.Module], images: Tensor) -> Tensor:
    for module in modules:
        images = module(images)
    return images
