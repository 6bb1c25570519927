"""Which samples train and which validate in each fold.

The splits are the same for every trial, so that the fold scores of two trials are paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import InputError

__all__ = ["FoldKind", "FoldPlan", "Split"]

Indices = NDArray[np.int64]


class FoldKind(StrEnum):
    """scikit-learn's splitters of these names, and a single holdout."""

    KFOLD = "kfold"
    STRATIFIED = "stratified"
    GROUP = "group"
    REPEATED = "repeated"
    HOLDOUT = "holdout"


@dataclass(frozen=True)
class Split:
    """One fold: sorted, disjoint positions of samples in the training part."""

    train: Indices
    validation: Indices


@dataclass(frozen=True)
class FoldPlan:
    """How the ``n`` samples of the training part are split into folds.

    Attributes:
        n: number of samples.
        kind: the splitter.
        splits: K of a K-fold split, in [2, n]; a holdout ignores it.
        shuffle: whether the samples are shuffled before they are split.
        seed: seed of the shuffling.
        repeats: how often a repeated K-fold is redrawn; it has splits × repeats folds.
        fraction: share of the samples that a holdout validates on, in (0, 1).
        labels: (n,) classes; required by ``stratified``.
        groups: (n,) group numbers; required by ``group``. A group is never on both sides of a
            split.
        seeds: how often the list of splits is repeated; each fold trains with a seed of its own.

    Raises:
        InputError: the samples do not allow this plan.

    >>> plan = FoldPlan(6, splits=3, shuffle=False)
    >>> plan.folds, plan.split()[1].validation.tolist()
    (3, [2, 3])
    """

    n: int
    kind: FoldKind = FoldKind.KFOLD
    splits: int = 3
    shuffle: bool = True
    seed: int = 0
    repeats: int = 2
    fraction: float = 0.2
    labels: Indices | None = field(default=None, repr=False)
    groups: Indices | None = field(default=None, repr=False)
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.kind is FoldKind.HOLDOUT:
            if not 1 <= round(self.n * self.fraction) < self.n:
                raise InputError(
                    "folds.fraction", self.fraction, f"leaves a side of {self.n} samples empty"
                )
            return
        if self.splits < 2:
            raise InputError(
                "folds.splits",
                self.splits,
                "must be at least 2",
                "use kind: holdout for a single split",
            )
        if self.splits > self.n:
            raise InputError(
                "folds.splits", self.splits, f"more splits than the {self.n} training samples"
            )
        if self.kind is FoldKind.STRATIFIED:
            self._check_classes(
                self.labels, "labels", "the rarest class has only {count} samples", rare=True
            )
        if self.kind is FoldKind.GROUP:
            self._check_classes(self.groups, "groups", "there are only {count} groups", rare=False)

    def _check_classes(self, values: Indices | None, name: str, rule: str, *, rare: bool) -> None:
        if values is None:
            raise InputError(
                "folds.kind", self.kind.value, f"needs {name}, and the data set has none"
            )
        _, counts = np.unique(values, return_counts=True)
        count = int(counts.min()) if rare else len(counts)
        if count < self.splits:
            raise InputError("folds.splits", self.splits, rule.format(count=count))

    @property
    def folds(self) -> int:
        """The number of folds that `split` returns."""
        if self.kind is FoldKind.HOLDOUT:
            return self.seeds
        return self.splits * (self.repeats if self.kind is FoldKind.REPEATED else 1) * self.seeds

    def split(self) -> Sequence[Split]:
        """All folds in order, repeated ``seeds`` times; a pure function of the plan."""
        return list(self._split()) * self.seeds

    def _split(self) -> Sequence[Split]:
        from sklearn import model_selection as skl

        seed = self.seed if self.shuffle else None
        if self.kind is FoldKind.HOLDOUT:
            order = (
                np.random.default_rng(self.seed).permutation(self.n)
                if self.shuffle
                else np.arange(self.n)
            )
            cut = self.n - round(self.n * self.fraction)
            return [Split(np.sort(order[:cut]), np.sort(order[cut:]))]
        if self.kind is FoldKind.REPEATED:
            splitter = skl.RepeatedKFold(
                n_splits=self.splits, n_repeats=self.repeats, random_state=self.seed
            )
        elif self.kind is FoldKind.STRATIFIED:
            splitter = skl.StratifiedKFold(self.splits, shuffle=self.shuffle, random_state=seed)
        elif self.kind is FoldKind.GROUP:
            splitter = skl.GroupKFold(self.splits, shuffle=self.shuffle, random_state=seed)
        else:
            splitter = skl.KFold(self.splits, shuffle=self.shuffle, random_state=seed)
        labels = self.labels if self.kind is FoldKind.STRATIFIED else None
        groups = self.groups if self.kind is FoldKind.GROUP else None
        pairs = splitter.split(np.zeros(self.n), labels, groups)
        return [
            Split(np.sort(train).astype(np.int64), np.sort(val).astype(np.int64))
            for train, val in pairs
        ]
