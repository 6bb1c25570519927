"""Imported by Ray's worker processes as they start, so that their first trial need not wait.

See `foldrace.search.tune.session`. Nothing in here may use CUDA: Ray imports this module before it
sets CUDA_VISIBLE_DEVICES.
"""

import torch

import foldrace.trainables.ray.trainable  # noqa: F401

_weight = torch.nn.Parameter(torch.zeros(1))
_weight.square().sum().backward()  # type: ignore[no-untyped-call]
torch.optim.Adam([_weight], fused=True).step()  # torch imports its compiler on the first step
