"""Images in memory with the channels last, which suits the CPU's convolutions and the sums over
pixels alike."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LAYOUT", "channel_sums", "channels_last", "for_every_pixel", "images_of", "pixel_rows"]

LAYOUT = torch.channels_last


def channels_last(images: Tensor) -> Tensor:
    """(B, C, H, W) in any layout → the same in this one."""
    images = images.contiguous(memory_format=LAYOUT)
    if images.shape[1] == 1:  # torch takes the strides of a single channel for the other layout
        images = images.as_strided(
            images.shape, (images[0].numel(), 1, images.shape[3], 1), images.storage_offset()
        )
    return images


def pixel_rows(images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H·W·C), an image a row; a view if the channels are last."""
    return channels_last(images).permute(0, 2, 3, 1).reshape(len(images), -1)


def images_of(rows: Tensor, shape: torch.Size) -> Tensor:
    """The way back: (B, H·W·C) → ``shape`` (B, C, H, W), a view."""
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def channel_sums(rows: Tensor, channels: int) -> Tensor:
    """(B, H·W·C) → (C,) in double precision: over the batch in torch's cascade, the few that are
    left exactly."""
    return rows.sum(0).view(-1, channels).sum(0, dtype=torch.float64)


def for_every_pixel(values: Tensor, pixels: int) -> Tensor:
    """(…, C) → (…, H·W·C): a channel's value beside each of its pixels, so that all can go in long
    rows."""
    return values.unsqueeze(-2).expand(*values.shape[:-1], pixels, values.shape[-1]).flatten(-2)
