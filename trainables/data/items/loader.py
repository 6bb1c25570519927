"""Reads items in batches: in this process, or in others beside it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from foldrace.errors import DataError
from foldrace.trainables.data.items.flat import drawn_from
from foldrace.trainables.data.items.lazy import Items
from foldrace.trainables.data.sample import LENGTH

__all__ = ["Loader", "every_item"]

_Key = tuple[int, int]
_READ_AT_ONCE = 256


class Loader:
    """Batches of items, as tensors by the name of the field.

    What is random in an item is drawn from a seed of its own, which follows from torch's global
    generator and the item's position: it is the same for any number of processes.

    Args:
        items: what to read.
        ragged: for each field, whether its first axis differs between items, and is padded.
        pin: whether the batches go to a GPU.
    """

    def __init__(self, items: Items, ragged: Mapping[str, bool], *, pin: bool = False) -> None:
        self._count = len(items)
        self._reader = _Reader(items, as_given=items.collate is not None)
        self._collate = _Collate(items, ragged)
        self._pass = _Pass()
        self._loader: DataLoader[Any] | None = None
        if items.workers:
            # The same processes read one pass after the other.
            self._loader = DataLoader(
                self._reader,
                batch_sampler=self._pass,
                num_workers=items.workers,
                collate_fn=self._collate,
                persistent_workers=True,
                pin_memory=pin,
                generator=torch.Generator(),  # so that nothing is drawn from the global one
            )
            # A DataLoader that is collected within a cycle waits 5 s for each of its processes, as
            # they no longer hear from it; one that is held until then is not part of any.
            weakref.finalize(self, _let_go, self._loader)

    def batches(self, parts: Sequence[NDArray[np.int64]]) -> Iterator[dict[str, Tensor]]:
        """The items at each of several (B,) positions, in order.

        Raises:
            DataError: an item or a batch cannot be used.
        """
        keyed = self._keyed(parts, int(torch.randint(2**62, ())))
        if self._loader is None or self._pass.parts:  # the processes are in the midst of a pass
            found: Iterator[Any] = (self._read(keys) for keys in keyed)
        else:
            self._pass.parts = keyed
            found = iter(self._loader)
        try:
            for batch in found:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
        finally:  # a pass that was given up ends with what is being read already
            keyed.clear()
            for _ in found:
                pass
            if self._pass.parts is keyed:
                self._pass.parts = []

    def take(self, indices: NDArray[np.int64]) -> dict[str, Tensor]:
        """The items at (B,) positions, read in this process. Raises: DataError: see `batches`."""
        batch = self._read(self._keyed([indices], 0)[0])
        if isinstance(batch, DataError):
            raise batch
        return batch

    def _read(self, keys: Sequence[_Key]) -> dict[str, Tensor] | DataError:
        return self._collate([self._reader[key] for key in keys])

    def _keyed(self, parts: Sequence[NDArray[np.int64]], base: int) -> list[list[_Key]]:
        """Each position with the seed of its item."""
        seeds = np.random.SeedSequence(base).generate_state(self._count)
        return [list(zip(part.tolist(), seeds[part].tolist(), strict=True)) for part in parts]


def every_item(items: Items) -> Iterator[dict[str, NDArray[Any]]]:
    """The fields of every item, in order. Raises: DataError: an item cannot be used."""
    seeds = np.random.SeedSequence(0).generate_state(len(items)).tolist()
    keys = list(enumerate(seeds))
    read = DataLoader(
        _Reader(items, as_given=False),
        batch_sampler=[keys[at : at + _READ_AT_ONCE] for at in range(0, len(keys), _READ_AT_ONCE)],
        num_workers=items.workers,
        collate_fn=list,
        generator=torch.Generator(),
    )
    for batch in read:
        for found in batch:
            if isinstance(found, DataError):
                raise found
            yield found[1]


def _let_go(loader: DataLoader[Any]) -> None:
    """Nothing is done; it was held until now."""


class _Pass:
    """The batches that a `DataLoader` asks for when it begins a pass."""

    def __init__(self) -> None:
        self.parts: list[list[_Key]] = []

    def __iter__(self) -> Iterator[list[_Key]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


class _Reader(Dataset[Any]):
    """Reads an item with its own random numbers: its key and the item, or what is wrong.

    Errors are returned, as one that is raised beside a trial arrives there as a text.
    """

    def __init__(self, items: Items, *, as_given: bool) -> None:
        self._items, self._as_given = items, as_given

    def __getitem__(self, key: _Key) -> tuple[_Key, Any] | DataError:
        index, seed = key
        try:
            with drawn_from(seed):
                return key, (self._items.item if self._as_given else self._items.fields)(index)
        except DataError as error:
            return error


class _Collate:
    """Makes a batch of items, with the random numbers of its first one."""

    def __init__(self, items: Items, ragged: Mapping[str, bool]) -> None:
        self._items, self._ragged = items, ragged

    def __call__(self, read: list[tuple[_Key, Any] | DataError]) -> dict[str, Tensor] | DataError:
        wrong = next((one for one in read if isinstance(one, DataError)), None)
        try:
            return wrong or self._made([one for one in read if not isinstance(one, DataError)])
        except DataError as error:
            return error

    def _made(self, read: Sequence[tuple[_Key, Any]]) -> dict[str, Tensor]:
        each = [item for _, item in read]
        if self._items.collate is None:
            return self._stacked([index for (index, _), _ in read], each)
        (_, seed), _ = read[0]
        with drawn_from(seed):
            made = self._items.batch(each)
        if missing := sorted({*self._ragged} - {*made}):
            rule = f"collate_fn returned no {missing[0]} of {len(each)} items, and did of one"
            raise DataError("dataset", self._items.name, rule, "return the same fields always")
        return {of: value for of, value in made.items() if of in self._ragged}

    def _stacked(
        self, indices: Sequence[int], each: Sequence[Mapping[str, NDArray[Any]]]
    ) -> dict[str, Tensor]:
        made: dict[str, Tensor] = {}
        for of, ragged in self._ragged.items():
            arrays = []
            for index, item in zip(indices, each, strict=True):
                if of not in item:
                    raise self._differs(index, f"has no {of}")
                arrays.append(item[of])
            if ragged:
                lengths = np.array([len(array) for array in arrays], dtype=np.int64)
                made[of + LENGTH] = torch.from_numpy(lengths)
                arrays = [_padded(array, int(lengths.max())) for array in arrays]
            for index, array in zip(indices, arrays, strict=True):
                first = arrays[0]
                if (array.shape, array.dtype) != (first.shape, first.dtype):
                    kinds = f"{of} {array.shape} {array.dtype}, others {first.shape}"
                    raise self._differs(index, f"has {kinds} {first.dtype}")
            if arrays[0].dtype.kind == "U":
                raise self._differs(indices[0], f"has a text as {of}, and the first one a number")
            made[of] = torch.from_numpy(np.stack(arrays))
        return made

    def _differs(self, index: int, rule: str) -> DataError:
        hint = "give all items the same fields and shapes, or the data set a collate_fn"
        return DataError("dataset", self._items.name, f"item {index} {rule}", hint)


def _padded(array: NDArray[Any], length: int) -> NDArray[Any]:
    made = np.zeros((length, *array.shape[1:]), array.dtype)
    made[: len(array)] = array
    return made
