"""CSV and Parquet files and data frames: columns as fields."""

from __future__ import annotations

import csv
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrace.errors import DataError, first_line, nearest, printable
from foldrace.trainables.data.arrays import Parts, check_memory
from foldrace.trainables.data.fields import fields_of_parts, role_of_name
from foldrace.trainables.data.parts import Part, part_named
from foldrace.trainables.data.sample import BY_NAME, Wanted

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["frames_by_part", "is_frame", "parts_of_frames", "read_csv", "read_parquet"]

log = logging.getLogger(__name__)

STACKED = "x"
"""The field of all columns of numbers without a role, side by side."""

_SHOWN = 20
_EXACT = 2**24
"""Up to which float32 has all whole numbers."""


def read_csv(name: str, wanted: Wanted = BY_NAME) -> Parts:
    """Read a CSV file with a line of column names. Raises: DataError: see `parts_of_frames`."""
    import pandas as pd

    def read(path: Path) -> pd.DataFrame:
        with warnings.catch_warnings():  # of lines with more values than there are names
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, index_col=False, skipinitialspace=True)
        _check_header(name, path)
        return frame.rename(columns=str.strip)

    return _read(name, read, wanted, "is it a table with a line of column names?")


def _check_header(name: str, path: Path) -> None:
    """Checks that a file's first line holds the names of its columns.

    Raises:
        DataError: it holds numbers, or one name of several columns.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = [column.strip() for column in next(csv.reader(file), [])]
    if len(names) == 1 and (between := re.search(r"[;\t|]", names[0])):
        rule = f"has a single column, {printable(names[0])}"
        hint = f"separate columns by commas, not by {between[0]!r}"
        raise DataError("dataset", name, rule, hint)
    numbers = [_number(column) for column in names]
    counted = [str(number) for number in range(len(names))]
    counts = counted, [*counted[1:], str(len(names))]  # which pandas itself writes as names
    if None not in numbers and names not in counts:
        rule = f"its first line holds numbers instead of names: {', '.join(names[:5])}"
        raise DataError("dataset", name, rule, "write a line with the columns' names above it")


def _number(text: str) -> float | None:
    """What a text says, if it is a number, also with separators: ``1,000``."""
    try:
        return float(text.replace(",", "").replace("\xa0", "").replace(" ", ""))
    except ValueError:
        return None


def read_parquet(name: str, wanted: Wanted = BY_NAME) -> Parts:
    """Read a Parquet file. Raises: DataError: see `parts_of_frames`."""
    import pandas as pd

    return _read(name, pd.read_parquet, wanted, "is it complete?")


def _read(name: str, read: Any, wanted: Wanted, hint: str) -> Parts:
    path = Path(name).expanduser()
    try:
        check_memory(name, path.stat().st_size)
        frame = read(path)
    except DataError:
        raise
    # pandas and pyarrow raise many kinds of errors for a damaged file.
    except Exception as error:
        rule = f"cannot be read: {type(error).__name__}: {first_line(error)}"
        raise DataError("dataset", name, rule, hint) from error
    return parts_of_frames(name, {Part.TRAINING: frame}, str(path), wanted)


def is_frame(value: object) -> bool:
    """Whether it is a pandas data frame, without importing pandas."""
    kind = type(value)
    return kind.__name__ == "DataFrame" and kind.__module__.partition(".")[0] == "pandas"


def parts_of_frames(
    name: str, frames: Mapping[Part, pd.DataFrame], source: str, wanted: Wanted = BY_NAME
) -> Parts:
    """Fields from the columns of data frames, one per part.

    Columns of numbers without a role become one input ``x``, (N, D) float32, in their order. Any
    other column is a field: those with a role, texts (as numbers with names) and lists
    (sequences). Targets and weights of float64 become float32.

    Raises:
        DataError: a column that is wanted is missing, or a column or its values cannot be used.
    """
    frames = {
        part: frame.reset_index() if any(of is not None for of in frame.index.names) else frame
        for part, frame in frames.items()
    }  # an index with a name is a column
    wanted = replace(wanted, roles=dict(wanted.roles))
    columns = _columns(name, frames, wanted)
    values: dict[Part, dict[str, Any]] = {}
    stacked: tuple[str, ...] = ()
    called: dict[str, str] = {}
    for part, frame in frames.items():
        made = _of_frame(name, frame, columns, wanted, like=bool(values))
        if values and made.stacked != stacked:
            rule = "the columns of numbers differ between the parts"
            raise DataError("dataset", name, rule, "give both the same columns")
        stacked, called = made.stacked, {**called, **made.called}
        values[part] = made.fields
    for column, of in called.items():
        if column != of:
            log.warning("%s: the column %s is the field %s", name, printable(column), of)
    roles = {
        role: None if column is None else called.get(column, column)
        for role, column in wanted.roles.items()
    }
    inputs = None
    if wanted.inputs is not None:
        found = [STACKED if column in stacked else called[column] for column in wanted.inputs]
        inputs = tuple(dict.fromkeys(found))
    parts = fields_of_parts(name, values, source, Wanted(inputs, roles))
    if not stacked:
        return parts
    listed = ", ".join(printable(column) for column in stacked[:_SHOWN])
    more = f" and {len(stacked) - _SHOWN:,} more" if len(stacked) > _SHOWN else ""
    count = f"{len(stacked):,} column" + ("s" if len(stacked) > 1 else "")
    return replace(parts, notes=(*parts.notes, f"{STACKED} holds {count}: {listed}{more}"))


@dataclass
class _Frame:
    """What a data frame becomes: fields, the columns in ``x``, and the other columns' fields."""

    fields: dict[str, Any] = field(default_factory=dict)
    stacked: tuple[str, ...] = ()
    called: dict[str, str] = field(default_factory=dict)


def _columns(name: str, frames: Mapping[Part, pd.DataFrame], wanted: Wanted) -> list[str]:
    """The columns to read, in their order; what is left out is named in a warning."""
    frame = frames[Part.TRAINING]
    columns = [str(column) for column in frame.columns]
    if not len(frame) or not columns:
        raise DataError("dataset", name, "is a table without rows or without columns")
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise DataError("dataset", name, f"has two columns {printable(twice[0])}", "rename one")
    for column in wanted.named:
        if column not in columns:
            rule = f"has no column {printable(column)}"
            raise DataError("dataset", name, rule, nearest(column, columns))
    named = wanted.named
    left_out = [
        column
        for column in columns
        if column not in named
        and (
            column.startswith("Unnamed: ")
            or (wanted.inputs is not None and _role(column, wanted) is None)
        )
    ]
    if left_out:
        listed = printable(", ".join(left_out))
        log.warning("%s: columns that are not read: %s", name, listed)
    return [column for column in columns if column not in left_out]


def _role(column: str, wanted: Wanted) -> str | None:
    """The role of a column, by the sweep file or else by its name."""
    for role, named in wanted.roles.items():
        if named == column:
            return role
    by_name = role_of_name(column)
    inputs = wanted.inputs or ()
    return None if by_name in wanted.roles or column in inputs else by_name


def _of_frame(
    name: str, frame: pd.DataFrame, columns: list[str], wanted: Wanted, *, like: bool
) -> _Frame:
    import pandas as pd

    made = _Frame()
    frame = frame.set_axis([str(column) for column in frame.columns], axis="columns")
    numbers: list[str] = []
    missing: list[str] = []
    for column in columns:
        role = _role(column, wanted)
        if column not in frame:
            if like and role in ("groups", "split"):
                continue
            raise DataError("dataset", name, f"a part has no column {printable(column)}")
        values = frame[column]
        if (empty := int(values.isna().sum())) and role is None:
            missing.append(f"{column} ({empty:,})")
        elif empty:
            rule = f"{printable(column)}, the {role}, is missing in {empty:,} rows"
            raise DataError("dataset", name, rule, "fill it in or remove the rows")
        numeric = pd.api.types.is_numeric_dtype(values.dtype)
        if numeric and values.dtype.kind == "c":
            rule = f"the column {printable(column)} is of complex numbers"
            raise DataError("dataset", name, rule, "give their parts as two columns")
        if numeric and role is None:
            numbers.append(column)
            continue
        field = re.sub(r"\W", "_", column)
        field = field if field[:1].isalpha() or field[:1] == "_" else f"column_{field}"
        if field in made.fields or (field == STACKED and numbers):
            rule = f"the columns {printable(column)} and another are both the field {field}"
            raise DataError("dataset", name, rule, "rename one of them")
        made.fields[field] = _values(name, column, role, values)
        made.called[column] = field
    if missing:
        listed = printable(", ".join(missing))
        log.warning("%s: values are missing, and are nan or an empty text: %s", name, listed)
    if numbers:
        if STACKED in made.fields:
            rule = f"the column {STACKED} has the name of the field of all columns of numbers"
            raise DataError("dataset", name, rule, "rename it")
        if wanted.inputs is not None:
            numbers.sort(key=wanted.inputs.index)
        for column in numbers:
            kind = frame[column].dtype
            if getattr(kind, "kind", "") in "iu" and (frame[column].abs() > _EXACT).any():
                text = "%s: the column %s has whole numbers that float32 rounds: above 16,777,216"
                log.warning(text, name, printable(column))
        stack = [
            _as_float32(name, column, frame[column].to_numpy(np.float64, na_value=np.nan))
            for column in numbers
        ]
        made.fields = {STACKED: np.stack(stack, axis=1), **made.fields}
        made.stacked = tuple(numbers)
    return made


def _as_float32(name: str, column: str, values: np.ndarray) -> np.ndarray:
    """Raises: DataError: float32 cannot hold one of them."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    if (beyond := np.flatnonzero(np.isinf(found) & np.isfinite(values))).size:
        rule = f"{printable(column)} holds {values[beyond[0]]:g}, which float32 cannot hold"
        raise DataError("dataset", name, rule, "scale the column, or take its logarithm")
    return found


def _warn_of_numbers(name: str, column: str, texts: list[str]) -> None:
    """Says that a column of texts seems to be meant as numbers."""
    given = [(row, text) for row, text in enumerate(texts) if text.strip()]
    others = [(row, text) for row, text in given if _number(text) is None]
    if not given or len(others) > len(given) / 2:
        return
    row, text = (others or given)[0]
    what = "%s: the column %s is text, so each value is a class of its own: %r in row %d"
    log.warning(f"{what} is no number", name, printable(column), text, row + 1)


def _values(name: str, column: str, role: str | None, values: pd.Series[Any]) -> Any:
    """The values of a column that is a field of its own."""
    import pandas as pd

    kind = values.dtype
    if pd.api.types.is_numeric_dtype(kind):
        array = values.to_numpy()
        if array.dtype.hasobject or not isinstance(kind, np.dtype):
            whole = pd.api.types.is_integer_dtype(kind)
            truth = pd.api.types.is_bool_dtype(kind)
            array = values.to_numpy(np.bool_ if truth else np.int64 if whole else np.float64)
        doubles = array.dtype == np.float64 and role in ("target", "weight")
        return _as_float32(name, column, array) if doubles else array
    moments = pd.api.types.is_datetime64_any_dtype(kind) or role == "time"
    if moments or pd.api.types.is_timedelta64_dtype(kind):
        try:
            if pd.api.types.is_timedelta64_dtype(kind):
                return values.to_numpy("timedelta64[ns]")
            with warnings.catch_warnings(action="ignore"):  # of how formats are guessed
                return pd.to_datetime(values, utc=True).to_numpy("datetime64[ns]")
        except (ValueError, TypeError, OverflowError) as error:
            rule = f"{printable(column)} holds no moments in time: {first_line(error)}"
            raise DataError("dataset", name, rule, "write them as 2026-01-31") from error
    filled = values.astype(object).where(values.notna(), "")
    entries = filled.tolist()
    if all(isinstance(entry, str) for entry in entries):
        if role not in ("groups", "id", "split"):
            _warn_of_numbers(name, column, entries)
        if role == "weight":
            rule = f"{printable(column)}, the weight, is text"
            raise DataError("dataset", name, rule, "give numbers, at least 0")
        return np.array(entries, dtype=np.str_)
    if any(isinstance(entry, list | tuple | np.ndarray) for entry in entries):
        return [np.asarray([] if isinstance(entry, str) else entry) for entry in entries]
    if all(isinstance(entry, int) for entry in entries):
        rule = f"the column {printable(column)} holds whole numbers beyond 64 bits"
        raise DataError("dataset", name, rule, "write them as texts, or as floats")
    kinds = sorted({type(entry).__name__ for entry in entries})
    rule = f"the column {printable(column)} holds {' and '.join(kinds)}"
    raise DataError(
        "dataset", name, rule, "columns hold numbers, texts, dates or lists of numbers"
    )


def frames_by_part(value: Mapping[str, Any]) -> dict[Part, pd.DataFrame] | None:
    """The data frames of a mapping with names of parts, in the order of the parts; else None."""
    found = {part_named(key): each for key, each in value.items() if isinstance(key, str)}
    if Part.TRAINING not in found or None in found or len(found) < len(value):
        return None
    if not all(is_frame(each) for each in found.values()):
        return None
    return {part: found[part] for part in Part if part in found}
