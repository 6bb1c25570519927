"""Arrays of any type: what is read keeps its values, and what is refused says how to keep them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.conversion import parts_from, to_images
from foldrace.trainables.data.datasets import load_dataset

IMAGES = np.arange(20 * 4 * 4, dtype=np.uint16).reshape(20, 4, 4)


def load(tmp_path: Path, **arrays: Any) -> Dataset:
    np.savez(tmp_path / "mine.npz", **arrays)
    return load_dataset(str(tmp_path / "mine.npz"), data_dir=tmp_path)


def refusal(**values: Any) -> str:
    with pytest.raises(DataError) as caught:
        parts_from("mine", values, "a test")
    return str(caught.value)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES > 100,
        (IMAGES > 100).astype(np.int8),
        IMAGES // 4,
        (IMAGES // 4).astype(np.int64),
        IMAGES * 200,
        IMAGES.astype(">u2") * 12,
        IMAGES.astype(np.int16) * 100 - 16000,
        IMAGES.astype(np.int64) - 2**40,
        IMAGES.astype(np.float32),
        IMAGES.astype(np.float64) / 2,
        IMAGES.astype(np.float64) / 100 - 1,
        IMAGES.astype(np.float64) * 1e300,
        np.full((20, 4, 4), -0.1),
    ],
)
def test_the_hint_for_another_type_keeps_the_values(images):
    message = refusal(images=images)
    code = re.fullmatch(r".*; scale it, every part alike: (.*)", message)
    assert code is not None, message
    scaled = to_images("mine", "images", eval(code[1], {"images": images})).ravel().astype(int)
    order = np.argsort(images.ravel(), kind="stable")
    assert (np.diff(scaled[order]) >= 0).all()
    distinct = len(np.unique(images))
    assert len(np.unique(scaled)) >= min(distinct, 80)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_rounds_to_a_level_is_in_range(dtype):
    one = np.ones((20, 4, 4), dtype=dtype)
    above, below = np.nextafter(one, dtype(2)), np.nextafter(one * 0, dtype(-1))
    assert (to_images("mine", "images", above) == 255).all()
    assert (to_images("mine", "images", below) == 0).all()
    edge = np.full((20, 4, 4), np.nextafter(255.5 / 255, 0))
    assert (to_images("mine", "images", edge) == 255).all()


def test_a_value_out_of_range_is_shown_in_full():
    values = np.full((20, 4, 4), 1.0020001, dtype=np.float32)
    assert "it spans [1.0020001, 1.0020001]" in refusal(images=values)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_the_keys_of_medmnist_are_read(tmp_path, caplog, dtype):
    images = (IMAGES // 2).astype(np.uint8)
    data = load(
        tmp_path,
        train_images=images,
        train_labels=np.arange(20, dtype=dtype)[:, None] % 3,
        val_images=images[:5],
        val_labels=np.ones((5, 1), dtype=dtype),
        test_images=images[:4],
        test_labels=np.zeros((4, 1), dtype=dtype),
    )
    assert (len(data), len(data.test_images)) == (25, 4)
    assert data.labels is not None and data.test_labels is not None
    assert data.labels.tolist() == [*(i % 3 for i in range(20)), 1, 1, 1, 1, 1]
    assert data.test_labels.tolist() == [0] * 4
    assert "the 5 val_images join the training part" in caplog.text


@pytest.mark.parametrize("kind", ["U", "S", "O"])
def test_labels_may_be_texts(kind):
    labels = np.array(["dog", "cat"] * 10).astype(kind)
    values = {"images": IMAGES.astype(np.uint8), "labels": labels, "groups": labels}
    parts = parts_from("mine", values | {"test_images": IMAGES.astype(np.uint8)}, "a test")
    assert parts.names == {"labels": ("cat", "dog")}
    assert parts.arrays["labels"].tolist() == [1, 0] * 10
    assert parts.arrays["groups"].tolist() == [1, 0] * 10
    assert parts.test is not None and "labels" not in parts.test


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"labels": ["a"] * 20, "test_labels": ["b"] * 20}, "class b that the training part"),
        (
            {"labels": ["a"] * 20, "test_labels": [1] * 20},
            "labels and test_labels must all be text",
        ),
        ({"labels": [0.0] * 20}, "convert them: labels.astype('int64')"),
        ({"labels": [0.5] * 20}, "labels must be whole numbers or texts; it is float64"),
        ({"labels": [None, "a"] * 10}, "labels is an array of Python objects"),
        ({"val_images": IMAGES / 999, "labels": [0] * 20}, "labels of only one of the training"),
        ({"val_images": IMAGES / 999, "val_labels": [0] * 20}, "labels of only one of the train"),
        ({"val_images": IMAGES[:, :3] / 999}, "val_images (1, 3, 4)"),
        ({"val_labels": [0] * 20}, "holds val_labels but no val_images (or x_val)"),
        ({"train_images": IMAGES / 999}, "both images and train_images"),
    ],
)
def test_labels_and_parts_that_do_not_fit_are_refused(values, says):
    given = {"images": IMAGES / 999, "test_images": IMAGES / 999}
    assert says in refusal(**given | values)


def test_arrays_that_are_not_read_are_named(tmp_path, caplog):
    load(tmp_path, images=IMAGES.astype(np.uint8), lables=np.arange(20), notes=np.arange(3))
    assert "arrays that are not read (2): lables, notes" in caplog.text


def test_masks_of_zeros_and_ones_are_not_used_without_a_word(tmp_path, caplog):
    load(tmp_path, images=(IMAGES > 9).astype(np.uint8))
    assert "almost black: no value exceeds 1 of 255" in caplog.text
