"""What a trial imports, imported by Ray's worker processes as they start: see
`foldrace.search.tune.session`."""

import torch

import foldrace.trainables.ray.trainable  # noqa: F401

_weight = torch.nn.Parameter(torch.zeros(1))
_weight.square().sum().backward()  # type: ignore[no-untyped-call]
torch.optim.Adam([_weight], fused=True).step()  # torch imports its compiler on the first step
