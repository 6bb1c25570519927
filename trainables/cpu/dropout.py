"""Dropout masks that cost 16 random bits per element.

torch's own mask takes 32 random bits and a comparison in double precision per element.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from foldrace.trainables.cpu.kernels import LEVELS, Mask, drop

__all__ = ["KEEP_ALL", "draw_mask", "dropout_mask"]

KEEP_ALL = Mask(np.uint64(0), 0, 1.0)


def draw_mask(rate: float, generator: torch.Generator | None = None) -> Mask:
    """Draw a mask that is zero with probability ``rate``.

    The rate is rounded to a multiple of 1/65536. The factor belongs to the rounded rate, so that
    the expectation is exact.

    Args:
        rate: in [0, 1].
        generator: where the mask's seed is drawn from; None: torch's global generator.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=generator))
    dropped = round(rate * LEVELS)
    factor = LEVELS / (LEVELS - dropped) if dropped < LEVELS else 0.0
    return Mask(np.uint64(seed % 2**64), dropped, factor)


def dropout_mask(images: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """A mask of the shape and type of ``images``: 0 with probability ``rate``, else 1/(1 − rate).

    Args:
        images: any shape with the batch first.
        rate, generator: see `draw_mask`.
    """
    if has_torch_function_unary(images):
        drawn: Tensor = handle_torch_function(dropout_mask, (images,), images, rate)
        return drawn
    exact = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    mask = torch.ones(len(images), images[0].numel(), dtype=exact)
    drop(mask.numpy(), draw_mask(rate, generator))
    return mask.to(images.dtype).view(len(images), *images.shape[2:], -1).movedim(-1, 1)
