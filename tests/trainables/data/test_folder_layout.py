"""How a folder of images is understood: parts by their names, classes, folders around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from foldrace.trainables.data.parts import Part, part_named
from tests.trainables.data.test_image_folders import load, put, refusal


def fill(root: Path, *folders: str, count: int = 6) -> None:
    for base, folder in enumerate(folders):
        for i in range(count):
            put(root / folder / f"{i}.png", 20 * base + i + 20)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ("train training Train TRAIN trn trainset Training_Set seg_train", Part.TRAINING),
        (
            "train2017 train-images trainData train_data TrainImages imagesTr x_train",
            Part.TRAINING,
        ),
        ("test testing Testing TEST tst test_set images.test TestData imagesTs", Part.TEST),
        ("val valid validation Val VALIDATION valset val2017", Part.VALIDATION),
        ("trains contest interval protest training-shoes test_train set images 7", None),
    ],
)
def test_parts_are_known_by_any_common_name(names, part):
    assert {part_named(name) for name in names.split()} == {part}


@pytest.mark.parametrize("names", ["train test", "Training Testing", "TRAIN tests_set test"])
def test_folders_named_as_parts_are_parts_and_no_classes(tmp_path, names):
    train, *_, test = names.split()
    fill(tmp_path, f"{train}/cat", f"{train}/dog", f"{test}/cat", f"{test}/dog")
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert (len(data), len(data.test_images)) == (12, 12)
    assert set(data.images[:, 0, 0, 0]) & set(data.test_images[:, 0, 0, 0]) == set()


def test_a_validation_part_joins_the_training_part_and_is_named(tmp_path, caplog):
    fill(tmp_path, "train/a", "train/b", "test/a", "val/a", "val/b")
    data = load(tmp_path)
    assert (len(data), len(data.test_images)) == (24, 6)
    assert (
        data.labels is not None and data.labels.tolist() == [0] * 6 + [1] * 6 + [0] * 6 + [1] * 6
    )
    assert "validation images, which join the training part (12): val/a/0.png" in caplog.text
    put(tmp_path / "val" / "c" / "0.png", 3)
    assert load(tmp_path).class_names == ("a", "b", "c")


@pytest.mark.parametrize("wrapper", ["archive", "archive/data", "train set 1 (copy)/x"])
def test_a_single_folder_around_all_is_entered_and_named(tmp_path, caplog, wrapper):
    fill(tmp_path, f"{wrapper}/train/a", f"{wrapper}/train/b", f"{wrapper}/test/b")
    (tmp_path / "README.md").write_text("what this is")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._0.png").write_bytes(b"")
    data = load(tmp_path)
    assert data.class_names == ("a", "b") and len(data.test_images) == 6
    assert f"all images are in {wrapper}/, which is taken as the data set" in caplog.text


def test_a_single_folder_of_images_is_no_class(tmp_path, caplog):
    fill(tmp_path, "images", count=10)
    data = load(tmp_path)
    assert data.labels is None and data.class_names == ()
    assert "all images are in images/" in caplog.text


def test_a_single_folder_in_each_part_is_no_class(tmp_path, caplog):
    train, test = "seg_train/seg_train", "seg_test/seg_test"
    fill(tmp_path, f"{train}/sea", f"{train}/wood", f"{test}/sea", f"{test}/wood")
    data = load(tmp_path)
    assert data.class_names == ("sea", "wood") and len(data.test_images) == 12
    assert (
        f"each part has one folder, which is taken as the part: {test}/, {train}/" in (caplog.text)
        or f"taken as the part: {train}/, {test}/" in caplog.text
    )


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ("cat dog val", "no train/"),
        ("test", "no train/"),
        ("valid invalid", "put the other images, or all classes, into train/"),
        ("car train plane", "if the names are classes, put all of them into train/"),
        ("train/a train/b other/a", "has images outside train/ (6): other"),
        ("train Training test", "two folders for the training part: Training, train"),
        ("train/train/a train/test/a", "named as parts inside"),
        ("train/train/a train/test/a test/a", "named as parts inside"),
        ("train/a train/b test/c", "class c that the training part does not have"),
        ("train/a train/b val", "class folders in only one of its training and validation"),
        ("train_cats train_dogs test_cats", "speak of parts: test_cats, train_cats, train_dogs"),
        ("trainA trainB testA testB", "put the parts above the classes"),
        ("cat/train cat/test dog/train dog/test", "named as parts: cat/test"),
        ("bottle/train/good bottle/test/broken cable/train/good", "named as parts: bottle/test"),
        ("a/deep/val b", "below its classes that are named as parts: a/deep/val"),
    ],
)
def test_what_is_ambiguous_is_asked_about(tmp_path, folders, says):
    fill(tmp_path, *folders.split())
    assert says in refusal(tmp_path)


def test_names_of_parts_may_be_classes_in_a_part(tmp_path):
    fill(tmp_path, "train/car", "train/train", "train/plane")
    assert load(tmp_path).class_names == ("car", "plane", "train")


def test_a_part_without_images_is_refused(tmp_path):
    fill(tmp_path, "train/a", "train/b")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "0.npy").write_bytes(b"")
    message = refusal(tmp_path)
    assert "no images in" in message and "(1): test/0.npy" in message


def test_images_beside_class_folders_are_refused(tmp_path):
    fill(tmp_path, "train/a", "train/b")
    put(tmp_path / "train" / "loose.png", 1)
    assert "beside its class folders" in refusal(tmp_path) and "loose.png" in refusal(tmp_path)


def test_no_images(tmp_path):
    assert "no images in" in refusal(tmp_path)


def test_links_to_folders_are_followed_at_any_depth_and_each_folder_once(
    tmp_path, tmp_path_factory, caplog
):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    fill(elsewhere, "pool")
    fill(tmp_path, "a", "b/deep")
    (tmp_path / "a" / "more").symlink_to(elsewhere / "pool")
    (tmp_path / "b" / "more").symlink_to(elsewhere / "pool")
    (tmp_path / "b" / "up").symlink_to(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path.parent)
    data = load(tmp_path)
    assert len(data) + len(data.test_images) == 18
    assert "a folder that is read by another path (2): b/more, b/up" in caplog.text
    assert "a link to a folder above (1): c" in caplog.text


def test_a_deep_folder_is_read_whole(tmp_path):
    fill(tmp_path, "a", "b", "b" + "/x" * 400, count=3)
    assert len(load(tmp_path).images) == 8


def test_class_names_can_be_printed_and_stored(tmp_path):
    fill(tmp_path, "gr\udcfcn", "b\nlau")
    data = load(tmp_path)
    assert data.class_names == ("b\\nlau", "gr\\udcfcn")
    assert np.bincount(data.labels).sum() == 11
