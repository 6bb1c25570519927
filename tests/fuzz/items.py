"""Map-style data sets whose items, attributes and collate functions are odd: each is read, at once
or item by item, or refused with an error of one line."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from foldrace.errors import DataError
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.training.samples import Samples

__all__ = ["drawn", "run_case"]

_FUNCTION = """
from tests.fuzz.items import drawn

def data():
    return drawn({seed})
"""
_LEAVES: tuple[Callable[[int], Any], ...] = (
    lambda index: torch.full((3,), float(index)),
    lambda index: torch.full((3,), float(index)),
    lambda index: torch.full((2, 4, 4), index % 256, dtype=torch.uint8),
    lambda index: np.arange(index % 4),
    lambda index: np.ones((index % 3 + 1, 2), np.float32),
    lambda index: index % 3,
    lambda index: index / 7,
    lambda index: bool(index % 2),
    lambda index: "ab"[index % 2],
    lambda index: Image.new("L", (4, 4), index % 256),
    lambda index: Image.new(("RGB", "P", "1", "I;16")[index % 8 // 2], (4, 4)),
    lambda index: [index, index + 1],
    lambda index: torch.tensor(index),
)
_ODD: tuple[Callable[[int], Any], ...] = (
    lambda index: None,
    lambda index: object(),
    lambda index: "a\x1b[31m\n",
    lambda index: float("nan"),
    lambda index: 10**30,
    lambda index: torch.zeros(0),
    lambda index: torch.zeros((5, 5, 5)),
    lambda index: torch.zeros(3, dtype=torch.complex64),
    lambda index: torch.zeros(3).to_sparse(),
    lambda index: torch.zeros(3, requires_grad=True),
    lambda index: np.array([object()]),
    lambda index: {},
    lambda index: (),
    lambda index: {"deep": {"er": (1, {"x": 2})}},
    lambda index: {3: index},
    lambda index: {"a b": index, "x\n": index},
    lambda index: 1 // 0,
    lambda index: [][index],
)
_COLLATE: tuple[Callable[[list[Any]], Any], ...] = (
    lambda items: torch.zeros((len(items), 2)),
    lambda items: {"x": torch.zeros((len(items), 2)), "y": torch.zeros(len(items))},
    lambda items: (torch.zeros((len(items), 2)), {"z": torch.zeros(len(items))}),
    torch.utils.data.default_collate,
    lambda items: items,
    lambda items: None,
    lambda items: {"x": torch.tensor(1.0)},
    lambda items: 1 // 0,
)


class _Odd(Dataset[Any]):
    def __init__(self, seed: int) -> None:
        draw = random.Random(f"items/{seed}")
        self._count = draw.choice((0, 1, 2, *[30] * 8))
        keys = draw.sample(("x", "y", "image", "groups", "time", "weight", "id", "w"), 3)
        self._made = {key: draw.choice(_LEAVES) for key in keys[: draw.randrange(1, 4)]}
        self._form = draw.choice(("mapping", "mapping", "pair", "bare"))
        self._odd = draw.choice(_ODD) if draw.random() < 0.4 else None
        self._odd_at = draw.choice((0, 1, 17, 29))
        if draw.random() < 0.3:
            count = draw.choice((self._count, self._count, 3))
            self.targets = draw.choice(([1] * count, torch.zeros(count), "text", 7, object()))
        if draw.random() < 0.2:
            self.groups = draw.choice((["a", "b"] * (self._count // 2), np.arange(self._count)))
        if draw.random() < 0.3:
            self.collate_fn = draw.choice(_COLLATE)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self._count:
            raise IndexError(index)
        item = {key: made(index) for key, made in self._made.items()}
        if self._odd is not None and index == self._odd_at:
            item = {**item, next(iter(item)): self._odd(index)}
        if self._form == "mapping":
            return item
        return tuple(item.values()) if self._form == "pair" else next(iter(item.values()))


def drawn(seed: int) -> Any:
    """What a user's function might return."""
    draw = random.Random(f"form/{seed}")
    one, other = _Odd(seed), _Odd(seed + draw.choice((0, 1)))
    return draw.choice(
        (
            one,
            one,
            one,
            {"train": one, "test": other},
            {"train": one, "val": other},
            {"train": one, "other": other},
            Subset(one, range(0, len(one), 2)),
            ConcatDataset([one, other]),
            TensorDataset(torch.rand(30, 3), torch.arange(30) % draw.choice((2, 30))),
        )
    )


def _within(data: Any) -> Iterator[Any]:
    """A data set, and those that it is made of."""
    yield data
    parts = [*data.values()] if isinstance(data, dict) else getattr(data, "datasets", [])
    for one in (*parts, getattr(data, "dataset", None)):
        if one is not None:
            yield from _within(one)


def run_case(seed: int, folder: Path) -> str:
    """Reads all samples of a data set; returns ``accepted`` or ``refused``.

    Raises:
        AssertionError: the error is not one line.
        Exception: whatever the readers let through.
    """
    draw = random.Random(f"workers/{seed}")
    path = folder / f"items_{seed}.py"
    path.write_text(_FUNCTION.format(seed=seed))
    workers = draw.choice((None, *[0] * 8, *[1] * (seed % 25 == 0)))
    try:
        data = load_dataset(f"{path}:data", workers=workers, data_dir=folder)
        for part in (data.training, data.test):
            samples = Samples.of(part, data.sample, torch.device("cpu"))
            positions = torch.split(torch.arange(len(samples)), 7)
            for at, batch in zip(positions, samples.batches(positions), strict=True):
                assert batch and all(isinstance(value, torch.Tensor) for value in batch.values())
                if not any(hasattr(one, "collate_fn") for one in _within(drawn(seed))):
                    assert {len(value) for value in batch.values()} == {len(at)}
    except DataError as error:
        assert str(error).isprintable(), repr(str(error))
        return "refused"
    return "accepted"
