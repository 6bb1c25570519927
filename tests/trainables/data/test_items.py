"""Map-style data sets of torch, read item by item."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from foldrace.errors import DataError
from foldrace.trainables.data.readers import parts_of


class Listed(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


def test_a_pair_is_x_and_y():
    data = TensorDataset(torch.arange(12.0).reshape(6, 2), torch.arange(6) % 2)
    parts = parts_of("mine", data, "-")
    assert parts.roles.target == "y" and parts.training["x"].dtype == np.float32
    np.testing.assert_array_equal(parts.training["y"], np.arange(6) % 2)
    assert "drawn once" in parts.notes[0]


def test_parts_are_data_sets_of_their_own():
    train, test = Listed([(torch.zeros(3), 1)] * 5), Listed([(torch.ones(3), 0)] * 2)
    parts = parts_of("mine", {"train": train, "test": test}, "-")
    assert len(parts) == 5 and parts.test["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("item", "fields"),
    [
        (torch.zeros(2), {"x"}),
        ((torch.zeros(2), 1, 2.0), {"field_0", "field_1", "field_2"}),
        ({"a": torch.zeros(2), "b": {"c": 1, "d": (3, 4)}}, {"a", "b_c", "b_d_x", "b_d_y"}),
        ((Image.new("L", (8, 8), 200), 1), {"images", "labels"}),
    ],
)
def test_the_fields_of_an_item(item, fields):
    assert set(parts_of("mine", Listed([item] * 4), "-").training) == fields


def test_sequences_and_groups():
    data = Listed([(np.arange(count + 1), count % 2) for count in range(4)])
    data.groups = [0, 0, 1, 1]
    parts = parts_of("mine", data, "-")
    assert parts.training["x"].lengths.tolist() == [1, 2, 3, 4] and parts.roles.groups == "groups"


def test_what_is_random_is_the_same_every_time():
    class Noisy(Listed):
        def __getitem__(self, index: int) -> Any:
            return torch.rand(2) + np.random.rand() + random.random()

    state = torch.get_rng_state()
    first, second = (parts_of("mine", Noisy([0] * 4), "-").training["x"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert len(np.unique(first)) == 8 and torch.equal(state, torch.get_rng_state())


def test_pictures_with_groups():
    data = Listed([(Image.new("L", (8, 8), 200), 1)] * 4)
    data.groups = [0, 0, 1, 1]
    assert parts_of("mine", data, "-").of_role("groups") is not None


def test_a_collate_function_is_not_left_out_in_silence(caplog):
    data = Listed([torch.zeros(2)] * 4)
    data.collate_fn = torch.stack
    parts_of("mine", data, "-")
    assert "its collate_fn is not used" in caplog.text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (Streamed(), "iterable-style data set.*__getitem__"),
        (Listed([]), "without items"),
        (Listed([{"a": 1}, {"b": 1}]), "item 1 has the fields b, item 0 a"),
        ({"train": Listed([1]), "test": 3}, "beside something else"),
        ({"mine": Listed([1])}, "beside something else"),
        (Listed([object()] * 3), "Python objects"),
    ],
)
def test_what_cannot_be_read_is_one_line(data, said):
    with pytest.raises(DataError, match=said):
        parts_of("mine", data, "-")
