"""What a trial imports, imported by Ray's worker processes as they start: see `search.ray_session`."""

import torch

import trainables.ray_trainable  # noqa: F401

_weight = torch.nn.Parameter(torch.zeros(1))
_weight.square().sum().backward()  # type: ignore[no-untyped-call]
torch.optim.Adam([_weight], fused=True).step()  # torch imports its compiler on the first step
