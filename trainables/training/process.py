"""What a process is told once, before it trains."""

from __future__ import annotations

import ctypes
from enum import StrEnum

import torch

__all__ = ["Precision", "prepare_process"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 2**30


class Precision(StrEnum):
    """What the products of a network are computed in; its weights are float32 throughout."""

    FLOAT32 = "float32"
    TF32 = "tf32"
    BFLOAT16 = "bfloat16"


def prepare_process(threads: int, precision: Precision = Precision.FLOAT32) -> None:
    """Sets torch's CPU threads, a GPU's kernels (deterministic; of float32 or tf32), and an
    allocator that keeps what is freed.

    A training step frees and allocates the same few megabytes again and again. glibc would give
    them back to the system and get them again, page by page and each of them cleared: a quarter of
    the study's step.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = (
        precision is Precision.TF32
    )
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE - 1)
