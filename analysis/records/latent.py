"""The codes of a refitted model, prepared for the report: finite, with labels from 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from foldrace.analysis.records.evidence import Evidence

__all__ = ["Latent", "latent_of", "why_no_codes"]


@dataclass(frozen=True)
class Latent:
    """Test images and their codes.

    Attributes:
        images: (N, C, H, W) uint8.
        codes: (N, D) float32, all finite.
        positions: (N,) indices of the images among the test images.
        labels: (N,) int64, indices into ``names``; None without labels, or for a single class.
        names: of the classes.
        fold_codes: (K, N, D) float32, all finite: codes of the same images by the best trial's
            fold models.
        left_out: how many images were left out since their code is not finite.
    """

    images: NDArray[np.uint8]
    codes: NDArray[np.float32]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]
    fold_codes: NDArray[np.float32]
    left_out: int = 0

    @property
    def dimension(self) -> int:
        return int(self.codes.shape[1])

    @cached_property
    def pixels(self) -> NDArray[np.float32]:
        """(N, C · H · W) in [0, 1]."""
        return np.asarray(self.images.reshape(len(self.images), -1) / np.float32(255), np.float32)

    @property
    def constant(self) -> bool:
        """Whether all images have the same code, within float32's precision."""
        return bool(np.allclose(self.codes, self.codes[:1], rtol=1e-6, atol=1e-9))


def why_no_codes(evidence: Evidence, refitted: bool) -> str | None:
    """Why there is nothing to report, in a sentence; None if there are codes.

    Args:
        refitted: whether the sweep has a completed refit.
    """
    if not refitted:
        return (
            "It needs the refitted model: `foldrace refit` trains the best trial on all training"
            " data and tests it once."
        )
    if "codes" not in evidence or "images" not in evidence:
        return (
            "The refit has no codes: the task has no method `encode`, or an earlier version made"
            " the refit."
        )
    codes = evidence["codes"]
    if not np.isfinite(codes).all(1).any():
        return f"None of the {len(codes):,} codes is finite: the model diverged."
    return None


def latent_of(evidence: Evidence) -> Latent:
    """The codes in the evidence of a refit, without images whose code is not finite."""
    codes = evidence["codes"]
    kept = np.flatnonzero(np.isfinite(codes).all(1))
    labels: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    if "labels" in evidence:
        values, labels = np.unique(evidence["labels"][kept], return_inverse=True)
        names = _names(
            values, evidence["class_names"].tolist() if "class_names" in evidence else []
        )
    folds = evidence.get("fold_codes", np.zeros((0, *codes.shape), np.float32))[:, kept]
    return Latent(
        images=evidence["images"][kept],
        codes=codes[kept],
        positions=kept.astype(np.int64),
        labels=labels.astype(np.int64) if labels is not None and len(names) > 1 else None,
        names=names if len(names) > 1 else (),
        fold_codes=folds[np.isfinite(folds).all((1, 2))],
        left_out=len(codes) - len(kept),
    )


def _names(values: NDArray[np.int64], given: Sequence[str]) -> tuple[str, ...]:
    """The name of each class; its number if it has none."""
    return tuple(
        given[value] if 0 <= value < len(given) else str(value) for value in values.tolist()
    )
