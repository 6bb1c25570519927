"""Imported by Ray's worker processes as they start, so that their first trial need not wait.

See `foldrace.search.tune.session`. It imports, and does nothing else: Ray runs it before it sets
CUDA_VISIBLE_DEVICES, which CUDA reads once, when it starts. A first backward pass, or a first step
of an optimizer, would start it.
"""

import torch._dynamo  # noqa: F401 - which torch imports on an optimizer's first step

import foldrace.trainables.ray.trainable  # noqa: F401
