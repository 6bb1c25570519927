"""Fetches a named data set, verifies it, and keeps it in the data folder."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Parts
from foldrace.trainables.data.named.catalogue import NamedDataset
from foldrace.trainables.data.named.store import (
    VerificationError,
    read_stored,
    staging,
    stored_path,
    write_stored,
)
from foldrace.trainables.data.parts import digest

__all__ = ["obtain"]

log = logging.getLogger(__name__)

_LONGEST_REASON = 300  # characters of a source's error in a message


def obtain(entry: NamedDataset, data_dir: Path) -> Parts:
    """A named data set from the data folder; it is fetched if it is missing or damaged there.

    Raises:
        DataError: no source worked (the message has the reason of each), or the data set cannot be
            stored.
    """
    if entry.built_in is not None:
        return entry.built_in()
    try:
        parts = _stored(entry, data_dir)
    except VerificationError as error:
        path = stored_path(entry.name, data_dir)
        log.warning(
            "%s: the stored copy %s is damaged (%s): fetching it again", entry.name, path, error
        )
        parts = None
    if parts is None:
        with staging(entry.name, data_dir) as stage:
            # Another process may have fetched it while this one waited for the lock.
            with suppress(VerificationError):
                parts = _stored(entry, data_dir)
            parts = parts or _fetch(entry, data_dir, stage)
    return replace(parts, names={"labels": entry.class_names})


def _stored(entry: NamedDataset, data_dir: Path) -> Parts | None:
    parts = read_stored(entry.name, data_dir)
    if parts is not None:
        _verify(entry, parts)
    return parts


def _fetch(entry: NamedDataset, data_dir: Path, stage: Path) -> Parts:
    start = time.monotonic()
    failures = []
    for number, source in enumerate(entry.sources):
        log.info("%s: trying %s", entry.name, source.name)
        folder = stage / str(number)
        folder.mkdir()
        try:
            parts = source.read(folder)
            _verify(entry, parts)
        except Exception as error:  # whatever stops one source, the next one may work
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST_REASON]
            failures.append(f"{source.name}: {reason}")
            log.info("%s: not from %s (%s)", entry.name, source.name, reason)
            continue
        try:
            write_stored(entry.name, parts, data_dir, stage)
        except OSError as error:
            rule = f"cannot be stored in {data_dir}: {error}"
            raise DataError("dataset", entry.name, rule) from error
        seconds = time.monotonic() - start
        log.info("%s: fetched from %s in %.1f s", entry.name, parts.source, seconds)
        return parts
    rule = f"cannot be fetched; tried {len(failures)}: " + "; ".join(failures)
    copy = f"copy {entry.name}.npz from a data folder that has it into {data_dir}"
    raise DataError("dataset", entry.name, rule, f"{entry.advice}, or {copy}")


def _verify(entry: NamedDataset, parts: Parts) -> None:
    """Raises VerificationError if the arrays are not those of the data set."""
    for part, count in zip(("images", "test_images"), entry.counts, strict=True):
        shape = getattr(parts.arrays.get(part), "shape", None)
        if shape != (expected := (count, *entry.sample_shape)):
            raise VerificationError(f"{part} have shape {shape}, not {expected}")
    classes = len(entry.class_names)
    for part, count in zip(("labels", "test_labels"), entry.counts, strict=True):
        array = parts.arrays.get(part)
        if (
            not isinstance(array, np.ndarray)
            or array.shape != (count,)
            or array.min() < 0
            or array.max() >= classes
        ):
            raise VerificationError(f"{part} are not {count} numbers from 0 to {classes - 1}")
    if entry.digest and (found := digest(parts)) != entry.digest:
        raise VerificationError(f"the SHA-256 digest is {found}, not {entry.digest}")
