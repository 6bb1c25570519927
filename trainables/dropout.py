"""Dropout's random masks at the cost of a byte or a bit an element."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

__all__ = ["dropout_mask", "keep_mask"]

_LEVELS = 256
_BITS = torch.tensor([[1], [2], [4], [8], [16], [32], [64], [128]], dtype=torch.uint8)


def dropout_mask(images: Tensor, rate: float, generator: torch.Generator | None = None) -> Tensor:
    """Zeros with probability ``rate`` and else 1/(1 − rate), of the shape and type of ``images``: see `keep_mask`."""
    if has_torch_function_unary(images):
        drawn: Tensor = handle_torch_function(dropout_mask, (images,), images, rate)
        return drawn
    mask, scale = keep_mask(images, rate, generator)
    return mask.mul_(scale).view(len(images), *images.shape[2:], -1).movedim(-1, 1)


def keep_mask(images: Tensor, rate: float, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
    """Zeros with probability ``rate`` and else ones, and what they are to be multiplied by.

    torch's own mask takes a random number of 32 bits and a comparison in double precision an element. This one takes a
    random byte, or at a rate of 1/2 a bit. A rate that is no multiple of 1/256 is rounded for a whole mask, up or down
    by chance so that it is met on average over masks; the factor is for the rounded rate, so that the expectation is
    exact in every mask.

    Args:
        images: (B, C, …), of whose type the mask is.
        generator: what the mask is drawn from; torch's global one if it is None.

    Returns:
        The mask, (B, …·C) as the images lie with the channels last; the factor.
    """
    count, each = images.numel(), 1 if rate == 0.5 else 8
    words = torch.empty(count * each // 64 + 2, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    drawn, mask = words.view(torch.uint8), images.new_empty(count)
    if rate == 0.5:
        planes = drawn[: (count + 7) // 8] & _BITS
        return torch.ne(planes.view(-1)[:count], 0, out=mask).view(len(images), -1), 2.0
    dropped, part = divmod(rate * _LEVELS, 1.0)
    if part and int(words[-1]) % 2**32 < part * 2**32:
        dropped += 1
    if dropped == _LEVELS:
        return mask.zero_().view(len(images), -1), 0.0
    return torch.ge(drawn[:count], dropped, out=mask).view(len(images), -1), _LEVELS / (_LEVELS - dropped)
