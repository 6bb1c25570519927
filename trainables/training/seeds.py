"""Random seeds that depend on what they are for, and on nothing else."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) from the names and numbers of what it is for, such as (sweep seed,
    fold, epoch, "train").

    The same on every machine and Python; two different tuples give unrelated seeds.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
