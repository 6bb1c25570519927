"""Data sets of the user's own: a ``.npz`` file, a folder of images, or a function."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from foldrace.errors import DataError, FoldraceError
from foldrace.trainables.data.arrays import (
    Dataset,
    Images,
    Labels,
    Parts,
    part_keys,
    parts_from,
    resize,
    to_images,
    to_labels,
)
from foldrace.trainables.user_code import load_object

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["read_folder", "read_function", "read_npz"]

_Result = TypeVar("_Result")

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def read_npz(name: str) -> Parts:
    """The arrays of a ``.npz`` file; nothing in it is unpickled, and keys of no part are not read.

    Raises:
        DataError: no such file, damaged, not a ``.npz`` file, or an array that cannot be used.
    """
    path = Path(name).expanduser()
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise DataError(
                    "dataset",
                    name,
                    "is no .npz file, or not all of one",
                    "write it with numpy.savez",
                )
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                keys = part_keys(name, file.files).values()
                _check_size(
                    name, sum(file.zip.getinfo(_member(file.zip, key)).file_size for key in keys)
                )
                values = {key: file[key] for key in keys}
    except DataError:
        raise
    except (
        Exception
    ) as error:  # zipfile, zlib and numpy raise a dozen kinds of errors over a damaged file
        rule = f"cannot be read as a .npz file: {type(error).__name__}: {error}"
        hint = (
            "arrays of Python objects are not read"
            if "allow_pickle" in str(error)
            else "is it complete?"
        )
        raise DataError("dataset", name, rule, hint) from error
    return parts_from(name, values, str(path))


def _member(archive: zipfile.ZipFile, key: str) -> str:
    """The name in the archive of what numpy calls ``key``."""
    return key if key in archive.namelist() else f"{key}.npy"


def _check_size(name: str, size: int) -> None:
    """Refuses what cannot be held in memory, before it is read. Raises: DataError."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        rule = (
            f"takes {size / 1e9:,.1f} GB in memory, more than the {memory / 1e9:,.1f} GB of this"
            " machine"
        )
        raise DataError("dataset", name, rule)


def read_folder(name: str, size: tuple[int, int] | None) -> Parts:
    """A folder of images, in the order of their sorted paths.

    Class folders give labels, numbered in the order of their sorted names; images without class
    folders have none. Either may stand under ``train/``, with a test part under ``test/``. Files
    that are no images by their suffix and hidden files are ignored. One channel if every image is
    grey (Pillow's mode L), else three (transparency is lost).

    Args:
        size: (height, width) that every image is resized to, bilinear; None: all must have the
            same size.

    Raises:
        DataError: no images, a file that cannot be read (named), images of different sizes or of
            more than 8 bits, images beside class folders, or a test class that the training part
            does not have.
    """
    root = Path(name).expanduser()
    train, test = _divide(name, root)
    classes = _classes(name, train)
    files = _files(name, train, classes)
    test_classes = [] if test is None else _classes(name, test)
    for extra in (c for c in test_classes if c not in classes):
        raise DataError("dataset", name, f"test/ has a class {extra} that train/ has not")
    test_files = [] if test is None else _files(name, test, test_classes)
    modes = [_inspect(path) for path in files + test_files]
    mode = "L" if all(m == "L" for m in modes) else "RGB"

    def labels(paths: list[Path], part: Path) -> Labels:
        numbers = {label: i for i, label in enumerate(classes)}
        return np.array([numbers[p.relative_to(part).parts[0]] for p in paths], dtype=np.int64)

    return Parts(
        images=_decode(files, mode, size),
        source=str(root),
        labels=labels(files, train) if classes else None,
        test_images=None if test is None else _decode(test_files, mode, size),
        test_labels=None if test is None or not test_classes else labels(test_files, test),
        class_names=tuple(classes),
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _is_image(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _images_below(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if _is_image(p))
    return sorted(
        p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def _divide(name: str, root: Path) -> tuple[Path, Path | None]:
    """The folders of the training and of the test part."""
    parts = {p.name: p for p in _visible(root) if p.is_dir() and p.name in ("train", "test")}
    if not parts:
        return root, None
    if "train" not in parts:
        raise DataError(
            "dataset", name, "has test/ but no train/", "put the other images into train/"
        )
    beside = [
        p
        for p in _visible(root)
        if p.name not in parts and (_is_image(p) or (p.is_dir() and _images_below(p)))
    ]
    if beside:
        rule = f"has images outside train/ and test/: {beside[0].name}"
        raise DataError(
            "dataset", name, rule, "move them into train/ (folds are cut from it) or away"
        )
    return parts["train"], parts.get("test")


def _classes(name: str, part: Path) -> list[str]:
    classes = [p.name for p in _visible(part) if p.is_dir() and _images_below(p)]
    loose = [p.name for p in _visible(part) if _is_image(p)]
    if classes and loose:
        rule = f"has images beside its class folders in {part}: {loose[0]}"
        raise DataError("dataset", name, rule, "give each image a class folder, or none")
    return classes


def _files(name: str, part: Path, classes: list[str]) -> list[Path]:
    if classes:
        return [path for label in classes for path in _images_below(part / label)]
    files = [p for p in _visible(part) if _is_image(p)]
    if not files:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            "dataset", name, f"no images in {part}", f"files with these endings count: {known}"
        )
    return files


def _inspect(path: Path) -> str:
    """The image's mode, from its header alone."""
    mode = _with_image(path, lambda image: image.mode)
    if mode.startswith(("I", "F")):
        raise DataError(
            "dataset",
            str(path),
            f"has more than 8 bits a channel (mode {mode})",
            "convert it to 8 bits",
        )
    return mode


def _decode(paths: list[Path], mode: str, size: tuple[int, int] | None) -> Images:
    """The files as (N, C, H, W), decoded one by one into place."""

    def pixels(image: Image.Image) -> Images:
        array = np.asarray(image.convert(mode), dtype=np.uint8)
        planes = array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]
        return planes if size is None else resize(np.ascontiguousarray(planes), size)

    first = _with_image(paths[0], pixels)
    _check_size(str(paths[0].parent), len(paths) * first.nbytes)
    images = np.empty((len(paths), *first.shape[1:]), dtype=np.uint8)
    for path, target in zip(paths, images, strict=True):
        decoded = _with_image(path, pixels)[0]
        if decoded.shape != target.shape:
            (height, width), (other_height, other_width) = target.shape[1:], decoded.shape[1:]
            rule = (
                f"is {other_width}×{other_height} pixels where {paths[0].name} is {width}×{height}"
            )
            raise DataError(
                "dataset", str(path), rule, "give the data set a size: [height, width]"
            )
        target[:] = decoded
    return images


def _with_image(path: Path, use: Callable[[Image.Image], _Result]) -> _Result:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return use(image)
    except (
        Exception
    ) as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        rule = f"cannot be read as an image: {type(error).__name__}: {error}"
        raise DataError("dataset", str(path), rule, "mend it or remove it") from error


def read_function(name: str) -> Parts:
    """What the user's function ``./file.py:function`` or ``package.module:function`` returns,
    called with no arguments.

    It may return a `Dataset`, a mapping with the keys of a ``.npz`` file, or the training images
    alone (an array or a tensor).

    Raises:
        DataError: no such file, module or function; it raises an error; or what it returns cannot
            be used.
    """
    function = load_object(name, "dataset", "function", DataError)
    try:
        value = function()
    except FoldraceError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError("dataset", name, f"raised {type(error).__name__}: {error}") from error
    if isinstance(value, Dataset):
        if not (
            isinstance(value.images, np.ndarray) and isinstance(value.test_images, np.ndarray)
        ):
            raise DataError(
                "dataset",
                name,
                "must fill images and test_images with arrays",
                "or return a mapping",
            )
        return _parts_of(name, value)
    if value is None or isinstance(value, str | bytes | int | float):
        rule = f"must return a Dataset, a mapping or an array; it returned {type(value).__name__}"
        raise DataError("dataset", name, rule)
    if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
        raise DataError(
            "dataset", name, "must return a mapping with names as its keys: images, labels, …"
        )
    return parts_from(name, value if isinstance(value, Mapping) else {"images": value}, name)


def _parts_of(name: str, data: Dataset) -> Parts:
    images = to_images(name, "images", data.images, channels_first=True)
    test = (
        to_images(name, "test_images", data.test_images, channels_first=True)
        if len(data.test_images)
        else None
    )

    def numbers(part: str, count: int) -> Labels | None:
        value = getattr(data, part)
        return None if value is None else to_labels(name, part, value, count)

    return Parts(
        images=images,
        source=data.source or name,
        labels=numbers("labels", len(images)),
        groups=numbers("groups", len(images)),
        test_images=test,
        test_labels=None if test is None else numbers("test_labels", len(test)),
        class_names=tuple(data.class_names),
    )
