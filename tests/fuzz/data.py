"""Data files that are damaged, or made to harm: each is a data set or an error of one line."""

from __future__ import annotations

import io
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from foldrace.errors import DataError
from foldrace.trainables.data.datasets import load_dataset
from foldrace.trainables.data.sample import BY_NAME, ROLES, Wanted
from foldrace.trainables.training.samples import Samples
from tests.fuzz.damage import Harm, damaged

__all__ = ["run_case"]

_Make = Callable[[random.Random, Path], str]
_DTYPES = (
    *["u1"] * 12,
    "f4",
    "f4",
    "f8",
    "f2",
    "i8",
    "b1",
    "c8",
    "U3",
    "S3",
    "M8[s]",
    ">u2",
    ">f4",
    "O",
    "V4",
)
_OTHER_KEYS = (
    *("labels", "groups", "test_images", "test_labels", "x_train", "other"),
    *("val_images", "val_labels", "train_labels", "n\n"),
)
_LABELS: tuple[Callable[[int], np.ndarray[Any, Any]], ...] = (
    lambda count: np.arange(count) % 3,
    lambda count: np.arange(count)[:, None] % 3,
    lambda count: (np.arange(count) % 3).astype("U"),
    lambda count: (np.arange(count) % 3).astype("S"),
    lambda count: np.full(count, "a\n"),
)
_SIDES = (0, 1, 2, 3, 4, 7, 8)
_SUFFIXES = ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm")
_MODES = ("L", "L", "L", "RGB", "RGB", "RGBA", "P", "1", "I;16", "I", "F", "CMYK", "LA")


def run_case(seed: int, folder: Path) -> str:
    """Loads the data set of a seed; returns ``accepted`` or ``refused``.

    Raises:
        AssertionError: something was unpickled, or what was accepted is no data set.
        Exception: whatever the loader lets through.
    """
    draw = random.Random(f"data/{seed}")
    place = folder / "data"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    name = draw.choice(_MAKERS)(draw, place)
    size = draw.choice((*[None] * 8, (8, 8)))
    limit = draw.choice((*[None] * 8, 5, 10**9))
    try:
        data = load_dataset(name, size=size, limit=limit, wanted=_wanted(draw), data_dir=folder)
    except DataError as error:
        assert str(error).isprintable() and not Harm.done
        return "refused"
    assert not Harm.done
    for images, labels in ((data.images, data.labels), (data.test_images, data.test_labels)):
        assert images is None or (
            images.dtype == np.uint8 and images.ndim == 4 and min(images.shape) > 0
        ), images.shape
        many = (len(data), data.test_count)
        assert labels is None or (labels.dtype == np.int64 and len(labels) in many)
    for part in (data.training, data.test):
        assert len({len(array) for array in part.values()}) == 1
        batch = Samples.of(part, data.sample, torch.device("cpu")).take(torch.tensor([0]))
        assert all(len(values) == 1 for values in batch.values())
    return "accepted"


def _wanted(draw: random.Random) -> Wanted:
    """Mostly nothing; else inputs and roles, of columns that may not be there."""
    if draw.random() < 0.8:
        return BY_NAME
    names = ("x", "y", "a b", "images", "labels", "group", "nowhere")
    inputs = None if draw.random() < 0.5 else tuple(draw.sample(names, draw.randrange(1, 3)))
    roles = draw.sample(ROLES, draw.randrange(3))
    return Wanted(inputs, {role: draw.choice((*names, None)) for role in roles})


def _any_array(draw: random.Random, count: int) -> np.ndarray[Any, Any]:
    """Mostly ``count`` samples of numbers, of any type, in any memory order."""
    if draw.random() < 0.1:
        return draw.choice((_array(draw, count), draw.choice(_LABELS)(count)))
    shape = draw.choice(((count,), (count,), (count, 3), (count, 3), (count, 2, 2), (count, 0)))
    kinds = ("f2", "f4", "f8", ">f8", "?", "i1", "u2", "u4", "u8", "i8", "M8[D]")
    array = (np.random.default_rng(draw.randrange(99)).random(shape) * 9).astype("f8")
    kind = draw.choice(kinds)
    typed = array.astype("i8").astype(kind) if kind == "M8[D]" else array.astype(kind)
    return np.asfortranarray(typed) if draw.random() < 0.3 else typed


_KEYS = ("x", "y", "x_train", "test_x", "test_y", "val_x", "group", "time", "weight", "split")


def _tidy_fields(draw: random.Random) -> dict[str, np.ndarray[Any, Any]]:
    """Fields that fit together, so that what comes after the first checks is reached as well."""
    fields = {}
    for key in ("x", *draw.sample(("y", "z", "group", "time", "weight", "split"), 2)):
        shape = draw.choice(((), (3,), (2, 2))) if key in ("x", "y", "z") else ()
        kind = draw.choice(("f4", "f8", "i8", "?", "u2")) if key in ("x", "y", "z") else "i8"
        for part, count in (("", 30), ("test_", 7)):
            values = np.random.default_rng(draw.randrange(99)).random((count, *shape)) * 3
            fields[part + key] = values.astype(kind)
    if draw.random() < 0.5:
        return {key: array for key, array in fields.items() if not key.startswith("test_")}
    return fields


def _fields(draw: random.Random) -> dict[str, np.ndarray[Any, Any]]:
    if draw.random() < 0.5:
        return _tidy_fields(draw)
    count = draw.choice((0, 1, 2, *[30] * 9))
    return {
        key: _any_array(draw, draw.choice((*[count] * 20, count + 1)))
        for key in draw.sample((*_KEYS, "a b", "x_lengths"), draw.randrange(1, 4))
    }


def _npz_of_fields(draw: random.Random, place: Path) -> str:
    file = io.BytesIO()
    np.savez(file, allow_pickle=True, **_fields(draw))
    data = file.getvalue()
    (place / "data.npz").write_bytes(damaged(data, draw) if draw.random() < 0.3 else data)
    return str(place / "data.npz")


def _npy(draw: random.Random, place: Path) -> str:
    file = io.BytesIO()
    np.save(file, _any_array(draw, draw.choice((0, 1, 2, 30, 30))), allow_pickle=True)
    data = file.getvalue()
    (place / "data.npy").write_bytes(damaged(data, draw) if draw.random() < 0.3 else data)
    return str(place / "data.npy")


def _folder_of_arrays(draw: random.Random, place: Path) -> str:
    tidy = draw.random() < 0.5
    for key, array in _fields(draw).items():
        file = io.BytesIO()
        np.save(file, array, allow_pickle=True)
        folder = "" if tidy else draw.choice(("", "", "", "train", "test", "other"))
        path = place / folder / f"{key}.npy"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(
            damaged(file.getvalue(), draw) if draw.random() < 0.1 else file.getvalue()
        )
    if draw.random() < 0.1:
        (place / "notes.txt").write_text("\x1b[31m")
    if draw.random() < 0.1:
        (place / "gone.npy").symlink_to(place / "nowhere.npy")
    return str(place)


def _column(draw: random.Random, count: int) -> Any:
    return draw.choice(
        (
            range(count),
            [number / 3 for number in range(count)],
            ["a", "b\x1b"] * (count // 2) + ["c"] * (count % 2),
            [None, *range(1, count)][:count],
            [list(range(number % 3)) for number in range(count)],
            [number % 2 == 0 for number in range(count)],
            ["2024-01-01"] * count,
            [f"2024-01-{number % 28 + 1}" for number in range(count)],
            [10**30] * count,
            [float("inf")] * count,
            ["x" * 300] * count,
            np.arange(count) % 2,
            np.arange(count) / 2,
            np.arange(count) // 2,
        )
    )


def _frame(draw: random.Random) -> Any:
    count = draw.choice((0, 1, 2, *[30] * 9))
    names = ("x", "y", "a b", "a_b", "group", "time", "weight", "split", "id", "1", "é", "", "c\n")
    chosen = draw.sample(names, draw.randrange(1, 5))
    return pd.DataFrame({name: _column(draw, count) for name in chosen})


def _csv(draw: random.Random, place: Path) -> str:
    text = _frame(draw).to_csv(index=draw.random() < 0.3).encode()
    path = place / draw.choice(("data.csv", "DATA.CSV"))
    path.write_bytes(damaged(text, draw) if draw.random() < 0.3 else text)
    return str(path)


def _parquet(draw: random.Random, place: Path) -> str:
    path = place / "data.parquet"
    try:
        _frame(draw).to_parquet(path)
    except (ArithmeticError, ValueError, TypeError, OverflowError):  # numbers that it cannot hold
        pd.DataFrame({"x": [1, 2]}).to_parquet(path)
    if draw.random() < 0.3:
        path.write_bytes(damaged(path.read_bytes(), draw))
    return str(path)


def _array(draw: random.Random, count: int) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(draw.randrange(2**32))
    usual = ((count, 8, 8), (count, 8, 8), (count, 8, 8), (count, 1, 8, 8), (count, 8, 8, 3))
    shape = draw.choice((*usual, _shape(draw)))
    kind = np.dtype(draw.choice(_DTYPES))
    if kind.kind == "O":
        return np.array([Harm() for _ in range(max(1, count))], dtype=object)
    values = generator.random(shape)
    if kind.kind == "f" and draw.random() < 0.5 and values.size:
        values.flat[draw.randrange(values.size)] = draw.choice((np.nan, np.inf, -1.0, 256.0, 1e30))
    with np.errstate(all="ignore"):
        return (
            (values * (1 if kind.kind == "f" else 200))
            .astype(kind if kind.kind != "V" else "u4")
            .view(kind)
        )


def _shape(draw: random.Random) -> tuple[int, ...]:
    return tuple(draw.choice(_SIDES) for _ in range(draw.randrange(6)))


def _npz(draw: random.Random, place: Path) -> str:
    count = draw.choice((0, 1, 2, 30, 30, 30))
    arrays = {"images": _array(draw, count)}
    for name in _OTHER_KEYS:
        if draw.random() < 0.1:
            many = draw.choice((count, count, count, count + 1))
            arrays[name] = (
                _array(draw, many)
                if "images" in name or draw.random() < 0.2
                else draw.choice(_LABELS)(many)
            )
    if draw.random() < 0.1:
        del arrays["images"]
    file = io.BytesIO()
    draw.choice((np.savez, np.savez_compressed))(file, allow_pickle=True, **arrays)
    path = place / "data.npz"
    path.write_bytes(damaged(file.getvalue(), draw))
    return str(path)


def _zip_by_hand(draw: random.Random, place: Path) -> str:
    """Archives that numpy would not write: lying headers, bombs, names that lead out of the
    archive."""
    path = place / "data.npz"
    shape = draw.choice(
        (
            "(30, 8, 8)",
            f"({10 ** draw.randrange(4, 25)}, 8, 8)",
            "(-1, 8, 8)",
            "(30, 8",
            "(1,) * 99",
            "()",
        )
    )
    kind = draw.choice(("|u1", "<f8", "|O", "__import__('os')", "|V0", "<U0", "(9999999,)u1"))
    order = draw.choice(("False", "True", "2", "'x'"))
    header = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    if draw.random() < 0.2:
        header = b"(" * draw.choice((10, 9000)) + header
    body = bytes(draw.choice((0, 10, 1920, 30 * 64 * 8)))
    version = draw.choice((b"\x01\x00", b"\x02\x00", b"\x09\x09"))
    length = struct.pack(
        "<H" if version[0] == 1 else "<I", len(header) + draw.choice((0, 0, 0, 999))
    )
    data = b"\x93NUMPY" + version + length + header + body
    how = draw.choice(
        (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
    )
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr(
            draw.choice(("images.npy", "images.npy", "images", "../images.npy", "/images.npy")),
            data,
        )
        if draw.random() < 0.3:
            archive.writestr("images.npy", data)
    if draw.random() < 0.3:
        _bomb(path, draw)
    elif draw.random() < 0.3:
        path.write_bytes(damaged(path.read_bytes(), draw))
    return str(path)


def _bomb(path: Path, draw: random.Random) -> None:
    """A small archive that says of itself that it unpacks to a thousand times the memory there is,
    or that it is small and is not."""
    claimed = draw.choice((2**44, 2**32 + 7, 1920 + 128))
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 8, 8), }" % (claimed // 64)
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data + bytes(2**22)) + packer.flush()
    info = zipfile.ZipInfo("images.npy")
    info.compress_type, info.file_size, info.compress_size = (
        zipfile.ZIP_DEFLATED,
        claimed,
        len(packed),
    )
    with zipfile.ZipFile(path, "w") as archive:
        info.header_offset = info.CRC = 0
        archive.filelist.append(info)
        archive.NameToInfo[info.filename] = info
        assert archive.fp is not None
        archive.fp.write(info.FileHeader(zip64=True) + packed)
        archive.start_dir = archive.fp.tell()
        archive._didModify = True  # type: ignore[attr-defined]


def _images(draw: random.Random, place: Path) -> str:
    folders = draw.choice(
        (
            (place,),
            (place / "a", place / "b"),
            (place / "train/a", place / "test/a"),
            (place / "test",),
        )
    )
    same = draw.random() < 0.8
    mode, suffix = draw.choice(_MODES), draw.choice(_SUFFIXES)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(draw.choice((0, 6, 12, 12))):
            if not same:
                mode, suffix = draw.choice(_MODES), draw.choice(_SUFFIXES)
            _write_image(folder / f"{number}.{suffix}", mode, draw)
    for extra in ("notes.txt", ".hidden.png", "empty.png", "loose.png"):
        if draw.random() < 0.1:
            (place / extra).write_bytes(b"" if extra != "loose.png" else b"\x89PNG\r\n\x1a\n")
    if draw.random() < 0.1:
        (place / "loop").symlink_to(place)
    if draw.random() < 0.1:
        (place / "gone.png").symlink_to(place / "nowhere.png")
    return str(place)


def _write_image(path: Path, mode: str, draw: random.Random) -> None:
    side = 8 if draw.random() < 0.97 else draw.choice((1, 9))
    file = io.BytesIO()
    Image.init()
    try:
        Image.new(mode, (side, 8)).save(file, Image.registered_extensions()[path.suffix])
    except (KeyError, OSError, ValueError):  # no such mode in this format
        Image.new("L", (side, 8)).save(file, "PNG")
    data = file.getvalue()
    if draw.random() < 0.02:
        huge = struct.pack(
            ">II",
            *draw.choice(((2**31 - 1, 2**31 - 1), (12_000, 12_000), (30_000, 30_000), (0, 8))),
        )
        chunk = b"IHDR" + huge + b"\x08\x00\x00\x00\x00"
        data = (
            b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
        )
    path.write_bytes(damaged(data, draw) if draw.random() < 0.03 else data)


def _code(draw: random.Random, place: Path) -> str:
    body = draw.choice(
        (
            "return None",
            "return 3",
            "return {}",
            "return {'images': None}",
            "raise ValueError('no')",
            "raise SystemExit",
            "return {1: 2}",
            "import numpy as n; return n.zeros((30, 8, 8))",
            "return [[[0.5]]] * 20",
            "import numpy as n; return n.full((30, 8, 8), n.nan)",
            "import numpy as n; return n.zeros((30, 8, 8), object)",
            "import torch; return torch.zeros(30, 8, 8)",
            "import torch; return torch.zeros(30, 8, 8, device='meta')",
            (
                "import numpy as n; return {'images': n.zeros((30, 8, 8), n.uint8), 'labels':"
                " ['a'] * 30}"
            ),
            (
                "import numpy as n; return {'images': n.zeros((30, 8, 8), n.uint8), 'labels':"
                " n.full(30, 0.5)}"
            ),
            "return f()",
            "return (x for x in ())",
            "return type",
            "return b'x' * 99",
            "return {'images': [[1], [1, 2]]}",
        )
    )
    code = f"def f():\n    {body}\n"
    path = place / f"code{draw.randrange(10**9)}.py"
    path.write_bytes(damaged(code.encode(), draw) if draw.random() < 0.2 else code.encode())
    return f"{path}:{draw.choice((*'ffffffff', 'g', '', '__class__', 'f.x'))}"


_MAKERS: tuple[_Make, ...] = (
    *(_npz, _npz, _zip_by_hand, _zip_by_hand, _images, _code),
    *(_npz_of_fields, _npz_of_fields, _npy, _folder_of_arrays, _folder_of_arrays),
    *(_csv, _csv, _parquet, _parquet),
)
