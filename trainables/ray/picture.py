"""A picture of a trial's reconstructions."""

from __future__ import annotations

import io

import torch
from torch.nn.functional import pad

__all__ = ["strip_png"]


def strip_png(
    originals: torch.Tensor, reconstructions: torch.Tensor, *, scale: int = 2, gap: int = 2
) -> bytes:
    """Draws originals above their reconstructions.

    Args:
        originals: (B, C, H, W) uint8. Of three or more channels the first three are red, green and
            blue; otherwise the first is grey.
        reconstructions: the same shape and type.
        scale: each pixel is drawn as scale × scale pixels.
        gap: white pixels between images, before scaling.

    Returns:
        A PNG file of 2 rows and B columns.
    """
    from PIL import Image

    batch, channels, height, width = originals.shape
    rows = torch.stack((originals, reconstructions))
    rows = rows[:, :, :3] if channels >= 3 else rows[:, :, :1].expand(-1, -1, 3, -1, -1)
    tiles = pad(rows, (0, gap, 0, gap), value=255).permute(0, 3, 1, 4, 2)
    canvas = tiles.reshape(2 * (height + gap), batch * (width + gap), 3)
    canvas = canvas[: 2 * height + gap, : batch * (width + gap) - gap]
    pixels = canvas.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
