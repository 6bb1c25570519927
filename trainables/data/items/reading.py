"""The fields of map-style data sets: read at once, or item by item as batches need them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError, first_line, printable
from foldrace.trainables.data.arrays import Parts, check_memory
from foldrace.trainables.data.fields import fields_of_parts, names_of_role, role_of_name
from foldrace.trainables.data.items.flat import drawn_from, named_leaves
from foldrace.trainables.data.items.lazy import Items, LazyField
from foldrace.trainables.data.parts import Part, part_named
from foldrace.trainables.data.sample import ROLES, Wanted
from foldrace.trainables.user_code import referenced_module
from foldrace.trainables.user_sources import project_sources, sources_digest

__all__ = ["are_items", "lazy_parts", "read_items"]

log = logging.getLogger(__name__)

_SEEN = 64
"""Items that are looked at to learn what the others hold."""
_ATTRIBUTES = {role: names_of_role(role) for role in ROLES}
"""The attributes of a data set that may hold a field of all its items."""


def are_items(value: object) -> bool:
    """Whether it is a data set of torch, or a mapping with one among its values."""
    each = list(value.values()) if isinstance(value, Mapping) else [value]
    return any(_torch_kind(one) for one in each)


def _torch_kind(value: object) -> str | None:
    """The name of the class of torch that a data set is derived from, without importing it."""
    bases = [base for base in type(value).__mro__ if base.__module__ == "torch.utils.data.dataset"]
    return bases[0].__name__ if bases else None


def _by_part(name: str, value: object) -> dict[str, Any]:
    """The data sets by the name of their part. Raises: DataError."""
    parts = value if isinstance(value, Mapping) else {"train": value}
    for key, data in parts.items():
        kind = _torch_kind(data)
        if kind is None or not isinstance(key, str) or part_named(key) is None:
            rule = "returned a Dataset of torch beside something else"
            raise DataError("dataset", name, rule, "return {train: dataset, test: dataset}")
        if "Iterable" in kind or "Chain" in kind or not hasattr(data, "__len__"):
            rule = "is an iterable-style data set, which has no folds: its samples have no numbers"
            raise DataError("dataset", name, rule, "give it __len__ and __getitem__")
        try:
            empty = not len(data)
        except Exception as error:
            rule = f"its len() raised {type(error).__name__}: {first_line(error)}"
            raise DataError("dataset", name, printable(rule)) from error
        if empty:
            raise DataError("dataset", name, "is a data set without items")
    return dict(parts)


def read_items(
    name: str, value: object, parts_of_arrays: Callable[[Mapping[str, Any]], Parts]
) -> Parts:
    """The fields of map-style data sets, each of whose items is read once, into memory.

    Args:
        name: the data set's name in an error.
        value: see `are_items`.
        parts_of_arrays: makes parts of arrays by key: ``train_x``.

    Raises:
        DataError: an item raises an exception, or holds other fields than the first.
    """
    values: dict[str, Any] = {}
    for key, data in _by_part(name, value).items():
        if _collate_of(data) is not None:
            hint = "set dataset.workers, and it makes the batches"
            log.warning("%s: its collate_fn is not used: the fields of items are; %s", name, hint)
        with drawn_from(0):
            items = _all_items(name, data)
        _add_attributes(name, items, data, len(data), {})
        part = (part_named(key) or Part.TRAINING).prefix
        if twice := sorted({f"{part}_{of}" for of in items} & {*values}):
            rule = f"holds the field {twice[0].removeprefix(f'{part}_')} of the {part} part twice"
            raise DataError("dataset", name, rule, "give each part once")
        values |= {f"{part}_{of}": array for of, array in items.items()}
    made = parts_of_arrays(values)
    note = "each item has been read once: what is random in __getitem__ is drawn once"
    return replace(made, notes=(*made.notes, note))


def _all_items(name: str, data: Any) -> dict[str, Any]:
    """The fields of all items: arrays, or lists of what differs in shape."""
    found: dict[str, list[Any]] = {}
    for index in range(len(data)):
        try:
            leaves = [(of, _as_array(leaf)) for of, leaf in named_leaves(data[index])]
            item = dict(leaves)
        except (Exception, SystemExit) as error:
            rule = f"item {index} raised {type(error).__name__}: {first_line(error)}"
            raise DataError("dataset", name, rule) from error
        if len(item) < len(leaves):
            of = next(of for place, (of, _) in enumerate(leaves) if of in dict(leaves[:place]))
            rule = f"item {index} has two fields {of}"
            raise DataError("dataset", name, printable(rule), "rename one")
        if index and set(item) != set(found):
            rule = f"item {index} has the fields {', '.join(item)}, item 0 {', '.join(found)}"
            raise DataError("dataset", name, printable(rule), "give all items the same")
        if not index:
            check_memory(name, len(data) * sum(each.nbytes for each in item.values()))
        for of, each in item.items():
            found.setdefault(of, []).append(each)
    return {
        of: np.stack(each) if len({np.shape(one) for one in each}) == 1 else each
        for of, each in found.items()
    }


def _as_array(leaf: Any) -> NDArray[Any]:
    return np.asarray(leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf)


def lazy_parts(name: str, value: object, source: str, wanted: Wanted, workers: int) -> Parts:
    """The fields of map-style data sets, whose items are read when a batch needs them.

    The first items, some others and the last are looked at to learn what all hold. A field with a
    role has to be known of all: it is an attribute of the data set (``targets``, ``groups``), or
    each item is read once for it.

    Args:
        workers: the processes that read the items of a trial; 0: the trial's own.

    Raises:
        DataError: an item cannot be read or used.
    """
    # a name without a colon is none of a function
    code = sources_digest(project_sources(referenced_module(name)) if ":" in name else {})
    by_part: dict[Part, dict[str, object]] = {part: {} for part in Part}
    for part, data in _joined(_by_part(name, value)).items():
        items = Items(name, data, workers, _collate_of(data), code=code)
        by_part[part] = _lazy_fields(items, wanted)
    made = fields_of_parts(name, by_part, source, wanted)
    lazy = [of for of, array in made.training.items() if isinstance(array, LazyField)]
    how = f"by {workers} processes per trial" if workers else "by the trial itself"
    note = f"read when a batch needs them, {how}: {', '.join(lazy)}; their ranges are not known"
    return replace(made, notes=(note,))


def _joined(parts: Mapping[str, Any]) -> dict[Part, Any]:
    """The data sets by part; one for validation joins that for training."""
    from torch.utils.data import ConcatDataset

    found: dict[Part, Any] = {}
    for key, data in parts.items():
        part = part_named(key) or Part.TRAINING
        part = Part.TRAINING if part is Part.VALIDATION else part
        found[part] = ConcatDataset([found[part], data]) if part in found else data
    return found


def _collate_of(data: Any) -> Any:
    """The collate function of a data set, or of what it is a `Subset` or `ConcatDataset` of."""
    if (own := getattr(data, "collate_fn", None)) is not None:
        return own
    inner = [getattr(data, "dataset", None), *getattr(data, "datasets", ())]
    return next(filter(None, (_collate_of(one) for one in inner if one is not None)), None)


def _lazy_fields(items: Items, wanted: Wanted) -> dict[str, object]:
    """The fields of a part: lazy ones, and in memory what has a role."""
    count = len(items)
    looked_at = np.unique(np.linspace(0, count - 1, min(count, _SEEN)).astype(np.int64)).tolist()
    if items.collate is not None:
        with drawn_from(0):
            batches = [items.fields(index, whole=True) for index in looked_at]
        apart = frozenset(of for one in batches for of in one if len(one[of]) != 1)
        items = replace(items, unlike_samples=apart)
    with drawn_from(0):
        first = items.fields(0)
    with drawn_from(0):
        again = items.fields(0)
        seen = {index: items.fields(index) for index in looked_at}
    if any(of not in again or first[of].tobytes() != again[of].tobytes() for of in first):
        text = "%s: an item that is read twice differs, so a sweep cannot be repeated; %s"
        log.warning(text, items.name, "draw from torch, numpy.random or random alone")
    for index, item in seen.items():
        if set(item) != set(first):
            rule = f"item {index} has the fields {', '.join(item)}, item 0 {', '.join(first)}"
            raise DataError("dataset", items.name, printable(rule), "give all items the same")
    given = {of for of in wanted.roles.values() if of is not None}
    has_role = {of for of in first if of in given or _role_of(of, wanted) is not None}
    numbers = tuple(of for of in first if of in has_role and first[of].dtype.kind != "U")
    items = replace(items, with_role=numbers)
    found: dict[str, object] = {}
    to_scan: list[str] = []
    for of in first:
        each = {index: item[of] for index, item in seen.items()}
        role = _role_of(of, wanted)
        if of not in has_role:
            found[of] = _lazy_field(items, of, each)
        elif (known := _known(items, role, each)) is not None:
            found[of] = known
        else:
            found[of] = None  # keeps its place
            to_scan.append(of)
    if to_scan:
        found.update(_scanned(items, to_scan))
    _add_attributes(items.name, found, items.data, count, wanted.roles)
    return found


def _add_attributes(
    name: str, found: dict[str, Any], data: Any, count: int, given: Mapping[str, str | None]
) -> None:
    """Adds the fields that a data set holds for a role that no field of its items has.

    Args:
        given: the roles that the sweep file gives.
    """
    by_name = {role_of_name(of) for of in found}
    for role, names in _ATTRIBUTES.items():
        for of in names if role not in by_name and role not in given else ():
            if (values := _attribute(data, of)) is not None and of not in found:
                found[of] = values
                break
            held = getattr(data, of, None)
            if role in ("groups", "split") and isinstance(held, list | np.ndarray):
                rule = f"has {len(held):,} {of} for {count:,} items"
                raise DataError(
                    "dataset", name, rule, "give one per item, or rename the attribute"
                )


def _role_of(of: str, wanted: Wanted) -> str | None:
    given = next((role for role, field in wanted.roles.items() if field == of), None)
    by_name = role_of_name(of)
    return given or (None if by_name in wanted.roles else by_name)


def _lazy_field(items: Items, of: str, each: Mapping[int, NDArray[Any]]) -> LazyField:
    """A field, as the items that were looked at have it."""
    (index, array), *others = each.items()
    shape: tuple[int | None, ...] = array.shape
    for other, one in others:
        alike = one.dtype == array.dtype and one.ndim == array.ndim
        if not alike or (one.shape[1:] != array.shape[1:] and items.collate is None):
            kinds = f"{array.shape} {array.dtype}, of item {other} {one.shape} {one.dtype}"
            rule = f"{of} of item {index} is {kinds}"
            hint = "give all items the same, or the data set a collate_fn"
            raise DataError("dataset", items.name, rule, hint)
        shape = tuple(n if n == m else None for n, m in zip(shape, one.shape, strict=True))
    if array.dtype.kind == "U":
        rule = f"{of} is a text, and texts are not read item by item"
        raise DataError("dataset", items.name, rule, "return numbers from __getitem__")
    digests = {
        index: hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest()
        for index, one in each.items()
    }
    return LazyField(items, of, shape, array.dtype, digests, np.arange(len(items)))


def _known(items: Items, role: str | None, each: Mapping[int, NDArray[Any]]) -> Any:
    """A field of all items from an attribute of the data set, if the items agree; else None."""
    for attribute in _ATTRIBUTES.get(role or "", ()):
        values = _attribute(items.data, attribute)
        if values is None or len(values) != len(items):
            continue
        if all(np.array_equal(values[index], array) for index, array in each.items()):
            return values.astype(next(iter(each.values())).dtype, copy=False)
    return None


def _attribute(data: Any, name: str) -> NDArray[Any] | None:
    """An array of an entry per item that a data set holds, also through `Subset` and
    `ConcatDataset`."""
    try:
        if (held := getattr(data, name, None)) is not None:
            values = _as_array(held)
            if values.ndim and values.dtype.kind in "biufU":
                return values if len(values) == len(data) else None
            return None
    except Exception:  # of any kind, of whatever a data set calls so
        return None
    if hasattr(data, "dataset") and hasattr(data, "indices"):
        whole = _attribute(data.dataset, name)
        return None if whole is None else whole[np.asarray(data.indices, dtype=np.intp)]
    if isinstance(each := getattr(data, "datasets", None), list):
        parts = [_attribute(one, name) for one in each]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    return None


def _scanned(items: Items, fields: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Fields of all items, each of which is read once."""
    from foldrace.trainables.data.items.loader import every_item

    named, count = ", ".join(fields), len(items)
    log.info("%s: reading its %d items once, for %s", items.name, count, named)
    found: dict[str, list[NDArray[Any]]] = {of: [] for of in fields}
    for index, item in enumerate(every_item(items)):
        for of in fields:
            if of not in item:
                raise DataError("dataset", items.name, f"item {index} has no {of}")
            found[of].append(item[of])
    shapes = {of: {array.shape for array in arrays} for of, arrays in found.items()}
    for of, different in shapes.items():
        if len(different) > 1:
            rule = f"{of} differs in shape between items: {sorted(map(str, different))[:3]}"
            raise DataError("dataset", items.name, rule, "give all items the same")
    return {of: np.stack(arrays) for of, arrays in found.items()}
