"""The samples of a data set on a device, given out in batches."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Fields, Ragged
from foldrace.trainables.data.items.lazy import LazyField
from foldrace.trainables.data.items.loader import Loader
from foldrace.trainables.data.mapped import Mapped
from foldrace.trainables.data.sample import LENGTH, FieldInfo, Sample

__all__ = ["Batch", "Samples", "TrainingPart", "as_bytes", "as_pixels", "shared_tensor"]

Batch = dict[str, Tensor]
"""The fields of some samples by name, each (B, …) on the device."""

_AT_ONCE = 1024


class _Column(Protocol):
    """One field of all samples."""

    def take(self, indices: Tensor) -> Mapping[str, Tensor]:
        """Of the samples at (B,) indices on the device: tensors (B, …) on the device."""
        ...


class _Values:
    """A field whose samples have one shape; images become float32 in [0, 1]."""

    def __init__(self, info: FieldInfo, values: Tensor) -> None:
        self._name, self._image = info.name, info.image
        self.values = values

    def take(self, indices: Tensor) -> Mapping[str, Tensor]:
        chosen = self.values.index_select(0, indices.to(self.values.device))
        return {self._name: as_pixels(chosen) if self._image else chosen}

    def raw(self, indices: Tensor) -> Tensor:
        return self.values[indices.to(self.values.device)]


class _MappedValues:
    """A field in a file, of which a batch at a time is read and moved to the device."""

    def __init__(self, info: FieldInfo, array: Mapped, device: torch.device) -> None:
        self._name, self._image, self._array, self._device = info.name, info.image, array, device

    def take(self, indices: Tensor) -> Mapping[str, Tensor]:
        chosen = self.raw(indices)
        return {self._name: as_pixels(chosen) if self._image else chosen}

    def raw(self, indices: Tensor) -> Tensor:
        found = self._array.read(indices.cpu().numpy())
        return torch.from_numpy(found).to(self._device)


class _Sequences:
    """A field of sequences, which are padded with zeros to the longest of a batch."""

    def __init__(self, info: FieldInfo, values: Tensor, offsets: Tensor) -> None:
        self._name, self._values, self._offsets = info.name, values, offsets

    def take(self, indices: Tensor) -> Mapping[str, Tensor]:
        starts = self._offsets.index_select(0, indices)
        lengths = self._offsets.index_select(0, indices + 1) - starts
        longest = int(lengths.max()) if len(lengths) else 0
        steps = torch.arange(longest, device=indices.device)
        inside = steps < lengths[:, None]
        padded = self._values.new_zeros((len(indices), longest, *self._values.shape[1:]))
        padded[inside] = self._values[(starts[:, None] + steps)[inside]]
        return {self._name: padded, self._name + LENGTH: lengths}


class _Lazy:
    """The fields of items that are read when a batch needs them."""

    def __init__(
        self, fields: Mapping[str, LazyField], sample: Sample, device: torch.device
    ) -> None:
        first = next(iter(fields.values()))
        self._rows, self._device = first.rows, device
        self._images = [of for of in fields if sample[of].image]
        ragged = {of: sample[of].ragged for of in fields}
        ragged |= dict.fromkeys(first.items.with_role, False)
        self.collates = first.items.collate is not None
        self._loader = Loader(first.items, ragged, pin=device.type == "cuda")
        self.names = fields.keys()

    def take(self, indices: Tensor) -> Batch:
        return self._moved(self._loader.take(self._positions(indices)))

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        return map(self._moved, self._loader.batches([self._positions(part) for part in parts]))

    def _positions(self, indices: Tensor) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self._rows[indices.cpu().numpy()]
        return rows

    def _moved(self, batch: Mapping[str, Tensor]) -> Batch:
        moved = {of: value.to(self._device, non_blocking=True) for of, value in batch.items()}
        return moved | {of: as_pixels(moved[of]) for of in self._images if of in moved}


class Samples:
    """All samples of a part of a data set, on the device to train on.

    Attributes:
        sample: what one sample holds.
        device: of the batches.
    """

    def __init__(
        self,
        columns: Mapping[str, _Column],
        count: int,
        sample: Sample,
        device: torch.device,
        lazy: _Lazy | None = None,
    ) -> None:
        self._columns, self._count, self._lazy = columns, count, lazy
        self.sample, self.device = sample, device

    @classmethod
    def of(cls, fields: Fields, sample: Sample, device: torch.device) -> Samples:
        """Of arrays with N entries each.

        They are copied to the device; of those in files, or read item by item, only each batch is.
        """
        lazy = {name: array for name, array in fields.items() if isinstance(array, LazyField)}
        columns = {
            name: _column(sample[name], array, device)
            for name, array in fields.items()
            if not isinstance(array, LazyField)
        }
        read = _Lazy(lazy, sample, device) if lazy else None
        return cls(columns, len(next(iter(fields.values()))), sample, device, read)

    @classmethod
    def of_images(cls, images: Tensor) -> Samples:
        """Of (N, C, H, W) bytes, on their device."""
        info = FieldInfo("images", tuple(images.shape[1:]), "uint8", 0.0, 255.0)
        columns = {"images": _Values(info, images)}
        return cls(columns, len(images), Sample({"images": info}), images.device)

    def __len__(self) -> int:
        """The number of samples."""
        return self._count

    def take(self, indices: Tensor) -> Batch:
        """The samples at these positions.

        Args:
            indices: (B,) on the device.
        """
        found = {} if self._lazy is None else self._lazy.take(indices)
        return self._with_columns(found, indices)

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """The samples at each of several (B,) positions on the device, in order."""
        if self._lazy is None:
            return (self.take(part) for part in parts)
        return map(self._with_columns, self._lazy.batches(parts), parts)

    def _with_columns(self, found: Batch, indices: Tensor) -> Batch:
        """A batch with the fields that are in memory.

        Raises:
            DataError: a collate function has changed the order, so that they do not belong to its
                samples.
        """
        own = {name for name in self._columns if name in found}
        for name, column in self._columns.items():
            if name not in own:
                found.update(column.take(indices))
        changed = self._lazy is not None and self._lazy.collates and own
        if changed and len(own) < len(self._columns):
            for name in own:
                held = self._columns[name].take(indices)[name]
                if not torch.equal(held, found[name].to(held)):
                    rule = f"collate_fn changes {name} or its order, and does not return "
                    others = ", ".join(sorted({*self._columns} - own))
                    raise DataError("dataset", name, rule + others, f"return {others} as well")
        return found

    @property
    def reads_items(self) -> bool:
        """Whether items are read when a batch needs them."""
        return self._lazy is not None

    @property
    def fields(self) -> Collection[str]:
        """The names of the fields of this part."""
        return [*(self._lazy.names if self._lazy else ()), *self._columns]

    def column(self, name: str, indices: Tensor) -> Mapping[str, Tensor]:
        """One field of the samples at these positions, as a batch has it: with its lengths."""
        if self._lazy is not None and name in self._lazy.names:
            return self._lazy.take(indices)
        return self._columns[name].take(indices)

    def images(self, indices: Tensor) -> Tensor:
        """The only input of the samples at these positions, (B, C, H, W) bytes."""
        name = self.sample.input.name
        if self._lazy is not None and name in self._lazy.names:
            return as_bytes(self._lazy.take(indices)[name])
        column = self._columns[name]
        assert isinstance(column, _Values | _MappedValues)
        return column.raw(indices)


class TrainingPart(Mapping[str, Tensor]):
    """The training part of a fold, all at once: its fields by name, as a batch has them.

    A field is computed when it is asked for.
    """

    def __init__(self, samples: Samples, indices: Tensor) -> None:
        self._samples, self._indices = samples, indices

    def __len__(self) -> int:
        """The number of fields."""
        return len(self._samples.fields)

    def __iter__(self) -> Iterator[str]:
        return iter(self._samples.fields)

    def __getitem__(self, name: str) -> Tensor:
        of = name if name in self._samples.fields else name.removesuffix(LENGTH)
        return self._samples.column(of, self._indices)[name]

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self._indices)

    def batches(self, size: int = _AT_ONCE) -> Iterator[Batch]:
        """The samples in batches, for what is too large to be held at once."""
        return self._samples.batches(torch.split(self._indices, size))


def as_pixels(images: Tensor) -> Tensor:
    """Bytes as float32 in [0, 1]."""
    return images.to(torch.float32).div_(255.0)


def as_bytes(images: Tensor) -> Tensor:
    """Values in [0, 1] as bytes, rounded; others are cut off."""
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def _column(
    info: FieldInfo, array: NDArray[Any] | Ragged | Mapped, device: torch.device
) -> _Column:
    if isinstance(array, Ragged):
        values, offsets = shared_tensor(array.values), shared_tensor(array.offsets)
        return _Sequences(info, values.to(device), offsets.to(device))
    if isinstance(array, Mapped):
        return _MappedValues(info, array, device)
    return _Values(info, shared_tensor(array).to(device))


def shared_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor that shares the array's memory, even if that is read-only (Ray's object store)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
