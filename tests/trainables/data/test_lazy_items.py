"""Map-style data sets whose items are read when a batch needs them."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Dataset, describe
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.data.items.lazy import LazyField
from foldrace.trainables.data.parts import digest, hold_out, subset
from foldrace.trainables.data.readers import parts_of
from foldrace.trainables.data.sample import Wanted
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan
from tests.trainables.data.test_items import Listed

CPU = torch.device("cpu")


class Counted(Listed):
    """Notes which items are read."""

    def __init__(self, items: list[Any], **attributes: Any) -> None:
        super().__init__(items)
        self.read: list[int] = []
        vars(self).update(attributes)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.items[index]


class Noisy(Listed):
    def __getitem__(self, index: int) -> Any:
        return {"x": torch.rand(2) + np.random.rand() + random.random(), "place": index}


def lazy(value: Any, workers: int = 0, wanted: Wanted = Wanted()) -> Any:  # noqa: B008
    return parts_of("mine", value, "-", wanted, workers)


def samples(parts: Any) -> Samples:
    return Samples.of(parts.training, describe(parts.training, {}, parts.roles, parts.names), CPU)


def test_only_some_items_are_looked_at_if_the_data_set_holds_its_targets():
    data = Counted([(torch.full((3,), float(i)), i % 3) for i in range(1000)])
    data.targets = [i % 3 for i in range(1000)]
    parts = lazy(data)
    assert len(set(data.read)) == 64 and {0, 999} < set(data.read)
    assert isinstance(parts.training["x"], LazyField) and parts.roles.target == "y"
    np.testing.assert_array_equal(parts.training["y"], np.arange(1000) % 3)
    info = describe(parts.training, {}, parts.roles, parts.names)
    assert info["x"].shape == (3,) and np.isnan(info["x"].high) and info["y"].classes == 3
    assert "read when a batch needs them, by the trial itself: x" in parts.notes[0]


def test_targets_that_are_not_the_items_own_are_not_believed():
    data = Counted([(torch.zeros(3), i % 3) for i in range(100)], targets=[0] * 100)
    np.testing.assert_array_equal(lazy(data).training["y"], np.arange(100) % 3)
    assert set(data.read) == set(range(100))


def test_targets_are_found_through_subsets():
    whole = Counted([(torch.zeros(3), i % 3) for i in range(400)])
    whole.targets = torch.arange(400) % 3
    parts = lazy(Subset(whole, range(100, 300)))
    np.testing.assert_array_equal(parts.training["y"], np.arange(100, 300) % 3)
    assert len(set(whole.read)) == 64 and min(whole.read) == 100


def test_a_validation_part_joins_the_training_part():
    train, valid, test = (
        Counted([(torch.full((2,), v), 0)] * n) for v, n in ((1.0, 5), (2.0, 3), (3.0, 2))
    )
    parts = lazy({"train": train, "val": valid, "test": test})
    found = samples(parts).take(torch.arange(8))["x"][:, 0]
    assert found.tolist() == [1.0] * 5 + [2.0] * 3 and len(parts.test["x"]) == 2


def test_groups_and_weights_that_the_data_set_holds_are_fields():
    data = Counted([torch.zeros(2)] * 6, groups=list("aabbcc"), weight=np.ones(6))
    parts = lazy(data)
    assert parts.training["groups"].tolist() == [0, 0, 1, 1, 2, 2]
    assert (parts.roles.groups, parts.roles.weight) == ("groups", "weight")


def test_texts_with_a_role_are_numbered_and_others_refused():
    parts = lazy(Counted([{"x": np.zeros(2), "label": "ab"[i % 2]} for i in range(9)]))
    assert parts.names == {"label": ("a", "b")} and parts.training["label"][:3].tolist() == [
        0,
        1,
        0,
    ]
    with pytest.raises(DataError, match=r"note is a text.*numbers from __getitem__"):
        lazy(Counted([{"x": np.zeros(2), "note": "a"}] * 9))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_what_the_items_hold(workers):
    items = [
        {
            "tokens": np.arange(1, 2 + i % 3),
            "photo": Image.new("RGB", (5, 4), (255, i, 0)),
            "pair": (np.float32(i), bool(i % 2)),
        }
        for i in range(12)
    ]
    of = samples(lazy(Listed(items), workers))
    info = of.sample
    assert info["tokens"].ragged and info["photo"].image and info["photo"].shape == (3, 4, 5)
    for pass_ in range(3):  # the same processes each time
        parts = [torch.tensor([0, 5, 1]), torch.tensor([11])]
        first, second = of.batches(parts)
        assert first["tokens"].tolist() == [[1, 0, 0], [1, 2, 3], [1, 2, 0]], pass_
        assert first["tokens_length"].tolist() == [1, 3, 2]
        assert first["photo"].dtype == torch.float32 and first["photo"].max() == 1.0
        assert first["pair_x"].tolist() == [0.0, 5.0, 1.0] and second["pair_y"].tolist() == [True]
    np.testing.assert_array_equal(of.take(parts[0])["tokens"], first["tokens"])


def test_what_is_random_is_the_same_for_any_number_of_processes_and_differs_between_passes():
    found = []
    for workers in (0, 1, 2):
        of = samples(lazy(Noisy([0] * 20), workers))
        torch.manual_seed(5)
        passes = []
        for order in (range(20), range(19, -1, -1)):
            parts = torch.split(torch.tensor(list(order)), 6)
            batches = list(of.batches(parts))
            places = torch.cat([batch["place"] for batch in batches]).tolist()
            drawn = torch.cat([batch["x"] for batch in batches])
            passes.append(dict(zip(places, drawn, strict=True)))
        found.append((passes, torch.rand(3)))
    for passes, after in found[1:]:
        assert torch.equal(after, found[0][1])
        for one, other in zip(passes, found[0][0], strict=True):
            assert all(torch.equal(one[place], other[place]) for place in range(20))
    first, second = found[0][0]
    assert not any(torch.equal(first[place], second[place]) for place in range(20))


def test_a_pass_that_was_given_up_does_not_reach_into_the_next():
    of = samples(lazy(Noisy([0] * 40), 2))
    parts = torch.split(torch.arange(40), 4)
    for batch in of.batches(parts):
        assert batch["place"].tolist() == [0, 1, 2, 3]
        break
    again = [batch["place"].tolist() for batch in of.batches(parts[::-1])]
    assert again == [part.tolist() for part in parts[::-1]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_collate_function_makes_the_batches(workers):
    data = Listed([{"graph": torch.ones(2 + i % 3, 4), "y": i % 2} for i in range(12)])
    data.collate_fn = packed  # type: ignore[attr-defined]
    parts = lazy(data, workers)
    of = samples(parts)
    assert of.sample["nodes"].shape == (None, 4) and of.sample.target.name == "y"
    [batch] = of.batches([torch.tensor([0, 1])])
    assert batch["nodes"].shape == (5, 4) and batch["inner_of"].tolist() == [0, 0, 1, 1, 1]
    assert batch["y"].tolist() == [0, 1]


def packed(items: list[Any]) -> Any:
    counts = torch.tensor([len(item["graph"]) for item in items])
    return {
        "nodes": torch.cat([item["graph"] for item in items]),
        "inner": {"of": torch.repeat_interleave(torch.arange(len(items)), counts)},
        "y": torch.tensor([item["y"] for item in items]),
    }


def test_a_part_of_the_samples():
    parts = subset(hold_out("mine", lazy(Noisy([0] * 30))), 10, 0)
    places = samples(parts).take(torch.arange(10))["place"]
    assert places.tolist() == parts.positions.tolist() and len(parts.test["x"]) == 3


def test_other_items_or_another_choice_of_them_are_other_data():
    one, same, other = (Counted([(np.full(2, v), 0)] * 9) for v in (1.0, 1.0, 2.0))
    first, again, changed = (digest(hold_out("mine", lazy(data))) for data in (one, same, other))
    assert first == again != changed
    assert digest(subset(hold_out("mine", lazy(one)), 5, 0)) != first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ((torch.zeros(4), 1), r"item 70 has x \(4,\) float32, others \(3,\) float32; give all"),
        (None, "item 70 raised ZeroDivisionError"),
        ({"z": 1}, "item 70 has no x"),
        ((torch.zeros(3).double(), 1), "item 70 has x .* float64"),
    ],
)
def test_an_item_that_differs_is_named_when_it_is_read(workers, odd, said):
    class Odd(Listed):
        targets = [1] * 200

        def __getitem__(self, index: int) -> Any:
            if index == 70 and odd is None:
                raise ZeroDivisionError
            return odd if index == 70 else (torch.zeros(3), 1)

    of = samples(lazy(Odd([0] * 200), workers))
    with pytest.raises(DataError, match=said):
        list(of.batches([torch.tensor([1, 70])]))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Listed([]), "without items"),
        (Listed([np.zeros(2), np.zeros((2, 2))]), "x of item 0 is"),
        (Listed([np.zeros((2, 3)), np.zeros((2, 2))]), "collate_fn"),
        (Listed([object()] * 3), "x of item 0 must be numbers; it is object"),
        (Listed([Image.new("P", (4, 4))] * 3), r"mode P; convert it"),
        (
            Listed([{"x": np.zeros(2), "y": np.zeros(1 + i)} for i in range(3)]),
            "y differs in shape",
        ),
        (Listed([{"x": 1}, {"z": 1}]), "item 1 has the fields z, item 0 x"),
    ],
)
def test_what_cannot_be_read_is_one_line(data, said):
    with pytest.raises(DataError, match=said) as raised:
        lazy(data)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda items: 1 / 0, "collate_fn raised ZeroDivision"),
        (lambda items: {"a": 3}, "a is int"),
    ],
)
def test_a_collate_function_that_cannot_be_used(made, said):
    data = Listed([torch.zeros(2)] * 4)
    data.collate_fn = made  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=said):
        lazy(data)


def test_processes_are_for_items_alone():
    with pytest.raises(DataError, match=r"dataset.workers: 2: .*mine returned a ndarray"):
        lazy(np.zeros((4, 2)), 2)


class Linear:
    def build(self, params: Any, sample: Any) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Dropout(0.3), torch.nn.Linear(2, 1))

    def losses(self, model: Any, batch: Any, params: Any) -> Any:
        return {"loss": (model(batch["x"])[:, 0] - 2).square()}


def fold(workers: int) -> Fold:
    task = LoadedTask("own", Linear(), {}, None)
    return Fold(
        task,
        task.complete({"batch_size": 4, "lr": 0.01}),
        samples(lazy(Noisy([0] * 30), workers)),
        FoldPlan(30, splits=3).split()[0],
        TrainingOptions(4),
    )


def test_a_fold_goes_on_from_a_checkpoint_with_another_number_of_processes():
    whole = fold(0)
    reports = [whole.train_epoch() for _ in range(4)]
    first = fold(2)
    first.train_epoch(), first.train_epoch()
    second = fold(1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert [second.train_epoch() for _ in range(2)] == reports[2:]
    assert second.cannot_fuse == "items are read when a batch needs them"
    assert len({report.metrics["val_loss"] for report in reports}) == 4


def test_a_collate_function_is_found_through_subsets_and_parts():
    data = Listed([{"graph": torch.ones(2 + i % 3, 4), "y": i % 2} for i in range(12)])
    data.collate_fn = packed  # type: ignore[attr-defined]
    parts = lazy({"train": Subset(data, range(6)), "val": Subset(data, range(6, 9))})
    [batch] = samples(parts).batches([torch.tensor([0, 8])])
    assert batch["inner_of"].tolist() == [0] * 2 + [1] * 4


def test_the_first_test_images_are_read_wherever_they_are(tmp_path):
    pictures = np.arange(20 * 3 * 64, dtype=np.uint8).reshape(20, 3, 8, 8)
    np.save(tmp_path / "images.npy", pictures)
    np.save(tmp_path / "test_images.npy", pictures[:12])
    inner = load_dataset(str(tmp_path), data_dir=tmp_path)
    items = [torch.from_numpy(image) for image in pictures]
    parts = lazy({"train": Listed(items), "test": Listed(items[:12])})
    lazily = Dataset("mine", parts.training, parts.test, parts.roles, {}, "", "")
    for data in (inner, lazily):
        assert data.test_images is None
        np.testing.assert_array_equal(data.first_test_images(5), pictures[:5])
        np.testing.assert_array_equal(data.first_test_images(50), pictures[:12])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_random_target_is_that_of_its_input(workers):
    class Turned(Listed):
        def __getitem__(self, index: int) -> Any:
            angle = torch.rand(())
            return {"x": torch.stack([angle.cos(), angle.sin()]), "y": angle}

    of = samples(lazy(Turned([0] * 20), workers))
    seen = []
    for _ in range(2):
        [batch] = of.batches([torch.arange(20)])
        torch.testing.assert_close(batch["x"][:, 0], batch["y"].cos())
        seen.append(batch["y"])
    assert not torch.equal(*seen)


def shortest_first(items: list[Any]) -> Any:
    items = sorted(items, key=lambda item: len(item[0]))
    x = torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True)
    return x, torch.tensor([y for _, y in items])


def test_a_collate_function_may_sort_its_batch_if_it_returns_all_with_a_role():
    data = Listed([(torch.full((9 - i,), float(i)), i) for i in range(8)])
    data.collate_fn = shortest_first  # type: ignore[attr-defined]
    [batch] = samples(lazy(data)).batches([torch.arange(8)])
    assert batch["y"].tolist() == batch["x"][:, 0].tolist() == list(range(7, -1, -1))
    data.weight = np.ones(8)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"changes y or its order, and does not return weight"):
        list(samples(lazy(data)).batches([torch.arange(8)]))


def masked(items: list[Any]) -> Any:
    return {"x": torch.stack([item["x"] for item in items]) * (torch.rand(len(items), 2) > 0.5)}


def test_what_a_collate_function_draws_is_the_same_for_any_number_of_processes():
    found = []
    for workers in (0, 1, 2):
        data = Noisy([0] * 20)
        data.collate_fn = masked  # type: ignore[attr-defined]
        of = samples(lazy(data, workers))
        torch.manual_seed(5)
        passes = [list(of.batches(torch.split(torch.arange(20), 6))) for _ in range(2)]
        found.append(torch.cat([batch["x"] for each in passes for batch in each]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found[0][:20], found[0][20:])


@pytest.mark.parametrize("workers", [0, 2])
def test_two_passes_at_once_are_apart(workers):
    of = samples(lazy(Noisy([0] * 12), workers))
    parts = torch.split(torch.arange(12), 4)
    for one, other in zip(of.batches(parts), of.batches(parts), strict=True):
        assert one["place"].tolist() == other["place"].tolist()


def test_a_generator_of_the_data_sets_own_is_said(caplog):
    class Own(Listed):
        draw = np.random.default_rng(0)

        def __getitem__(self, index: int) -> Any:
            return self.draw.random(2)

    lazy(Own([0] * 9))
    assert "an item that is read twice differs" in caplog.text


@pytest.mark.parametrize("workers", [None, 0])
def test_parts_by_any_name_and_what_a_data_set_holds(workers):
    train = TensorDataset(torch.rand(8, 2), torch.arange(8) % 2)
    train.groups = np.arange(8) // 2  # type: ignore[attr-defined]
    train.sample_weight = np.ones(8)  # type: ignore[attr-defined]
    whole = {"train_set": Subset(train, range(6)), "test_set": train}
    parts = parts_of("mine", whole, "-", Wanted(), workers)
    assert parts.roles.target == "y" and set(parts.training) - {"groups"} == {
        "x",
        "y",
        "sample_weight",
    }
    assert parts.roles.groups == "groups" and parts.roles.weight == "sample_weight"
    assert len(parts) == 6 and len(parts.test["x"]) == 8


@pytest.mark.parametrize("workers", [None, 0])
def test_two_fields_of_one_name_are_refused(workers):
    with pytest.raises(DataError, match="item 0 has two fields a_b"):
        parts_of("mine", Listed([{"a": {"b": 1.0}, "a_b": 2.0}] * 4), "-", Wanted(), workers)


def test_a_graph_of_one_node_is_one_among_others():
    data = Listed([{"graph": torch.ones(1 + i % 3, 4), "y": i % 2} for i in range(12)])
    data.collate_fn = packed  # type: ignore[attr-defined]
    of = samples(lazy(data))
    assert of.sample["nodes"].shape == (None, 4) and of.sample["y"].shape == ()
    assert of.take(torch.tensor([0]))["nodes"].shape == (1, 4)


@pytest.mark.parametrize("workers", [None, 0])
def test_groups_of_another_length_are_not_passed_over(workers):
    data = Listed([(torch.zeros(2), 1)] * 9)
    data.groups = [1, 2, 3]  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="has 3 groups for 9 items; give one per item"):
        parts_of("mine", data, "-", Wanted(), workers)


def test_sequences_that_happen_to_have_one_length_are_sequences():
    train, test = Listed([np.arange(1 + i) for i in range(6)]), Listed([np.arange(3)] * 4)
    parts = parts_of("mine", {"train": train, "test": test}, "-")
    assert parts.test["x"].lengths.tolist() == [3] * 4


def test_a_collate_function_returns_the_same_fields_for_any_number_of_items():
    data = Listed([torch.zeros(2)] * 9)
    data.collate_fn = lambda items: {f"of_{len(items)}": torch.stack(items)}  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="returned no of_1 of 3 items, and did of one"):
        samples(lazy(data)).take(torch.arange(3))


def test_the_code_that_makes_the_items_belongs_to_their_digest(tmp_path, monkeypatch):
    """Most items are never looked at, so they would change unseen."""
    text = (
        "import torch\nfrom helper_of_these_items import factor\n\n"
        "class Items(torch.utils.data.Dataset):\n    def __len__(self):\n        return 1000\n"
        "    def __getitem__(self, i):\n        return {'x': torch.ones(2) * i}\n\n"
        "def made():\n    return Items()\n"
    )
    (tmp_path / "helper_of_these_items.py").write_text("factor = 1\n")
    file = tmp_path / "mine.py"
    file.write_text(text)
    options = {"workers": 0, "data_dir": tmp_path}
    first = load_dataset(f"{file}:made", **options).digest
    assert load_dataset(f"{file}:made", **options).digest == first
    file.write_text(text.replace("* i", "* (i if i != 5 else -i)"))
    assert load_dataset(f"{file}:made", **options).digest != first
    file.write_text(text)
    (tmp_path / "helper_of_these_items.py").write_text("factor = 2\n")
    assert load_dataset(f"{file}:made", **options).digest != first
