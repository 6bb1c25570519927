"""Folders of images as nobody means them: each file is used, or named in a warning or an error."""

from __future__ import annotations

import io
import logging
import os
import random
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from foldrace.errors import DataError
from foldrace.trainables.data.datasets import load_dataset
from tests.fuzz.damage import damaged

__all__ = ["run_case"]

_LAYOUTS = (
    ("",),
    ("cat", "dog"),
    ("cat", "dog/deep/er", "dog"),
    ("train/cat", "train/dog", "test/cat"),
    ("Training/cat", "Training/dog", "Testing/cat", "Testing/dog"),
    ("train_set", "val_set", "TEST"),
    ("train/a", "train/b", "validation/b", "test/a"),
    ("seg_train/seg_train/a", "seg_train/seg_train/b", "seg_test/seg_test/a"),
    ("train", "Train", "test"),
    ("cat", "val"),
    ("test",),
    ("x" + "/y" * 90,),
)
_WRAPPERS = ("", "", "", "archive", "archive/data (copy)", "x/y/z")
_NAMES = (
    "{}",
    "{}",
    "{}",
    "IMG_{}",
    "é{}",
    "{}\n",
    "\udcff{}",
    "{}.tar",
    "[red]{}",
    ":fire:{}",
    " {} ",
)
_FORMATS = {
    "png": ("PNG", ("L", "L", "RGB", "RGBA", "P", "1", "LA", "I;16")),
    "JPG": ("JPEG", ("L", "RGB", "CMYK")),
    "jfif": ("JPEG", ("L", "RGB")),
    "gif": ("GIF", ("L", "P", "RGB")),
    "tif": ("TIFF", ("L", "RGB", "1", "F", "I;16", "LAB")),
    "webp": ("WEBP", ("RGB", "RGBA")),
    "bmp": ("BMP", ("1", "L", "RGB")),
    "pgm": ("PPM", ("L",)),
}
_OTHERS = (
    "notes.txt",
    "labels.csv",
    ".DS_Store",
    "._0.png",
    "Thumbs.db",
    "no_ending",
    "x.png.part",
)


def run_case(seed: int, folder: Path) -> str:
    """Loads the folder of a seed; returns ``accepted`` or ``refused``.

    Raises:
        AssertionError: a message is not one line of printable text, or a file is neither used nor
            named.
        Exception: whatever the loader lets through.
    """
    draw = random.Random(f"folders/{seed}")
    place = folder / "folder"
    shutil.rmtree(place, ignore_errors=True)
    root = place / "root"
    root.mkdir(parents=True)
    _fill(draw, root)
    for _ in range(draw.choice((0, 0, 0, 1, 2))):
        _add_link(draw, root, place)
    size = draw.choice((None, (8, 8)))
    with _logged() as lines:
        try:
            data = load_dataset(str(root), size=size, data_dir=folder)
        except DataError as error:
            assert str(error).isprintable(), str(error)
            return "refused"
    assert all(line.isprintable() for line in lines), lines
    assert all(name.isprintable() for name in data.class_names), data.class_names
    left_out = sum(
        int(found[1].replace(",", ""))
        for line in lines
        if (found := re.search(r": left out, (?:hidden|not an image).*? \(([\d,]+)\): ", line))
    )
    used = len(data) + len(data.test_images)
    assert used + left_out == _count(root), f"{used} used, {left_out} named of {_count(root)}"
    return "accepted"


def _fill(draw: random.Random, root: Path) -> None:
    base = root / draw.choice(_WRAPPERS)
    suffix = draw.choice(list(_FORMATS))
    mode = draw.choice(_FORMATS[suffix][1])
    same, strange = draw.random() < 0.5, draw.random() < 0.3
    folders = [base / folder for folder in draw.choice(_LAYOUTS)]
    if strange:
        ends = [draw.choice(_NAMES).format("") if f != base else "" for f in folders]
        folders = [f.with_name(f.name + end) for f, end in zip(folders, ends, strict=True)]
    base.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(draw.choice((3, 4, 5))):
            if not same:
                suffix = draw.choice(list(_FORMATS))
                mode = draw.choice(_FORMATS[suffix][1][:3])
            stem = draw.choice(_NAMES).format(number) if strange else str(number)
            (folder / f"{stem}.{suffix}").write_bytes(_image(draw, suffix, mode))
    for _ in range(draw.choice((0, 0, 1, 3))):
        path = draw.choice([*folders, base, root]) / draw.choice(_OTHERS)
        path.write_bytes(b"anything")
    if draw.random() < 0.1:
        hidden = draw.choice(folders) / ".thumbnails"
        hidden.mkdir()
        (hidden / "0.png").write_bytes(_image(draw, "png", "L"))
    if draw.random() < 0.05:
        os.mkfifo(draw.choice(folders) / draw.choice(("pipe", "pipe.png")))


def _image(draw: random.Random, suffix: str, mode: str) -> bytes:
    """An image, sometimes of several pages, turned, of another size, damaged or empty."""
    kind = _FORMATS[suffix][0]
    side = 6 if draw.random() < 0.98 else 9
    picture = Image.new(mode, (8, side), 200 if mode in ("L", "I", "I;16", "F") else None)
    options: dict[str, object] = {}
    if kind in ("TIFF", "GIF", "PNG", "WEBP") and draw.random() < 0.1:
        other = Image.new(mode, (8, side), 1)
        options = {"save_all": True, "append_images": [other]}
    if kind in ("JPEG", "PNG", "WEBP") and draw.random() < 0.05:
        exif = Image.Exif()
        exif[0x0112] = draw.choice((1, 3, 6, 8, 99))
        options["exif"] = damaged(exif.tobytes(), draw)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    data = file.getvalue()
    if draw.random() < 0.01:
        return b""
    return damaged(data, draw) if draw.random() < 0.02 else data


def _add_link(draw: random.Random, root: Path, place: Path) -> None:
    """A link to a folder or a file, in the folder, above it or outside it, or to nothing."""
    inside = sorted(root.rglob("*"))
    pool = place / "pool"
    pool.mkdir(exist_ok=True)
    (pool / "pooled.png").write_bytes(_image(draw, "png", "L"))
    if not (pool / "again").exists():
        (pool / "again").symlink_to(pool)
    targets = [root, root.parent, pool, pool / "pooled.png", root / "nowhere", *inside]
    link = draw.choice([p for p in [root, *inside] if p.is_dir()]) / draw.choice(
        ("link", "link.png", ".link", "train", "zebra")
    )
    if not os.path.lexists(link):
        link.symlink_to(draw.choice(targets))


def _count(root: Path) -> int:
    """The files of all folders that can be reached; what is hidden counts as one."""
    files, folders, seen = 0, [root], set[str]()
    for folder in folders:
        real = os.path.realpath(folder)
        if real in seen or (folder != root and root.resolve().is_relative_to(real)):
            continue
        seen.add(real)
        for path in folder.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                files += 1
            else:
                folders.append(path)
    return files


@contextmanager
def _logged() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("foldrace")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
