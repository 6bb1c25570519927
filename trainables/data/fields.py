"""Arrays of any type as the fields of a data set, whose names tell their parts and roles."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError, nearest, printable
from foldrace.trainables.data.arrays import Array, Parts, Ragged, chunks
from foldrace.trainables.data.items.lazy import LazyField
from foldrace.trainables.data.mapped import Mapped
from foldrace.trainables.data.parts import Part, part_named
from foldrace.trainables.data.sample import BY_NAME, LENGTH, ROLES, Roles, Wanted

__all__ = [
    "as_field",
    "chosen_fields",
    "fields_from",
    "fields_of_parts",
    "names_of_role",
    "role_of_name",
]

log = logging.getLogger(__name__)

_ROLE_OF_NAME = {
    **dict.fromkeys(("target", "targets", "label", "labels", "y"), "target"),
    **dict.fromkeys(("group", "groups"), "groups"),
    **dict.fromkeys(("split", "fold", "folds"), "split"),
    **dict.fromkeys(("time", "timestamp"), "time"),
    **dict.fromkeys(("weight", "weights", "sample_weight"), "weight"),
    **dict.fromkeys(("id", "ids"), "id"),
}
_NAME = re.compile(r"[^\W\d]\w*")
_NUMBERS = "biuf"
_MANY_CLASSES = 50


def fields_from(
    name: str, values: Mapping[str, object], source: str, wanted: Wanted = BY_NAME
) -> Parts:
    """Fields from arrays by key, which keep their types.

    A key like ``x_train``, ``test_y`` or ``val_tokens`` names a part and a field; any other is a
    field of the training part. A validation part joins the training part. What is left out is
    named in a warning.

    Args:
        name: the data set's name in an error.
        values: an array, a tensor, or a list of numbers, of texts or of arrays of unequal length
            (sequences) for each key.
        source: see `Dataset`.

    Raises:
        DataError: a field that is wanted is missing, fields differ in length or cannot be used, or
            the parts differ.

    >>> parts = fields_from("mine", {"x": np.zeros((4, 2)), "y": ["a", "b", "b", "a"]}, "-")
    >>> parts.roles.target, parts.training["y"].tolist(), parts.names
    ('y', [0, 1, 1, 0], {'y': ('a', 'b')})
    """
    by_part: dict[Part, dict[str, object]] = {part: {} for part in Part}
    for key, value in values.items():
        part, of = _part_and_field(key)
        if of in by_part[part]:
            rule = f"holds the field {of} of the {part.value} part twice"
            raise DataError("dataset", name, rule, "keep one of them")
        if value is not None:
            by_part[part][of] = value
    return fields_of_parts(name, by_part, source, wanted)


def fields_of_parts(
    name: str,
    by_part: Mapping[Part, Mapping[str, object]],
    source: str,
    wanted: Wanted = BY_NAME,
) -> Parts:
    """`fields_from` arrays by part and field. Raises: DataError: see there."""
    training = by_part[Part.TRAINING]
    if not training:
        raise DataError("dataset", name, "holds no field of a training part")
    chosen = _chosen(name, training, wanted)
    roles = _roles(name, chosen, wanted)
    only_training = {roles.groups, roles.split}
    arrays: dict[Part, dict[str, Array]] = {}
    for part, held in by_part.items():
        if not held:
            continue
        missing = [
            of
            for of in chosen
            if of not in held and not (part is Part.TEST and of in only_training)
        ]
        if missing:
            rule = f"the {part.value} part has no field {', '.join(missing)}"
            raise DataError("dataset", name, rule, f"it has: {', '.join(held)}")
        arrays[part] = {of: as_field(name, of, held[of]) for of in chosen if of in held}
        _check_lengths(name, part, arrays[part])
        left_out = sorted(set(held) - set(chosen))
        if left_out and part is not Part.TRAINING:
            log.warning("%s: of the %s part: not read: %s", name, part.value, ", ".join(left_out))
    for of in {of for held in arrays.values() for of in held if isinstance(held[of], Ragged)}:
        for held in arrays.values():  # sequences that happen to have one length are sequences too
            array = held.get(of)
            if isinstance(array, np.ndarray) and array.ndim > 1:
                held[of] = Ragged.of(list(array))
    joined, names = _numbered(name, arrays, roles)
    if roles.time in names:
        rule = f"{roles.time}, the time, is text, of which the order in time is not known"
        hint = "save it as numbers or dates (datetime64), or write time: false"
        raise DataError("dataset", name, rule, hint)
    if roles.split in names and (parts := [t for t in names[roles.split] if part_named(t)]):
        rule = f"{roles.split} holds the name of a part, {parts[0]}, and not of a fold"
        hint = "write split: false, and give the parts as train_… and test_… or as {train: …}"
        raise DataError("dataset", name, printable(rule), hint)
    for of in chosen:
        _check_values(name, of, roles, joined)
    train = joined[Part.TRAINING]
    if Part.VALIDATION in joined:
        count = len(next(iter(joined[Part.VALIDATION].values())))
        if any(isinstance(array, Mapped) for array in train.values()):
            rule = "a validation part cannot join a training part that stays in its files"
            raise DataError("dataset", name, rule, "write both into one file, x.npy")
        log.warning("%s: the %d validation samples join the training part", name, count)
        train = {
            of: _concatenated([array, joined[Part.VALIDATION][of]]) for of, array in train.items()
        }
    return Parts(train, source, joined.get(Part.TEST), roles, names)


def chosen_fields(name: str, parts: Parts, wanted: Wanted) -> Parts:
    """The parts with the fields and roles that a sweep file asks for.

    Raises:
        DataError: a field that is wanted is missing, or has two roles.
    """
    if wanted.inputs is None and not wanted.roles:
        return parts
    known = {role: getattr(parts.roles, role) for role in ROLES}
    merged = Wanted(wanted.inputs, {**known, **wanted.roles})
    chosen = _chosen(name, parts.training, merged)
    roles = _roles(name, chosen, merged)
    test = parts.test
    return replace(
        parts,
        training={of: parts.training[of] for of in chosen},
        test=None if test is None else {of: test[of] for of in chosen if of in test},
        roles=roles,
        names={of: names for of, names in parts.names.items() if of in chosen},
    )


def _part_and_field(key: str) -> tuple[Part, str]:
    """``x_train`` → (training, x); ``test_labels`` → (test, labels); ``age`` → (training, age)."""
    head, _, tail = key.partition("_")
    if tail and (part := part_named(head)) is not None:
        return part, tail
    head, _, tail = key.rpartition("_")
    if head and (part := part_named(tail)) is not None:
        return part, head
    return Part.TRAINING, key


def _chosen(name: str, held: Mapping[str, object], wanted: Wanted) -> list[str]:
    """The fields to read, in the order of the data set."""
    for of in wanted.named:
        if of not in held:
            rule = f"has no field {of}"
            raise DataError("dataset", name, rule, nearest(of, held))
    chosen = [
        of for of in held if wanted.inputs is None or of in wanted.named or _has_role(of, wanted)
    ]
    sizes = {of: _length(held[of]) for of in chosen}
    notes = [of for of, size in sizes.items() if size is None and of not in wanted.named]
    chosen = [of for of in chosen if of not in notes]
    left_out = [of for of in held if of not in chosen]
    if left_out:
        log.warning("%s: fields that are not read: %s", name, printable(", ".join(left_out)))
    for of in chosen:
        if not _NAME.fullmatch(of) or of.removesuffix(LENGTH) in {*held} - {of}:
            rule = f"a field is called {of!r}: a name is letters, digits and _"
            if of.endswith(LENGTH):
                rule = f"a field is called {of!r}, as the lengths of {of.removesuffix(LENGTH)} are"
            raise DataError("dataset", name, rule, "rename it")
    if not chosen:
        raise DataError("dataset", name, "holds no array with one entry per sample")
    return chosen


def names_of_role(role: str) -> tuple[str, ...]:
    """The names by which a field has a role."""
    return tuple(of for of, other in _ROLE_OF_NAME.items() if other == role)


def role_of_name(of: str) -> str | None:
    """The role that a field has by its name alone, or None."""
    return _ROLE_OF_NAME.get(of)


def _has_role(of: str, wanted: Wanted) -> bool:
    """Whether a field has a role by its name, which is not given to another one."""
    role = role_of_name(of)
    return role is not None and role not in wanted.roles


def _roles(name: str, chosen: Sequence[str], wanted: Wanted) -> Roles:
    found: dict[str, str | None] = {}
    for role in ROLES:
        if role in wanted.roles:
            found[role] = wanted.roles[role]
            continue
        named = [of for of in chosen if _ROLE_OF_NAME.get(of) == role and of not in wanted.named]
        if len(named) > 1:
            rule = f"could be the {role}: {' or '.join(named)}"
            raise DataError("dataset", name, rule, f"write {role}: {named[0]}")
        found[role] = named[0] if named else None
    roles = Roles(**found)
    taken = [of for of in found.values() if of is not None]
    if len(set(taken)) < len(taken):
        twice = next(of for of in taken if taken.count(of) > 1)
        raise DataError("dataset", name, f"the field {twice} has two roles", "give it one")
    if not set(chosen) - set(taken):
        raise DataError("dataset", name, "has no input: every field has a role")
    return roles


def _length(value: object) -> int | None:
    """The number of entries; None of a single number or text."""
    if isinstance(value, str | bytes | Mapping) or getattr(value, "shape", None) == ():
        return None
    if hasattr(value, "toarray"):  # a sparse matrix, which has no len()
        return int(value.shape[0])  # type: ignore[attr-defined]
    try:
        return len(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def as_field(name: str, of: str, value: object) -> Array:
    """One array with an entry per sample: numbers of any type, texts, or sequences.

    Raises:
        DataError: neither an array nor sequences, or of Python objects.
    """
    if isinstance(value, Ragged | LazyField):
        return value
    if isinstance(value, Mapped):
        if value.dtype.kind in _NUMBERS and value.size:
            return value
        rule = f"{of} must be numbers, at least one; it is {value.dtype} of shape {value.shape}"
        raise DataError("dataset", name, rule)
    if hasattr(value, "toarray"):
        rule = f"{of} is a sparse matrix, which batches cannot be taken of"
        raise DataError("dataset", name, rule, "return its .toarray()")
    try:
        if hasattr(value, "detach"):  # a torch tensor, recognised without importing torch
            value = value.detach().cpu().numpy()
        of_objects = isinstance(value, np.ndarray) and value.dtype.hasobject
        if of_objects or isinstance(value, list | tuple):
            sequences = _sequences(value)
            if sequences is not None:
                return Ragged.of(sequences)
        array = np.asarray(value)
    except Exception as error:
        rule = f"{of} is not an array: {type(error).__name__}: {error}"
        raise DataError("dataset", name, rule) from error
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    if array.dtype.hasobject and all(isinstance(item, str) for item in array.flat):
        array = array.astype(np.str_)
    if array.dtype.kind in "mM" and np.isnat(array).any():
        rule = f"{of} has {int(np.isnat(array).sum())} missing dates (NaT)"
        raise DataError("dataset", name, rule, "fill them in, or leave those samples out")
    if array.dtype.kind in "mM":
        array = array.astype("datetime64[ns]" if array.dtype.kind == "M" else "timedelta64[ns]")
        array = array.astype(np.int64)
    if array.dtype.kind not in _NUMBERS + "U":
        kind = "Python objects" if array.dtype.hasobject else str(array.dtype)
        rule = f"{of} must be numbers, true or false, texts or sequences; it is {kind}"
        raise DataError("dataset", name, rule)
    if array.ndim == 0 or array.size == 0 or (array.dtype.kind == "U" and array.ndim != 1):
        rule = f"{of} must have one entry per sample; its shape is {array.shape}"
        raise DataError("dataset", name, rule)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        rule = f"{of} must have at most 64 bits per number; it is {array.dtype}"
        raise DataError("dataset", name, rule, "convert it to float64")
    if array.dtype.kind in _NUMBERS:
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return np.ascontiguousarray(array)


def _sequences(value: Any) -> list[NDArray[Any]] | None:
    """Sequences of numbers of unequal length, of one type; None if it is anything else."""
    if not len(value) or not all(_length(one) is not None for one in value):
        return None
    arrays = [np.asarray(one) for one in value]
    if len({len(one) for one in arrays}) == 1 or any(
        one.dtype.kind not in _NUMBERS for one in arrays
    ):
        return None
    dtype = np.result_type(*(one.dtype for one in arrays if one.size))
    return [one.astype(dtype, copy=False) for one in arrays]


def _check_lengths(name: str, part: Part, arrays: Mapping[str, Array]) -> None:
    lengths = {of: len(array) for of, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{of} {count:,}" for of, count in lengths.items())
        rule = f"the fields of the {part.value} part differ in length: {listed}"
        raise DataError("dataset", name, rule, "name those to read: inputs: […], target: …")


def _numbered(
    name: str, arrays: Mapping[Part, Mapping[str, Array]], roles: Roles
) -> tuple[dict[Part, dict[str, Array]], dict[str, tuple[str, ...]]]:
    """The arrays with texts as numbers, and the names of these; types agree between the parts."""
    made: dict[Part, dict[str, Array]] = {part: dict(held) for part, held in arrays.items()}
    names: dict[str, tuple[str, ...]] = {}
    for of in arrays[Part.TRAINING]:
        held = {part: each[of] for part, each in arrays.items() if of in each}
        _check_alike(name, of, held)
        texts_of = {
            part: array
            for part, array in held.items()
            if isinstance(array, np.ndarray) and array.dtype.kind == "U"
        }
        if not texts_of:
            continue
        seen = [part for part in texts_of if of != roles.target or part is not Part.TEST]
        texts = sorted({str(text) for part in seen for text in np.unique(texts_of[part])})
        number = {text: index for index, text in enumerate(texts)}
        for part, array in texts_of.items():
            if unknown := sorted({str(text) for text in np.unique(array)} - set(texts)):
                rule = f"the test part has a class {unknown[0]} that the training part has not"
                raise DataError("dataset", name, rule)
            made[part][of] = np.array([number[str(text)] for text in array], dtype=np.int64)
        names[of] = tuple(texts)
    return made, names


def _check_alike(name: str, of: str, held: Mapping[Part, Array]) -> None:
    """All parts of a field have the same type and the same shape of a sample."""
    kinds = {}
    for part, array in held.items():
        values = array.values if isinstance(array, Ragged) else array
        dtype: str = "text" if values.dtype.kind == "U" else str(values.dtype)
        kinds[part.value] = (isinstance(array, Ragged), values.shape[1:], dtype)
    if len(set(kinds.values())) > 1:
        shown = ", ".join(f"{part} {shape} {dtype}" for part, (_, shape, dtype) in kinds.items())
        rule = f"{of} differs between the parts: {shown}"
        raise DataError("dataset", name, rule, "give all parts the same shape and type")


def _check_values(
    name: str, of: str, roles: Roles, parts: Mapping[Part, Mapping[str, Array]]
) -> None:
    """What is not finite is refused where it cannot be used, and named where it may be."""
    role = next((role for role in ROLES if getattr(roles, role) == of), None)
    numbers = parts[Part.TRAINING].get(of)
    if role == "target" and isinstance(numbers, np.ndarray) and numbers.dtype.kind in "iu":
        different = len(np.unique(numbers))
        if numbers.ndim == 1 and different > max(_MANY_CLASSES, len(numbers) / 10):
            text = "%s: %s, the target, holds %d different whole numbers, taken as classes; %s"
            log.warning(text, name, of, different, "for values, give them as floats")
    for part, held in parts.items():
        if of not in held:
            continue
        array = held[of]
        if isinstance(array, LazyField):
            continue
        values = array.values if isinstance(array, Ragged) else array
        if role in ("groups", "split", "time", "weight") and values.ndim != 1:
            rule = f"{of} must be one number per sample to be the {role}; it has {values.shape}"
            raise DataError("dataset", name, rule)
        if role in ("groups", "split") and values.dtype.kind not in "biu":
            rule = f"{of} must be whole numbers or texts to be the {role}; it is {values.dtype}"
            raise DataError("dataset", name, rule)
        if role == "weight" and any((some < 0).any() for some in chunks(array)):
            raise DataError("dataset", name, f"{of}, the weight, must not be negative")
        if values.dtype.kind != "f":
            continue
        bad = int(values.size - sum(int(np.isfinite(some).sum()) for some in chunks(array)))
        if bad and role is not None:
            rule = f"{of}, the {role}, must be finite; {bad} of {values.size} values are not"
            raise DataError("dataset", name, rule)
        if bad:
            log.warning(
                "%s: %s of the %s part: %d of %d values are not finite",
                name,
                of,
                part.value,
                bad,
                values.size,
            )


def _concatenated(arrays: Sequence[Array]) -> Array:
    ragged = [array for array in arrays if isinstance(array, Ragged)]
    if ragged:
        lengths = np.concatenate([array.lengths for array in ragged])
        offsets = np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64)
        return Ragged(np.concatenate([array.values for array in ragged]), offsets)
    return np.concatenate([array for array in arrays if isinstance(array, np.ndarray)])
