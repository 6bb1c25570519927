"""Data sets by reference: what is accepted, what is refused and how, and what is reproducible."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrace.errors import DataError, InputError
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.datasets import State, fetch, list_datasets, load_dataset
from foldrace.trainables.data.references import check_reference


def pictures(count: int = 20, shape: tuple[int, ...] = (6, 5), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_npz(**arrays: Any) -> str:
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays)
        return str(path)

    return write_npz


def load(name: str, **options: Any) -> Dataset:
    return load_dataset(name, data_dir=Path("never-made"), **options)


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(name, **options)
    return str(caught.value)


# --- digits


def test_digits_span_all_levels_and_keep_a_tenth_for_the_test():
    digits = load("digits")
    assert digits.sample_shape == (1, 28, 28)
    assert (len(digits), len(digits.test_images)) == (1617, 180)
    assert digits.images.dtype == np.uint8 and digits.images.flags.c_contiguous
    assert digits.labels is not None and set(digits.labels) == set(range(10))
    assert len(digits.class_names) == 10
    listed = next(info for info in list_datasets(Path("nowhere")) if info.name == "digits")
    assert (listed.training, listed.test, listed.sample_shape) == (1617, 180, (1, 28, 28))
    assert listed.state is State.BUILT_IN


def test_raw_digits_are_scikit_learns_sixteenths_scaled_to_bytes():
    from sklearn.datasets import load_digits

    digits = load("digits", size=(8, 8))
    assert digits.sample_shape == (1, 8, 8)
    levels = np.unique(np.concatenate([digits.images, digits.test_images]))
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))
    theirs = {
        image.tobytes() for image in np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    }
    ours = {image.tobytes() for image in [*digits.images, *digits.test_images]}
    assert ours == theirs


# --- .npz files: layouts and types


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_last_and_channels_first_give_the_same(write, channels):
    first = pictures(20, (channels, 6, 5))
    data = load(write(images=first))
    other = load(write(images=first.transpose(0, 2, 3, 1)))
    assert data.sample_shape == other.sample_shape == (channels, 6, 5)
    np.testing.assert_array_equal(data.images, other.images)
    assert data.digest == other.digest
    assert other.images.flags.c_contiguous


def test_three_axes_are_one_channel(write):
    images = pictures()
    data = load(write(x_train=images, x_test=images[:3]))
    assert data.sample_shape == (1, 6, 5)
    np.testing.assert_array_equal(data.images[:, 0], images)


def test_where_both_axes_could_be_the_channels_the_second_is(write):
    assert load(write(images=pictures(20, (3, 7, 4)))).sample_shape == (3, 7, 4)


def test_neither_axis_could_be_the_channels(write):
    message = refusal(write(images=pictures(20, (6, 5, 2))))
    assert "1, 3 or 4 channels" in message and "(20, 6, 5, 2)" in message


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_give_back_every_level(write, dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    data = load(write(images=(levels / 255).astype(dtype), test_images=levels))
    np.testing.assert_array_equal(data.images, data.test_images)


def test_all_parts_are_read(write):
    images, labels = pictures(), np.arange(20, dtype=np.int32) % 3
    data = load(
        write(
            x_train=images,
            y_train=labels,
            groups=np.arange(20) // 2,
            x_test=images[:4],
            y_test=labels[:4],
        )
    )
    assert data.labels is not None and data.groups is not None and data.test_labels is not None
    assert data.labels.dtype == data.groups.dtype == data.test_labels.dtype == np.int64
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.groups, np.arange(20) // 2)
    np.testing.assert_array_equal(data.test_images[:, 0], images[:4])
    np.testing.assert_array_equal(data.test_labels, labels[:4])
    assert data.source.endswith("mine.npz")


# --- .npz files: refusals


def test_not_finite_is_refused_with_count_and_first_index(write):
    images = np.zeros((9, 4, 4, 3))
    images[2, 1, 3, 0], images[5, 0, 0, 0] = np.nan, np.inf
    message = refusal(write(images=images))
    assert "2 of 432" in message and "(2, 1, 3, 0)" in message


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"images": pictures().astype(float)}, "must be in [0, 1]"),
        ({"images": pictures().astype(np.float64) * 1e300}, "must be in [0, 1]"),
        ({"images": np.full((9, 4, 4), -0.1)}, "spans [-0.1, -0.1]"),
        ({"images": pictures().astype(np.int64)}, "it is int64"),
        ({"images": pictures() > 9}, "it is bool"),
        ({"images": np.array([["a"]])}, "images must be uint8"),
        ({"images": pictures(0)}, "empty"),
        ({"images": pictures(20, (7,))}, "its shape is (20, 7)"),
        ({"images": pictures(), "test_images": pictures(0)}, "test_images is empty"),
        (
            {"images": pictures(), "labels": np.arange(19)},
            "each of the 20 images; its shape is (19,)",
        ),
        ({"images": pictures(), "labels": np.zeros((20, 10), dtype=int)}, "its shape is (20, 10)"),
        (
            {"images": pictures(), "labels": np.zeros(20)},
            "labels must be whole numbers or texts; it is float64",
        ),
        ({"images": pictures(), "groups": np.arange(3)}, "groups must be one number for each"),
        ({"images": pictures(), "test_labels": np.arange(3)}, "but no test_images"),
        ({"images": pictures(), "x_train": pictures()}, "both images and x_train"),
        ({"notes": np.array(3)}, "holds no array with one entry per sample"),
        ({"images": pictures(), "test_images": pictures(5, (5, 6))}, "the test images (1, 5, 6)"),
        ({"images": pictures(1)}, "one sample cannot be divided"),
    ],
)
def test_unusable_arrays_are_refused_by_name(write, arrays, says):
    name = write(**arrays)
    message = refusal(name)
    assert says in message and message.startswith("dataset: ")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("something in the file was unpickled",))


def test_pickled_objects_are_refused_unopened(write):
    assert "Python objects" in refusal(write(images=np.array([Trap()], dtype=object)))
    # Beside usable arrays they do no harm, because they are not read.
    assert len(load(write(images=pictures(), notes=np.array([Trap()], dtype=object)))) == 18


def test_a_damaged_file_is_a_data_error_wherever_the_damage_is(tmp_path):
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, images=pictures(), labels=np.arange(20))
    content, images = whole.read_bytes(), load(str(whole)).images
    damaged = tmp_path / "damaged.npz"
    for cut in range(0, len(content), 29):
        damaged.write_bytes(content[:cut])
        refusal(str(damaged))
    for place in range(0, len(content), 7):
        damaged.write_bytes(
            content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        )
        try:
            data = load(str(damaged))
        except DataError:
            continue
        np.testing.assert_array_equal(
            data.images, images
        )  # a flipped bit in a date or an attribute


def test_one_array_under_a_false_name(tmp_path):
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, pictures())
    assert "numpy.savez" in refusal(str(tmp_path / "one.npz"))


def test_a_member_that_is_no_array(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("images", "hello")
    assert "images" in refusal(str(tmp_path / "text.npz"))


# --- limit, size, held-out tenth


def test_a_limit_is_reproducible_nested_and_in_order(write):
    name = write(images=pictures(100), labels=np.arange(100), test_images=pictures(7, seed=1))
    one, again = load(name, limit=30, seed=5), load(name, limit=30, seed=5)
    other, larger, whole = load(name, limit=30, seed=6), load(name, limit=60, seed=5), load(name)
    assert len(one) == 30 and one.digest == again.digest
    assert one.labels is not None and other.labels is not None and larger.labels is not None
    assert (np.diff(one.labels) > 0).all()
    assert set(one.labels) < set(larger.labels) and set(one.labels) != set(other.labels)
    np.testing.assert_array_equal(one.images, whole.images[one.labels])
    assert len({d.digest for d in (one, other, larger, whole)}) == 4
    np.testing.assert_array_equal(one.test_images, whole.test_images)


@pytest.mark.parametrize("limit", [0, -1, 19, 2.0, True, "9"])
def test_a_limit_out_of_range_is_refused(write, limit):
    message = refusal(write(images=pictures()), limit=limit)  # 18 are left for training
    assert message.startswith("dataset.limit: ")


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"seed": 2**32}, {"size": (0, 5)}, {"size": (5,)}]
)
def test_seed_and_size_out_of_range_are_refused(write, options):
    assert refusal(write(images=pictures()), **options).startswith(
        f"dataset.{next(iter(options))}: "
    )


def test_the_digest_tells_every_part_apart(write):
    images, labels, flipped = pictures(), np.arange(20) % 2, pictures()
    flipped[0, 0, 0] ^= 1
    shapes = [
        {"images": images, "test_images": images},
        {"images": images, "test_images": images[:3]},
        {"images": images, "test_images": images, "labels": labels},
        {"images": images, "test_images": images, "groups": labels},
        {"images": flipped, "test_images": images},
        {"images": images.reshape(20, 5, 6), "test_images": images.reshape(20, 5, 6)},
    ]
    assert len({load(write(**arrays)).digest for arrays in shapes}) == len(shapes)


def test_the_held_out_tenth_is_fixed_and_apart(write):
    images, labels = pictures(50), np.arange(50)
    data = load(write(images=images, labels=labels))
    assert data.labels is not None and data.test_labels is not None
    assert (len(data), len(data.test_images)) == (45, 5)
    assert sorted([*data.labels, *data.test_labels]) == list(range(50))
    np.testing.assert_array_equal(data.test_images[:, 0], images[data.test_labels])
    # Written down, because a test part that changes between versions would be a leak.
    assert data.test_labels.tolist() == [2, 10, 11, 28, 41]


@pytest.mark.parametrize("sizes", [[3] * 20, [1, 1, 58], [30, 30], [1] * 60])
def test_no_group_stands_on_both_sides(write, sizes):
    groups = np.repeat(np.arange(len(sizes)) * 7, sizes)
    data = load(write(images=pictures(60), groups=groups, labels=np.arange(60)))
    assert data.groups is not None and data.test_labels is not None
    held = set(groups[data.test_labels])
    assert held and len(data) and not held & set(data.groups)
    assert len(data) + len(data.test_images) == 60


def test_one_group_cannot_be_divided(write):
    assert "one group" in refusal(write(images=pictures(), groups=np.zeros(20, dtype=int)))


def test_resizing_averages_when_it_shrinks(write):
    stripes = np.zeros((20, 8, 8, 3), dtype=np.uint8)
    stripes[:, ::2, :, 1] = 200
    data = load(write(images=stripes), size=(2, 4))
    assert data.sample_shape == (3, 2, 4) and data.test_images.shape[1:] == (3, 2, 4)
    assert not data.images[:, [0, 2]].any()
    assert (
        abs(data.images[:, 1].astype(int) - 100) < 20
    ).all()  # not 0 or 200, as without antialiasing
    assert data.digest != load(write(images=stripes)).digest


# --- functions of the user's

MODULE = """
import numpy as np
from foldrace.trainables.data.datasets import Dataset
images = np.random.default_rng(0).integers(0, 256, (20, 2, 6, 5), dtype=np.uint8)

def as_dict():
    return {"images": images[:, 0], "labels": list(range(20)), "test_images": None}
def as_array():
    return images[:, 0]
def as_tensor():
    import torch
    return torch.from_numpy(images[:, 0]).div(255).requires_grad_()
def as_dataset():
    three = images[:3], np.arange(3), ("a", "b", "c")
    return Dataset.of_images("any", images, None, None, *three, "", "my store")
def wrong_dataset():
    return Dataset.of_images("any", images.astype(float), None, None, images[:3], None, (), "", "")
def fails():
    raise ZeroDivisionError("no pixels")
def needs(argument):
    return images
def nothing():
    pass
def ragged():
    return [[1], [1, 2]]
number = 3
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "my_data.py"
    path.write_text(MODULE)
    return str(path)


def test_a_function_may_return_a_mapping_an_array_or_a_tensor(module):
    same = [load(f"{module}:{name}", limit=9) for name in ("as_dict", "as_array", "as_tensor")]
    assert all(data.sample_shape == (1, 6, 5) and len(data.test_images) == 2 for data in same)
    for data in same[1:]:
        np.testing.assert_array_equal(data.images, same[0].images)
    assert same[0].labels is not None and same[1].labels is None
    assert same[1].digest == same[2].digest


def test_a_function_may_return_a_dataset_of_any_channels(module):
    data = load(f"{module}:as_dataset", limit=7)
    assert data.sample_shape == (2, 6, 5) and len(data) == 7
    assert data.name == f"{module}:as_dataset" and data.source == "my store"
    assert data.class_names == ("a", "b", "c") and data.digest


def test_a_function_in_an_installed_module(module, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    assert len(load("my_data:as_array")) == 18


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("fails", "raised ZeroDivisionError: no pixels"),
        ("needs", "raised TypeError"),
        ("nothing", "it returned NoneType"),
        ("wrong_dataset", "must be in [0, 1]"),
        ("ragged", "images is not an array"),
        ("as_aray", "has no function as_aray; did you mean 'as_array'?"),
        ("number", "has no function number"),
    ],
)
def test_a_function_that_fails_is_named(module, function, says):
    message = refusal(f"{module}:{function}")
    assert says in message and message.startswith(f"dataset: {module}:{function}: ")


def test_a_file_that_does_not_import_is_a_data_error(tmp_path):
    (tmp_path / "broken.py").write_text("import nonesuch_at_all")
    assert "ModuleNotFoundError" in refusal(f"{tmp_path}/broken.py:load")


# --- references


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("fashion_mnist", "did you mean 'fashion-mnist'?"),
        ("", "unknown data set"),
        ("./nowhere.npz", "no such file or folder"),
        ("nowhere.npz", "no such file or folder"),
        ("./nowhere/", "no such file or folder"),
        ("./nowhere.py:load", "no such file"),
        (
            "nonesuch_module:load",
            "no module nonesuch_module; for a file, write ./nonesuch_module.py:load",
        ),
        ("./nowhere.py:", "must end in the name of a function"),
        (":load", "nothing is neither"),
        ("a b:load", "is neither a .py file nor a module"),
    ],
)
def test_a_reference_to_nothing_is_refused(name, says):
    with pytest.raises(DataError) as caught:
        check_reference(name)
    assert says in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_references_to_something_are_accepted(module, tmp_path, write):
    for name in ("fashion-mnist", "cifar10", "digits", str(tmp_path), write(images=pictures())):
        check_reference(name)
    for name in (
        f"{module}:as_array",
        "foldrace.trainables.tasks.loading:load_task",
        "pytest:fail",
    ):
        check_reference(name)


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "table.xls").write_text("1,2")
    with pytest.raises(DataError, match=r"neither a file that ends in \.npz, .* nor a folder"):
        check_reference(str(tmp_path / "table.xls"))


def test_only_data_sets_with_a_name_are_fetched(tmp_path):
    assert fetch("digits", tmp_path).state is State.BUILT_IN
    with pytest.raises(DataError, match="did you mean 'kmnist'"):
        fetch("knist", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_importing_and_checking_is_light(module):
    code = (
        "import sys; from foldrace.trainables.data.datasets import check_reference,"
        " list_datasets\nfrom pathlib import Path\ncheck_reference('digits');"
        f" check_reference({module + ':as_array'!r}); list_datasets(Path('.'))\nprint([m for m in"
        " ('torch', 'torchvision', 'sklearn', 'ray', 'PIL', 'optuna') if m in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_dataset_travels_without_a_copy(write):
    data = load(write(images=pictures(), labels=np.arange(20)))
    buffers: list[pickle.PickleBuffer] = []
    inside = pickle.dumps(data, protocol=5, buffer_callback=buffers.append)
    assert len(inside) < 2000 and len(buffers) == 5
    back = pickle.loads(inside, buffers=buffers)
    assert np.shares_memory(back.images, data.images) and back.digest == data.digest
    assert len(repr(data)) < 300


def test_positions_lead_back_to_the_source(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 1, 9, 9), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels)
    whole = load_dataset(str(tmp_path / "x.npz"), data_dir=tmp_path)
    some = load_dataset(str(tmp_path / "x.npz"), limit=20, seed=3, data_dir=tmp_path)
    for dataset in (whole, some):
        assert dataset.positions is not None
        np.testing.assert_array_equal(pixels[dataset.positions], dataset.images)
    np.savez(tmp_path / "y.npz", images=pixels, test_images=pixels[:2])
    assert load_dataset(str(tmp_path / "y.npz"), data_dir=tmp_path).positions is None


def test_classes_of_the_test_part_alone_are_named(tmp_path, caplog):
    x, y = np.zeros((6, 2)), np.array([0, 1, 1, 0, 1, 3])
    np.savez(tmp_path / "mine.npz", x=x, y=y, test_x=x, test_y=np.array([0, 1, 2, 3, 4, 4]))
    load_dataset(str(tmp_path / "mine.npz"), data_dir=tmp_path)
    assert "classes of the test part alone: 2, 4" in caplog.text


def test_text_is_no_time_and_groups_that_time_divides_are_said(tmp_path, caplog):
    x, groups = np.zeros((20, 2)), np.arange(20) % 4
    np.savez(tmp_path / "text.npz", x=x, time=[f"{day}/1/2024" for day in range(20)])
    with pytest.raises(DataError, match=r"time, the time, is text.*time: false"):
        load_dataset(str(tmp_path / "text.npz"), data_dir=tmp_path)
    np.savez(tmp_path / "both.npz", x=x, time=np.arange(20), groups=groups)
    load_dataset(str(tmp_path / "both.npz"), data_dir=tmp_path)
    assert "last tenth in time is the test part, and 2 groups are in both parts" in caplog.text
