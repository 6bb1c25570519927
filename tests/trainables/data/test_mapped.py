"""Arrays that stay in their files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from foldrace.errors import DataError
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.data.mapped import Mapped
from foldrace.trainables.data.sample import Wanted
from foldrace.trainables.training.samples import Samples

X = np.arange(120, dtype=np.float32).reshape(40, 3)
Y = np.arange(40) % 2


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    return tmp_path


def test_a_folder_is_fields_that_stay_in_their_files(folder, caplog):
    (folder / "notes.txt").write_text("mine")
    data = load_dataset(str(folder), limit=20, data_dir=folder)
    x = data.training["x"]
    assert isinstance(x, Mapped) and isinstance(data.training["y"], np.ndarray)
    assert len(data) == 20 and data.sample["x"].shape == (3,)
    assert "not read: notes.txt" in caplog.text
    assert data.notes == ("read from their files a batch at a time: x",)
    samples = Samples.of(data.training, data.sample, torch.device("cpu"))
    batch = samples.take(torch.tensor([3, 0]))
    np.testing.assert_array_equal(batch["x"], X[data.positions[[3, 0]]])
    np.testing.assert_array_equal(batch["y"], Y[data.positions[[3, 0]]])


@pytest.mark.parametrize("kind", ["f2", "<f4", ">f8", "i1", "u1", ">u2", "i8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_it_is_the_same_data_set_as_in_memory(tmp_path, kind, order):
    x = np.asarray(X % 7, dtype=kind, order=order)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", x)
    np.save(tmp_path / "folder" / "y.npy", Y)
    np.savez(tmp_path / "data.npz", x=x, y=Y)
    mapped = load_dataset(str(tmp_path / "folder"), data_dir=tmp_path)
    whole = load_dataset(str(tmp_path / "data.npz"), data_dir=tmp_path)
    assert mapped.digest == whole.digest and mapped.sample == whole.sample
    device = torch.device("cpu")
    taken = [
        Samples.of(data.test, data.sample, device).take(torch.arange(4))["x"]
        for data in (mapped, whole)
    ]
    assert taken[0].dtype == taken[1].dtype and torch.equal(*taken)


def test_pickled_it_is_its_path_alone(folder):
    mapped = Mapped.of(folder / "x.npy").take(np.array([5, 7]))
    mapped.read(slice(0, 1))
    sent = pickle.dumps(mapped)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).read(np.array([1])), X[[7]])
    (folder / "x.npy").unlink()
    with pytest.raises(DataError, match="cannot be read on this node"):
        pickle.loads(sent).read(np.array([1]))


def test_parts_are_folders_or_prefixes(tmp_path):
    for part, count in (("train", 30), ("test", 10)):
        (tmp_path / part).mkdir()
        np.save(tmp_path / part / "x.npy", X[:count])
    data = load_dataset(str(tmp_path), data_dir=tmp_path)
    assert len(data) == 30 and data.test_count == 10 and data.positions is None
    np.save(tmp_path / "train_x.npy", X)
    with pytest.raises(DataError, match=r"holds train/x\.npy and train_x\.npy, the same field"):
        load_dataset(str(tmp_path), data_dir=tmp_path)


def test_an_array_beside_images_leaves_a_folder_of_images(tmp_path):
    Image.new("L", (8, 8), 200).save(tmp_path / "0.png")
    Image.new("L", (8, 8), 200).save(tmp_path / "1.png")
    np.save(tmp_path / "mean.npy", X)
    assert load_dataset(str(tmp_path), data_dir=tmp_path).images is not None


def test_one_array_is_read_into_memory(tmp_path):
    np.save(tmp_path / "images.npy", np.full((30, 8, 8), 200, dtype=np.uint8))
    np.save(tmp_path / "numbers.npy", X)
    images = load_dataset(str(tmp_path / "images.npy"), data_dir=tmp_path)
    assert images.images.shape == (27, 1, 8, 8)
    numbers = load_dataset(str(tmp_path / "numbers.npy"), data_dir=tmp_path)
    assert isinstance(numbers.training["x"], np.ndarray)


@pytest.mark.parametrize(
    ("key", "array", "said"),
    [
        ("z", X[:3], "differ in length"),
        ("val_x", X, "cannot join"),
        ("z", np.array([object()] * 40), "Python objects are not read"),
        ("z", np.full((40, 2), 1j), "must be numbers"),
        ("test_x", X[:, :2], "x differs between the parts"),
        ("weight", np.full(40, np.nan), "the weight, must be finite"),
    ],
)
def test_what_cannot_be_used_is_one_line(folder, key, array, said):
    np.save(folder / f"{key}.npy", array)
    if key.startswith(("val", "test")):
        np.save(folder / f"{key.partition('_')[0]}_y.npy", Y[: len(array)])
    with pytest.raises(DataError, match=said) as caught:
        load_dataset(str(folder), data_dir=folder)
    assert str(caught.value).isprintable()


def test_a_sweep_file_chooses_among_the_files(folder):
    np.save(folder / "other.npy", X[:2])
    wanted = Wanted(("x",), {"target": "y"})
    assert set(load_dataset(str(folder), wanted=wanted, data_dir=folder).training) == {"x", "y"}
    with pytest.raises(DataError, match="has no field z"):
        load_dataset(str(folder), wanted=Wanted(("z",)), data_dir=folder)
