"""Reads a folder of images as a data set.

`torchvision.datasets.ImageFolder` follows another rule (it takes hidden files, and skips ``.gif``
and ``.pbm``), has no test part, and decodes lazily; here every image is decoded once, into bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Images, Labels, Parts, check_memory
from foldrace.trainables.data.parts import resize

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGE_SUFFIXES", "read_folder"]

_Result = TypeVar("_Result")

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


def read_folder(name: str, size: tuple[int, int] | None) -> Parts:
    """Read a folder of images, in the order of their sorted paths.

    One folder per class gives labels, numbered in the order of the sorted folder names; images
    without class folders have no labels. Either kind may be under ``train/``, with a test part
    under ``test/``. Hidden files and files without an image's suffix are ignored. Images have one
    channel if all of them are grey (Pillow's mode L), else three; transparency is lost.

    Args:
        size: (height, width) to resize every image to, bilinear; None: all must have the same
            size.

    Raises:
        DataError: no images; a file that cannot be read; images of different sizes, or with more
            than 8 bits per channel; images beside class folders; or a class in ``test/`` that is
            not in ``train/``.
    """
    root = Path(name).expanduser()
    train, test = _divide(name, root)
    files, train_labels = _labelled(name, train)
    test_files, test_labels = _labelled(name, test) if test else ([], [])
    classes = sorted(set(train_labels))
    for extra in sorted(set(test_labels) - set(classes)):
        raise DataError("dataset", name, f"test/ has a class {extra} that train/ does not have")
    modes = {_mode(path) for path in files + test_files}
    mode = "L" if modes == {"L"} else "RGB"

    number_of = {label: number for number, label in enumerate(classes)}

    def numbers(labels: list[str]) -> Labels | None:
        return np.array([number_of[label] for label in labels], dtype=np.int64) if labels else None

    return Parts(
        images=_decode(files, mode, size),
        source=str(root),
        labels=numbers(train_labels),
        test_images=_decode(test_files, mode, size) if test else None,
        test_labels=numbers(test_labels),
        class_names=tuple(classes),
    )


def _images_below(folder: Path, *, leave_out: tuple[str, ...] = ()) -> list[Path]:
    """The image files at any depth, sorted; without hidden files and folders."""
    children = (
        child
        for child in folder.iterdir()
        if child.name not in leave_out and not child.name.startswith(".")
    )
    # A child that is a link to a folder is followed; links further down are not.
    found = (path for child in children for path in (child, *child.rglob("*")))
    return sorted(
        path
        for path in found
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _divide(name: str, root: Path) -> tuple[Path, Path | None]:
    """The folders of the training part and of the test part, if there is one."""
    train, test = root / "train", root / "test"
    if not train.is_dir() and not test.is_dir():
        return root, None
    if not train.is_dir():
        hint = "put the other images into train/"
        raise DataError("dataset", name, "has test/ but no train/", hint)
    outside = _images_below(root, leave_out=("train", "test"))
    if outside:
        first = outside[0].relative_to(root).parts[0]
        rule = f"has images outside train/ and test/: {first}"
        hint = "move them into train/ (which is divided into folds) or away"
        raise DataError("dataset", name, rule, hint)
    return train, test if test.is_dir() else None


def _labelled(name: str, part: Path) -> tuple[list[Path], list[str]]:
    """The images of a part, and the class folder of each; no classes if there are no folders."""
    files = _images_below(part)
    if not files:
        hint = f"files with these endings count: {', '.join(sorted(IMAGE_SUFFIXES))}"
        raise DataError("dataset", name, f"no images in {part}", hint)
    loose = [path.name for path in files if path.parent == part]
    if loose and len(loose) < len(files):
        rule = f"has images beside its class folders in {part}: {loose[0]}"
        raise DataError("dataset", name, rule, "give each image a class folder, or none")
    return files, [] if loose else [path.relative_to(part).parts[0] for path in files]


def _mode(path: Path) -> str:
    """The image's mode, from its header alone. Raises: DataError."""
    mode = _with_image(path, lambda image: image.mode)
    if mode.startswith(("I", "F")):
        rule = f"has more than 8 bits per channel (mode {mode})"
        raise DataError("dataset", str(path), rule, "convert it to 8 bits")
    return mode


def _decode(paths: list[Path], mode: str, size: tuple[int, int] | None) -> Images:
    """Decode the files one by one into one array (N, C, H, W). Raises: DataError."""

    def pixels(image: Image.Image) -> Images:
        array = np.asarray(image.convert(mode), dtype=np.uint8)
        planes = array[None, None] if array.ndim == 2 else array.transpose(2, 0, 1)[None]
        return planes if size is None else resize(np.ascontiguousarray(planes), size)

    first = _with_image(paths[0], pixels)
    check_memory(str(paths[0].parent), len(paths) * first.nbytes)
    images = np.empty((len(paths), *first.shape[1:]), dtype=np.uint8)
    for path, target in zip(paths, images, strict=True):
        decoded = _with_image(path, pixels)[0]
        if decoded.shape != target.shape:
            (height, width), (other_height, other_width) = target.shape[1:], decoded.shape[1:]
            rule = (
                f"is {other_width}×{other_height} pixels where {paths[0].name} is {width}×{height}"
            )
            hint = "set the data set's size: [height, width]"
            raise DataError("dataset", str(path), rule, hint)
        target[:] = decoded
    return images


def _with_image(path: Path, use: Callable[[Image.Image], _Result]) -> _Result:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return use(image)
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        rule = f"cannot be read as an image: {type(error).__name__}: {error}"
        raise DataError("dataset", str(path), rule, "repair it or remove it") from error
