"""Which samples train and which validate in each fold.

The splits are the same for every trial, so that the fold scores of two trials are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import InputError

__all__ = ["FoldKind", "FoldPlan", "Split"]

Indices = NDArray[np.int64]


class FoldKind(StrEnum):
    """scikit-learn's splitters of these names, and single holdouts."""

    KFOLD = "kfold"
    STRATIFIED = "stratified"
    GROUP = "group"
    STRATIFIED_GROUP = "stratified_group"
    LEAVE_ONE_GROUP_OUT = "leave_one_group_out"
    REPEATED = "repeated"
    TIME_SERIES = "time_series"
    PREDEFINED = "predefined"
    HOLDOUT = "holdout"
    GROUP_HOLDOUT = "group_holdout"


_NEEDS = {
    FoldKind.STRATIFIED: ("labels",),
    FoldKind.GROUP: ("groups",),
    FoldKind.STRATIFIED_GROUP: ("labels", "groups"),
    FoldKind.LEAVE_ONE_GROUP_OUT: ("groups",),
    FoldKind.TIME_SERIES: ("time",),
    FoldKind.PREDEFINED: ("split",),
    FoldKind.GROUP_HOLDOUT: ("groups",),
}
_SINGLE = (FoldKind.HOLDOUT, FoldKind.GROUP_HOLDOUT)
_KEEPS_GROUPS = (
    FoldKind.GROUP,
    FoldKind.STRATIFIED_GROUP,
    FoldKind.LEAVE_ONE_GROUP_OUT,
    FoldKind.GROUP_HOLDOUT,
)
_ROLE, _NAMED = {"labels": "target"}, {"labels": "classes"}


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
        splits: K of a K-fold split, in [2, n]; a holdout ignores it. Of predefined folds and of
            one fold per group it must be their number.
        shuffle: whether the samples are shuffled before they are split; groups that are not
            shuffled make folds of equal size.
        seed: seed of the shuffling.
        repeats: how often a K-fold split is redrawn; it has splits × repeats folds.
        fraction: share of the samples, or of the groups, that a holdout validates on, in (0, 1).
        gap: samples in time between the training and the validation side.
        max_train: the most samples in time that train; None: all earlier ones.
        labels: (n,) classes.
        groups: (n,) group numbers. A group is never on both sides of a split by groups.
        time: (n,) when each sample was taken.
        split_numbers: (n,) the number of the fold that validates on each sample; -1: none.
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
    repeats: int = 1
    fraction: float = 0.2
    labels: Indices | None = field(default=None, repr=False)
    groups: Indices | None = field(default=None, repr=False)
    seeds: int = 1
    gap: int = 0
    max_train: int | None = None
    time: NDArray[Any] | None = field(default=None, repr=False)
    split_numbers: Indices | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in _NEEDS.get(self.kind, ()):
            if self._array(name) is None:
                rule = f"needs {_NAMED.get(name, name)}, and the data set has none"
                hint = f"name the field: dataset: {{…, {_ROLE.get(name, name)}: …}}"
                raise InputError("folds.kind", self.kind.value, rule, hint)
        if self.kind in _SINGLE:
            self._check_holdout()
            return
        if self.splits < 2:
            rule, hint = "must be at least 2", "use kind: holdout for a single split"
            raise InputError("folds.splits", self.splits, rule, hint)
        if self.repeats > 1 and not self.shuffle:
            rule = "repeats the same folds without shuffling"
            raise InputError("folds.repeats", self.repeats, rule, "write shuffle: true")
        if self.splits > self.n:
            rule = f"more splits than the {self.n} training samples"
            raise InputError("folds.splits", self.splits, rule)
        self._check_counts()

    def _array(self, name: str) -> NDArray[Any] | None:
        array: NDArray[Any] | None = getattr(self, "split_numbers" if name == "split" else name)
        return array

    def _distinct(self, name: str) -> int:
        """The number of classes or groups."""
        array = self._array(name)
        return 0 if array is None else len(np.unique(array))

    def _check_holdout(self) -> None:
        count, what = self.n, "samples"
        if self.kind is FoldKind.GROUP_HOLDOUT:
            count, what = self._distinct("groups"), "groups"
        if not 1 <= round(count * self.fraction) < count:
            rule = f"leaves a side of {count} {what} empty"
            raise InputError("folds.fraction", self.fraction, rule)

    def _check_counts(self) -> None:
        """Refuses more splits than there are classes, groups or moments for, or another number."""
        if self.kind in (FoldKind.STRATIFIED, FoldKind.STRATIFIED_GROUP):
            assert self.labels is not None
            rarest = int(np.unique(self.labels, return_counts=True)[1].min())
            if rarest < self.splits:
                rule = f"the rarest class has only {rarest} samples"
                raise InputError("folds.splits", self.splits, rule)
        if self.kind in (FoldKind.GROUP, FoldKind.STRATIFIED_GROUP):
            count = self._distinct("groups")
            if count < self.splits:
                raise InputError("folds.splits", self.splits, f"there are only {count} groups")
        exact = {FoldKind.LEAVE_ONE_GROUP_OUT: self.groups, FoldKind.PREDEFINED: self._numbers()}
        if (named := exact.get(self.kind)) is not None:
            count = len(np.unique(named))
            if count != self.splits:
                rule = f"must be the number of {'groups' if self.groups is named else 'folds'}"
                raise InputError("folds.splits", self.splits, rule, f"write splits: {count}")
        if self.kind is FoldKind.TIME_SERIES:
            size = self.n // (self.splits + 1)
            if self.n - self.gap - size * self.splits <= 0:
                rule = f"leaves nothing to train on before the first of {self.splits} folds"
                raise InputError(
                    "folds.gap", self.gap, rule, "take fewer splits, or a smaller gap"
                )
            for number, one in enumerate(self._split()):
                if not len(one.train):
                    rule = f"fold {number} has nothing to train on: it begins in the first moment"
                    hint = "take fewer splits, or a smaller gap"
                    raise InputError("folds.splits", self.splits, rule, hint)

    def _numbers(self) -> Indices | None:
        """The numbers of predefined folds of the samples that validate."""
        numbers = self.split_numbers
        return None if numbers is None else numbers[numbers >= 0]

    @property
    def folds(self) -> int:
        """The number of folds that `split` returns."""
        return (1 if self.kind in _SINGLE else self.splits * self.repeats) * self.seeds

    def split(self) -> Sequence[Split]:
        """All folds in order, repeated ``seeds`` times; a pure function of the plan."""
        return list(self._split()) * self.seeds

    def _split(self) -> Iterator[Split]:
        if self.kind is FoldKind.HOLDOUT:
            order = (
                np.random.default_rng(self.seed).permutation(self.n)
                if self.shuffle
                else np.arange(self.n)
            )
            cut = self.n - round(self.n * self.fraction)
            yield Split(np.sort(order[:cut]), np.sort(order[cut:]))
            return
        # the arrays that scikit-learn's splitters take; in the order of time, if that is the kind
        order = np.arange(self.n)
        if self.kind is FoldKind.TIME_SERIES:
            order = np.argsort(np.asarray(self.time), kind="stable")
        random = np.random.RandomState(self.seed)
        for _ in range(self.repeats):
            pairs = self._splitter(random).split(
                np.zeros(self.n),
                self.labels,
                self.groups if self.kind in _KEEPS_GROUPS else None,
            )
            for train, validation in pairs:
                before, after = np.sort(order[train]), np.sort(order[validation])
                if self.kind is FoldKind.TIME_SERIES:  # a moment is not on both sides
                    time = np.asarray(self.time)
                    before = before[time[before] < time[after].min()]
                yield Split(before.astype(np.int64), after.astype(np.int64))

    def _splitter(self, random: np.random.RandomState) -> Any:
        from sklearn import model_selection as skl

        drawn = {"shuffle": self.shuffle, "random_state": random if self.shuffle else None}
        match self.kind:
            case FoldKind.STRATIFIED:
                return skl.StratifiedKFold(self.splits, **drawn)
            case FoldKind.GROUP:
                return skl.GroupKFold(self.splits, **drawn)
            case FoldKind.STRATIFIED_GROUP:
                return skl.StratifiedGroupKFold(self.splits, **drawn)
            case FoldKind.LEAVE_ONE_GROUP_OUT:
                return skl.LeaveOneGroupOut()
            case FoldKind.PREDEFINED:
                return skl.PredefinedSplit(self.split_numbers)
            case FoldKind.TIME_SERIES:
                return skl.TimeSeriesSplit(
                    self.splits, gap=self.gap, max_train_size=self.max_train
                )
            case FoldKind.GROUP_HOLDOUT:
                return skl.GroupShuffleSplit(1, test_size=self.fraction, random_state=random)
            case _:
                return skl.KFold(self.splits, **drawn)

    def leaks(self) -> list[str]:
        """How these folds may make scores too good, or a class impossible, a line each."""
        found, splits = [], list(self._split())
        if self.groups is not None and self.kind not in _KEEPS_GROUPS:
            divided = (
                np.intersect1d(self.groups[one.train], self.groups[one.validation]).size
                for one in splits
            )
            if any(divided):
                found.append(
                    f"the folds (kind: {self.kind}) divide groups, so what is learned of a group"
                    " helps in validation; kind: group keeps each whole"
                )
        if self.time is not None and any(
            self.time[one.train].max() >= self.time[one.validation].min() for one in splits
        ):
            found.append(
                f"the folds (kind: {self.kind}) train on samples that are later than those they"
                " validate on; kind: time_series does not"
            )
        if self.labels is not None and self.kind not in (
            FoldKind.STRATIFIED,
            FoldKind.STRATIFIED_GROUP,
        ):
            found += self._missing_classes(splits)
        return found

    def _missing_classes(self, splits: Sequence[Split]) -> Iterator[str]:
        assert self.labels is not None
        classes = np.unique(self.labels)
        if len(classes) > self.n // 2:  # numbers, not classes
            return
        for number, split in enumerate(splits):
            missing = np.setdiff1d(classes, self.labels[split.train])
            if len(missing):
                yield (
                    f"fold {number} trains on no sample of class {missing[0]}"
                    f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}; kind:"
                    " stratified keeps the classes' shares"
                )
                return
