"""A trial's checkpoint: a file of tensors and plain containers, and its digest beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foldrace.errors import StateError, first_line

__all__ = [
    "CHECKPOINT_FILE",
    "load_checkpoint_file",
    "newest_checkpoints",
    "save_checkpoint_file",
]

CHECKPOINT_FILE = "trial.pt"


def save_checkpoint_file(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a trial's state, and its SHA-256 digest to a second file.

    Args:
        path: the file to write.
        state: tensors and plain containers only.
    """
    torch.save(state, path)
    # The digest comes last, so that a checkpoint that is only half written is recognised.
    _digest_file(path).write_text(_sha256(path))


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """Reads a trial's state onto the CPU.

    Only tensors and plain containers are read; a pickle of any other object is refused.

    Raises:
        StateError: the file is damaged or missing.
    """
    try:
        if _digest_file(path).read_text() != _sha256(path):
            raise ValueError("its digest differs")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state, dict):
            raise ValueError("it holds no trial")
    except Exception as error:  # torch, zipfile and pickle raise errors of many kinds
        raise StateError(
            f"{path}: this checkpoint is damaged and cannot be used: {first_line(error)}"
        ) from error
    return state


def newest_checkpoints(folder: Path) -> list[Path]:
    """A checkpoint's folder and the earlier ones beside it, from the newest to the oldest."""
    earlier = (path for path in folder.parent.glob("checkpoint_*") if path.name < folder.name)
    return [folder, *sorted(earlier, reverse=True)]


def _digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
