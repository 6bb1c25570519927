"""Conversion of images to and from the channels-last memory layout.

On a CPU this layout is fast for convolutions and for sums over pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LAYOUT", "channel_sums", "channels_last", "images_of", "pixel_rows"]

LAYOUT = torch.channels_last


def channels_last(images: Tensor) -> Tensor:
    """(B, C, H, W) in any layout → the same images with the channels last."""
    images = images.contiguous(memory_format=LAYOUT)
    if images.shape[1] == 1:  # torch treats the strides of one channel as the other layout's
        images = images.as_strided(
            images.shape, (images[0].numel(), 1, images.shape[3], 1), images.storage_offset()
        )
    return images


def pixel_rows(images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W·C), one row per image; a view if the channels are last."""
    return channels_last(images).permute(0, 2, 3, 1).reshape(len(images), -1)


def images_of(rows: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `pixel_rows`: (B, H·W·C) → ``shape`` (B, C, H, W), a view."""
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def channel_sums(rows: Tensor, channels: int) -> Tensor:
    """(B, H·W·C) → (C,), the sums over batch and pixels in double precision.

    The sum over the batch is torch's, in the rows' own precision.
    """
    return rows.sum(0).view(-1, channels).sum(0, dtype=torch.float64)
