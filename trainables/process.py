"""What a process is told once, before it trains."""

from __future__ import annotations

import ctypes

import torch

__all__ = ["prepare_process"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGE = 2**30


def prepare_process(threads: int) -> None:
    """Sets torch's CPU threads, deterministic GPU kernels, and an allocator that keeps what is freed.

    A training step frees and allocates the same few megabytes again and again. glibc would give them back to the
    system and get them again, page by page and each of them cleared: a quarter of the study's step.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE - 1)
