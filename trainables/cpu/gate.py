"""Where the kernels of this folder may be used: only where everything is known to be plain.

They read memory directly. Whatever is not proven here to be plain is computed by torch's own
operations, so that its results, its errors and its transforms are torch's.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

# What torch has no public names for; the import fails if it is missing.
from torch._C import (
    _are_functorch_transforms_active,
    _dispatch_keys,
    _is_tracing,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

__all__ = ["is_plain", "is_torch_only", "is_unobserved", "torch_kernels"]

_torch_kernels: ContextVar[bool] = ContextVar("torch_kernels", default=False)


_TYPES = (Tensor, nn.Parameter)
_KERNEL_TYPES = (torch.float32, torch.float64)
_KEYS = _dispatch_keys(torch.empty(0)).raw_repr()
with torch.inference_mode():
    _INFERENCE_KEYS = _dispatch_keys(torch.empty(0)).raw_repr()


@contextmanager
def torch_kernels() -> Iterator[None]:
    """Within this block the layers use only torch's own kernels, which `torch.func` can batch."""
    token = _torch_kernels.set(True)
    try:
        yield
    finally:
        _torch_kernels.reset(token)


def is_torch_only() -> bool:
    """Whether this is a block of `torch_kernels`."""
    return _torch_kernels.get()


def is_plain(*tensors: Tensor | None, dtypes: Container[torch.dtype] = ()) -> bool:
    """Whether values are computed at once, and these are dense tensors with elements on the CPU.

    Args:
        tensors: None is plain.
        dtypes: the types allowed; empty: one type for all of them, float32 or float64, and no
            autocast to another.
    """
    # First: a compiler takes it for a constant, and looks no further.
    if torch.compiler.is_compiling() or _torch_kernels.get():
        return False
    if (
        _is_tracing()
        or _are_functorch_transforms_active()
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or forward_ad._current_level >= 0
    ):
        return False
    if not dtypes:
        first = tensors[0]
        if torch.is_autocast_enabled("cpu") or first is None:
            return False
        dtypes = (first.dtype,)
        if dtypes[0] not in _KERNEL_TYPES:
            return False
    inference = torch.is_inference_mode_enabled()
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in _TYPES or tensor.dtype not in dtypes or not tensor.numel():
            return False
        # Any other kind of tensor (sparse, nested, negated, on a device, …) has other keys.
        keys = _dispatch_keys(tensor).raw_repr()
        if keys != _KEYS and not (inference and keys == _INFERENCE_KEYS):
            return False
    return True


def is_unobserved(module: nn.Module) -> bool:
    """Whether nothing would notice that the module is not called: no hook, no other forward."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or module._compiled_call_impl is not None
        or "forward" in vars(module)
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
    )
