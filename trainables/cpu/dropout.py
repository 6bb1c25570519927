"""Dropout's random masks at the cost of 16 bits an element, many of which are drawn at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from foldrace.trainables.cpu.kernels import LEVELS, drop

__all__ = ["KEEP_ALL", "Draw", "draw", "dropout_mask"]


class Draw(NamedTuple):
    """A mask that has been drawn, in short.

    Attributes:
        seed: of its random numbers.
        dropped: an element is dropped with a probability of ``dropped`` / `LEVELS`.
        factor: what the kept ones are multiplied by.
    """

    seed: np.uint64
    dropped: int
    factor: float


KEEP_ALL = Draw(np.uint64(0), 0, 1.0)


def draw(rate: float, generator: torch.Generator | None = None) -> Draw:
    """Draws a mask of zeros with probability ``rate``, which is rounded to a multiple of 1/65536;
    the factor is for the rounded rate, so that the expectation is exact.

    torch's own mask takes a random number of 32 bits and a comparison in double precision an
    element.

    Args:
        generator: what the mask is drawn from; torch's global one if it is None.
    """
    seed = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=generator))
    dropped = round(rate * LEVELS)
    return Draw(
        np.uint64(seed % 2**64), dropped, LEVELS / (LEVELS - dropped) if dropped < LEVELS else 0.0
    )


def dropout_mask(images: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Zeros with probability ``rate`` and else 1/(1 − rate), of the shape and type of ``images``:
    see `draw`."""
    if has_torch_function_unary(images):
        drawn: Tensor = handle_torch_function(dropout_mask, (images,), images, rate)
        return drawn
    exact = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    mask = torch.ones(len(images), images[0].numel(), dtype=exact)
    drop(mask.numpy(), *draw(rate, generator))
    return mask.to(images.dtype).view(len(images), *images.shape[2:], -1).movedim(-1, 1)
