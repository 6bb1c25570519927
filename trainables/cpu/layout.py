"""Conversion of images to and from the channels-last memory layout.

On a CPU this layout is fast for convolutions and for sums over pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "LAYOUT",
    "channel_sums",
    "channels_last",
    "empty_images",
    "has_channels_last",
    "laid_out_like",
    "pixel_rows",
]

LAYOUT = torch.channels_last


def channels_last(images: Tensor) -> Tensor:
    """(B, C, H, W) in any layout → the same images with the channels last."""
    images = images.contiguous(memory_format=LAYOUT)
    if images.shape[1] == 1:  # torch treats the strides of one channel as the other layout's
        images = images.as_strided(
            images.shape, (images[0].numel(), 1, images.shape[3], 1), images.storage_offset()
        )
    return images


def has_channels_last(images: Tensor) -> bool:
    """Whether torch's layers would give results with the channels last for (B, C, H, W)."""
    *_, channels, height, width = images.shape
    return images.stride()[1:] == (1, width * channels, channels) and channels * height * width > 1


def laid_out_like(images: Tensor, result: Tensor) -> Tensor:
    """``result`` in the layout that torch's layers would give it for ``images``."""
    return result if has_channels_last(images) else result.contiguous()


def empty_images(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images of ``shape`` (B, C, H, W) with the channels last, not initialized."""
    return torch.empty(shape, dtype=like.dtype, memory_format=LAYOUT)


def pixel_rows(images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W·C), one row per image; a view if the channels are last."""
    return channels_last(images).permute(0, 2, 3, 1).reshape(len(images), -1)


def channel_sums(rows: Tensor, channels: int) -> Tensor:
    """(B, H·W·C) → (C,), the sums over batch and pixels in double precision.

    The sum over the batch is torch's, in the rows' own precision.
    """
    return rows.sum(0).view(-1, channels).sum(0, dtype=torch.float64)
