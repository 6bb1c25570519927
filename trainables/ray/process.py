"""Settings of the process that trains: threads, GPU kernels, memory allocator."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["prepare_process", "prepared_process"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_LARGE = 2**30


def prepare_process(threads: int, gpu: bool = False) -> None:
    """Prepares this process for training, before it uses a GPU.

    Sets the number of torch's CPU threads, deterministic GPU kernels in float32, and a memory
    allocator that keeps freed memory.

    A training step frees and allocates the same few megabytes again and again. By default glibc
    returns them to the system and requests them again, page by page, each page cleared. That took
    a quarter of a step's time in the reference study.

    Args:
        threads: CPU threads, at least 1.
        gpu: it trains on a GPU. An operation for which torch has no deterministic kernel warns.
    """
    torch.set_num_threads(threads)
    if gpu:
        # cuBLAS reads it when the process first uses it
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE)
    mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE - 1)


@contextmanager
def prepared_process(threads: int, gpu: bool = False) -> Iterator[None]:
    """Within the block this process computes as a trial's worker does, to the bit.

    A sum over pixels depends on how many threads share it. So whatever trains or evaluates a
    trial outside its worker does it in such a block. After it, threads and kernels are as before.

    Args:
        threads, gpu: as in `prepare_process`.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    own_threads = torch.get_num_threads()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    prepare_process(threads, gpu)
    try:
        yield
    finally:
        torch.set_num_threads(own_threads)
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
