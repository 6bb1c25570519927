"""Folds are scikit-learn's, cover each sample once, and are the same in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import model_selection as skl

from foldrace.errors import InputError
from foldrace.trainables.training.splits import FoldKind, FoldPlan

N = 61
LABELS = np.random.default_rng(1).integers(0, 4, N)
GROUPS = np.random.default_rng(2).integers(0, 9, N)
TIME = np.random.default_rng(3).permutation(N) * 0.5
NUMBERS = np.random.default_rng(4).integers(-1, 4, N)


def plan(kind, **changes):
    known = {
        "stratified": {"labels": LABELS},
        "group": {"groups": GROUPS},
        "stratified_group": {"labels": LABELS, "groups": GROUPS},
        "leave_one_group_out": {"groups": GROUPS, "splits": len(np.unique(GROUPS))},
        "group_holdout": {"groups": GROUPS},
        "time_series": {"time": TIME},
        "predefined": {"split_numbers": NUMBERS, "splits": 4},
    }.get(kind, {})
    return FoldPlan(N, FoldKind(kind), **{**changes, **known})


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    ("kind", "shuffle", "reference"),
    [
        ("kfold", True, lambda seed: skl.KFold(4, shuffle=True, random_state=seed)),
        ("kfold", False, lambda seed: skl.KFold(4)),
        ("stratified", True, lambda seed: skl.StratifiedKFold(4, shuffle=True, random_state=seed)),
        ("stratified", False, lambda seed: skl.StratifiedKFold(4)),
        ("group", True, lambda seed: skl.GroupKFold(4, shuffle=True, random_state=seed)),
        ("group", False, lambda seed: skl.GroupKFold(4)),
        ("stratified_group", False, lambda seed: skl.StratifiedGroupKFold(4)),
        (
            "stratified_group",
            True,
            lambda seed: skl.StratifiedGroupKFold(4, shuffle=True, random_state=seed),
        ),
        ("leave_one_group_out", False, lambda seed: skl.LeaveOneGroupOut()),
        ("predefined", False, lambda seed: skl.PredefinedSplit(NUMBERS)),
        (
            "group_holdout",
            True,
            lambda seed: skl.GroupShuffleSplit(1, test_size=0.2, random_state=seed),
        ),
    ],
)
def test_each_kind_is_scikit_learns(kind, shuffle, reference, seed):
    ours = plan(kind, splits=4, shuffle=shuffle, seed=seed)
    groups = GROUPS if "group" in kind else None
    theirs = list(reference(seed).split(np.zeros(N), LABELS, groups))
    assert ours.folds == len(ours.split()) == len(theirs)
    for split, (train, validation) in zip(ours.split(), theirs, strict=True):
        np.testing.assert_array_equal(split.train, np.sort(train))
        np.testing.assert_array_equal(split.validation, np.sort(validation))
        assert split.train.dtype == split.validation.dtype == np.int64


@pytest.mark.parametrize(
    ("kind", "reference"),
    [("repeated", skl.RepeatedKFold), ("stratified", skl.RepeatedStratifiedKFold)],
)
def test_repeats_are_scikit_learns(kind, reference):
    ours = plan(kind, splits=4, seed=7, repeats=3)
    theirs = list(reference(n_splits=4, n_repeats=3, random_state=7).split(np.zeros(N), LABELS))
    assert ours.folds == len(ours.split()) == len(theirs) == 12
    for split, (train, validation) in zip(ours.split(), theirs, strict=True):
        np.testing.assert_array_equal(split.train, np.sort(train))
        np.testing.assert_array_equal(split.validation, np.sort(validation))


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("max_train", [None, 15])
def test_folds_in_time_are_scikit_learns_in_the_order_of_time(gap, max_train):
    ours = plan("time_series", splits=4, gap=gap, max_train=max_train)
    order = np.argsort(TIME)
    theirs = skl.TimeSeriesSplit(4, gap=gap, max_train_size=max_train).split(np.zeros(N))
    for split, (train, validation) in zip(ours.split(), theirs, strict=True):
        np.testing.assert_array_equal(split.train, np.sort(order[train]))
        np.testing.assert_array_equal(split.validation, np.sort(order[validation]))
        assert TIME[split.train].max() + 0.5 * gap < TIME[split.validation].min()
        assert len(split.train) <= (max_train or N)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(set(FoldKind) - {FoldKind.TIME_SERIES, FoldKind.PREDEFINED})),
    st.integers(2, 5),
    st.integers(0, 2**31),
    st.booleans(),
    st.integers(1, 3),
)
def test_sides_are_disjoint_and_cover_everything(kind, splits, seed, shuffle, repeats):
    if kind is FoldKind.LEAVE_ONE_GROUP_OUT or not shuffle:
        repeats = 1
    folds = plan(
        kind, splits=splits, seed=seed, shuffle=shuffle, repeats=repeats, fraction=0.3
    ).split()
    for split in folds:
        np.testing.assert_array_equal(
            np.sort(np.concatenate([split.train, split.validation])), np.arange(N)
        )
        assert (np.diff(split.train) > 0).all() and (np.diff(split.validation) > 0).all()
        if "group" in kind:
            assert not set(GROUPS[split.train]) & set(GROUPS[split.validation])
    if kind not in (FoldKind.HOLDOUT, FoldKind.GROUP_HOLDOUT):
        # every sample validates once in each repetition
        counts = np.bincount(np.concatenate([split.validation for split in folds]), minlength=N)
        assert (counts == repeats).all()


def test_what_the_data_do_not_allow_is_refused_with_the_way_out():
    for kind, says in (
        (
            "time_series",
            "folds.kind: time_series: needs time, and the data set has none; name the",
        ),
        ("stratified_group", "needs classes, and the data set has none; name the field: dataset:"),
        ("predefined", "needs split, and the data set has none"),
    ):
        with pytest.raises(InputError, match=says):
            FoldPlan(N, FoldKind(kind))
    with pytest.raises(InputError, match="must be the number of groups; write splits: 9"):
        FoldPlan(N, FoldKind.LEAVE_ONE_GROUP_OUT, splits=3, groups=GROUPS)
    with pytest.raises(InputError, match="must be the number of folds; write splits: 4"):
        FoldPlan(N, FoldKind.PREDEFINED, splits=3, split_numbers=NUMBERS)
    with pytest.raises(InputError, match="leaves nothing to train on before the first of 3"):
        FoldPlan(N, FoldKind.TIME_SERIES, gap=40, time=TIME)
    with pytest.raises(InputError, match="repeats the same folds without shuffling"):
        FoldPlan(N, splits=3, repeats=2, shuffle=False)


def test_leaks_are_named_and_only_where_there_are_some():
    whole = {"labels": LABELS, "groups": GROUPS, "time": TIME}
    leaks = FoldPlan(N, splits=3, **whole).leaks()
    assert [leak.partition(",")[0] for leak in leaks] == [
        "the folds (kind: kfold) divide groups",
        "the folds (kind: kfold) train on samples that are later than those they validate on;"
        " kind: time_series does not",
    ]
    assert not plan("group", splits=3).leaks() and not plan("stratified", splits=3).leaks()
    assert not plan("time_series", splits=3).leaks()
    rare = np.zeros(N, dtype=np.int64)
    rare[:20] = 1
    (leak,) = FoldPlan(N, splits=3, shuffle=False, labels=np.where(rare, 7, 0)).leaks()
    assert "fold 0 trains on no sample of class 7; kind: stratified" in leak
    assert not FoldPlan(N, splits=3, labels=np.where(rare, 7, 0)).leaks()  # shuffled: some in each
    apart = np.repeat([0, 1, 2], [21, 20, 20])
    (leak,) = FoldPlan(N, splits=3, shuffle=False, labels=apart).leaks()
    assert "fold 0 trains on no sample of class 0; kind: stratified" in leak


def test_a_group_is_never_on_both_sides():
    for split in plan("group", splits=3).split():
        assert not set(GROUPS[split.train]) & set(GROUPS[split.validation])


def test_stratified_folds_keep_the_shares_of_the_classes():
    share = np.bincount(LABELS) / N
    for split in plan("stratified", splits=3).split():
        assert (
            np.abs(np.bincount(LABELS[split.validation]) / len(split.validation) - share).max()
            < 0.05
        )


def test_repeats_are_redrawn():
    folds = plan("repeated", splits=3, repeats=2).split()
    assert len(folds) == 6
    assert {tuple(f.validation) for f in folds[:3]}.isdisjoint(
        {tuple(f.validation) for f in folds[3:]}
    )


def test_a_holdout_validates_on_its_fraction():
    for fraction, size in ((0.2, 12), (0.5, 30), (0.01, 1), (0.99, 60)):
        (split,) = plan("holdout", fraction=fraction).split()
        assert len(split.validation) == size
    (ordered,) = plan("holdout", fraction=0.2, shuffle=False).split()
    np.testing.assert_array_equal(ordered.validation, np.arange(49, 61))
    (shuffled,) = plan("holdout", fraction=0.2).split()
    assert set(shuffled.validation) != set(ordered.validation)
    assert plan("holdout").folds == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", sorted(FoldKind))
def test_labels_and_groups_play_no_part_where_the_kind_has_no_use_for_them(kind):
    alone = plan(kind)
    every = {"labels": LABELS, "groups": GROUPS, "time": TIME, "split_numbers": NUMBERS}
    known = FoldPlan(N, kind, splits=alone.splits, **every).split()
    for one, two in zip(known, alone.split(), strict=True):
        np.testing.assert_array_equal(one.validation, two.validation)


@pytest.mark.parametrize(
    "kind", ["kfold", "stratified", "group", "repeated", "holdout", "group_holdout"]
)
def test_another_seed_gives_other_folds(kind):
    one, two = (plan(kind, seed=seed).split() for seed in (0, 1))
    assert any(
        not np.array_equal(a.validation, b.validation) for a, b in zip(one, two, strict=True)
    )


DIGEST = """
import hashlib
import numpy as np
from foldrace.trainables.training.splits import FoldKind, FoldPlan

def digest():
    labels, groups = (np.random.default_rng(s).integers(0, k, 61) for s, k in ((1, 4), (2, 9)))
    text = hashlib.sha256()
    known = {"labels": labels, "groups": groups, "time": groups, "split_numbers": labels - 1}
    for kind in FoldKind:
        splits = len(np.unique(groups)) if kind == "leave_one_group_out" else 3
        for split in FoldPlan(61, kind, splits, seed=3, **known).split():
            text.update(split.train.tobytes() + b"|" + split.validation.tobytes())
    return text.hexdigest()
"""


def test_folds_are_the_same_every_time_and_in_a_fresh_process():
    here: dict[str, object] = {"hashlib": hashlib}
    exec(DIGEST, here)
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    fresh = subprocess.run(
        [sys.executable, "-c", DIGEST + "print(digest())"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    first = here["digest"]()
    np.random.random(5)  # numpy's global state plays no part
    assert first == here["digest"]() == fresh.stdout.strip()


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        (
            {"splits": 1},
            "folds.splits",
            "must be at least 2; use kind: holdout for a single split",
        ),
        ({"splits": 0}, "folds.splits", "must be at least 2"),
        ({"splits": 11}, "folds.splits", "more splits than the 10 training samples"),
        (
            {"kind": FoldKind.STRATIFIED},
            "folds.kind",
            "stratified: needs classes, and the data set has none",
        ),
        ({"kind": FoldKind.GROUP}, "folds.kind", "group: needs groups, and the data set has none"),
        (
            {"kind": FoldKind.STRATIFIED, "labels": np.array([0] * 8 + [1] * 2)},
            "folds.splits",
            "3: the rarest class has only 2 samples",
        ),
        (
            {"kind": FoldKind.GROUP, "groups": np.array([4] * 5 + [9] * 5)},
            "folds.splits",
            "3: there are only 2 groups",
        ),
        (
            {"kind": FoldKind.HOLDOUT, "fraction": 0.01},
            "folds.fraction",
            "0.01: leaves a side of 10 samples empty",
        ),
        (
            {"kind": FoldKind.HOLDOUT, "fraction": 0.99},
            "folds.fraction",
            "0.99: leaves a side of 10 samples empty",
        ),
    ],
)
def test_a_plan_the_samples_do_not_allow_is_refused(changes, field, rule):
    with pytest.raises(InputError, match=rule) as caught:
        FoldPlan(10, **changes)
    assert caught.value.field == field


def test_the_largest_plan_the_samples_allow_is_not_refused():
    assert len(FoldPlan(10, splits=10).split()) == 10
    labels = np.array([0] * 7 + [1] * 3)
    assert len(FoldPlan(10, FoldKind.STRATIFIED, splits=3, labels=labels).split()) == 3
    assert len(FoldPlan(10, FoldKind.GROUP, splits=2, groups=labels).split()) == 2


def test_a_moment_is_never_on_both_sides_of_folds_in_time():
    time = np.repeat([0, 1, 2, 3], 5)
    folds = FoldPlan(20, FoldKind("time_series"), splits=2, time=time)
    for fold in folds.split():
        assert time[fold.train].max() < time[fold.validation].min() and len(fold.train)
    assert not folds.leaks()
    with pytest.raises(InputError, match="fold 0 has nothing to train on"):
        FoldPlan(12, FoldKind("time_series"), splits=3, time=np.repeat([0, 1], 6))


@pytest.mark.parametrize("kind", ["kfold", "holdout"])
def test_folds_that_are_not_shuffled_are_asked_for_their_times_too(kind):
    late_first = FoldPlan(12, FoldKind(kind), shuffle=False, time=np.arange(12)[::-1])
    assert "train on samples that are later" in late_first.leaks()[0]
    in_order = FoldPlan(12, FoldKind("holdout"), shuffle=False, time=np.arange(12))
    assert not in_order.leaks()
