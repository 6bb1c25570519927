"""Settings of the process that trains: threads, GPU kernels, memory allocator."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from foldrace.trainables.training.options import Precision

__all__ = ["prepare_process", "prepared_process"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_LARGE = 2**30


def prepare_process(threads: int, precision: Precision = Precision.FLOAT32) -> None:
    """Prepares this process for training.

    Sets the number of torch's CPU threads, deterministic GPU kernels in float32 or tf32, and a
    memory allocator that keeps freed memory.

    A training step frees and allocates the same few megabytes again and again. By default glibc
    returns them to the system and requests them again, page by page, each page cleared. That took
    a quarter of a step's time in the reference study.

    Args:
        threads: CPU threads, at least 1.
        precision: allows tf32 on a GPU. bfloat16 is a setting of each fold.
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


@contextmanager
def prepared_process(threads: int, precision: Precision = Precision.FLOAT32) -> Iterator[None]:
    """Within the block this process computes as a trial's worker does, to the bit.

    A sum over pixels depends on how many threads share it. So whatever trains or evaluates a
    trial outside its worker does it in such a block. After it, threads and kernels are as before.

    Args:
        threads, precision: as in `prepare_process`.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32
    prepare_process(threads, precision)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.allow_tf32, matmul.allow_tf32 = before[1:]
