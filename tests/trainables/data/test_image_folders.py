"""Folders of images as data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.datasets import load_dataset


def put(path: Path, value: int, mode: str = "L", size: tuple[int, int] = (5, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(
        mode, size, value if mode in ("L", "I", "I;16") else (value, 0, 0)[: len(mode)]
    ).save(path)


def load(root: Path, **options: Any) -> Dataset:
    return load_dataset(str(root), data_dir=root / "unused", **options)


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(root, **options)
    return str(caught.value)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for label, base in (("dog", 100), ("cat", 0)):
        for i in range(10):
            put(tmp_path / "train" / label / f"{i:02}.png", base + i)
    for label, base in (("cat", 50), ("dog", 150)):
        put(tmp_path / "test" / label / "0.png", base)
    return tmp_path


def test_class_folders_give_labels_in_sorted_order(classes):
    data = load(classes)
    assert data.class_names == ("cat", "dog") and data.sample_shape == (1, 6, 5)
    assert data.images[:, 0, 0, 0].tolist() == [*range(10), *range(100, 110)]
    assert data.labels is not None and data.labels.tolist() == [0] * 10 + [1] * 10
    assert data.test_images[:, 0, 0, 0].tolist() == [50, 150]
    assert data.test_labels is not None and data.test_labels.tolist() == [0, 1]


def test_a_flat_folder_has_no_labels_and_a_held_out_tenth(tmp_path):
    for i in range(20):
        put(tmp_path / f"{i:02}.png", i)
    data = load(tmp_path)
    assert data.labels is None and data.test_labels is None and data.class_names == ()
    assert (len(data), len(data.test_images)) == (18, 2)
    assert (np.diff(data.images[:, 0, 0, 0].astype(int)) > 0).all()


def test_deeper_folders_belong_to_their_class_and_others_are_ignored(classes):
    before = load(classes).digest
    (classes / "train" / "cat" / "notes.txt").write_text("not an image")
    (classes / "train" / "empty").mkdir()
    put(classes / "train" / "cat" / ".thumbnails" / "0.png", 9)
    put(classes / "train" / "cat" / "._00.png", 9)
    assert load(classes).digest == before
    put(classes / "train" / "cat" / "older" / "1.png", 77)
    data = load(classes)
    assert data.labels is not None and data.labels.tolist().count(0) == 11


def test_a_class_folder_may_be_a_link_and_hidden_folders_are_left_out(classes, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mice"
    put(elsewhere / "0.png", 30)
    (classes / "train" / "mouse").symlink_to(elsewhere)
    put(classes / "train" / ".cache" / "0.png", 9)
    put(classes / ".cache" / "0.png", 9)
    data = load(classes)
    assert data.class_names == ("cat", "dog", "mouse")
    assert data.labels is not None and data.labels.tolist() == [0] * 10 + [1] * 10 + [2]


def test_one_coloured_image_makes_all_of_them_rgb(classes):
    put(classes / "test" / "dog" / "1.png", 200, "RGBA")
    data = load(classes)
    assert data.sample_shape == (3, 6, 5)
    assert (data.images[3] == 3).all()
    assert data.test_images[-1, :, 0, 0].tolist() == [200, 0, 0]


def test_images_of_different_sizes_need_a_size(classes):
    put(classes / "train" / "dog" / "05.png", 105, size=(7, 9))
    message = refusal(classes)
    assert "05.png" in message and "7×9" in message and "5×6" in message and "size" in message
    data = load(classes, size=(4, 3))
    assert data.sample_shape == (1, 4, 3) and (data.images[15] == 105).all()


def test_a_broken_file_is_named(classes):
    whole = (classes / "train" / "cat" / "03.png").read_bytes()
    (classes / "train" / "cat" / "03.png").write_bytes(whole[: len(whole) // 2])
    assert "03.png: cannot be read as an image" in refusal(classes)
    (classes / "train" / "cat" / "03.png").write_text("no image")
    assert "03.png: cannot be read as an image" in refusal(classes)


def test_sixteen_bits_are_refused_rather_than_clipped(classes):
    put(classes / "train" / "cat" / "03.png", 3000, "I;16")
    assert "03.png" in refusal(classes) and "8 bits" in refusal(classes)


def test_an_ambiguous_folder_is_refused(classes, tmp_path):
    put(classes / "train" / "loose.png", 1)
    assert "beside its class folders" in refusal(classes) and "loose.png" in refusal(classes)
    (classes / "train" / "loose.png").unlink()
    put(classes / "val" / "cat" / "1.png", 1)
    assert "outside train/ and test/: val" in refusal(classes)
    (classes / "val" / "cat" / "1.png").unlink()
    put(classes / "test" / "mouse" / "1.png", 1)
    assert "class mouse that train/ does not have" in refusal(classes)


def test_no_images_or_no_training_part(tmp_path):
    assert "no images in" in refusal(tmp_path)
    put(tmp_path / "test" / "1.png", 1)
    assert "no train/" in refusal(tmp_path)
