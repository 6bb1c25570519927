"""Reads a folder of images as a data set.

`torchvision.datasets.ImageFolder` follows another rule (it takes hidden files, and skips ``.gif``
and ``.pbm``), has no test part, and decodes lazily; here every image is decoded once, into bytes.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foldrace.errors import DataError, printable
from foldrace.trainables.data.arrays import Images, Parts, check_memory
from foldrace.trainables.data.conversion import number_classes
from foldrace.trainables.data.folder_layout import FolderLayout, Remarks, lay_out
from foldrace.trainables.data.parts import Part, resize

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["read_folder"]

log = logging.getLogger(__name__)

_BITS_PER_SAMPLE = 258  # a TIFF's tag
_DEEP = re.compile(r";16[BLN]")  # as Pillow calls 16 bits per channel, of which it reads 8


def read_folder(name: str, size: tuple[int, int] | None) -> Parts:
    """Read a folder of images, in the order of their sorted paths.

    One folder per class gives labels, numbered in the order of the sorted folder names; images
    without class folders have no labels. Either kind may be in folders named as parts: ``train``,
    ``test`` and ``val`` in any common spelling; a validation part joins the training part. Images
    have one channel if all of them are grey, else three. They are turned upright as their EXIF
    data say. Every file is used, or named in a warning or an error.

    Args:
        size: (height, width) to resize every image to, bilinear; None: all must have the same
            size.

    Raises:
        DataError: no images; files that cannot be read; images of different sizes, or with more
            than 8 bits per channel; a class in the test part that the training part does not have;
            or the folder can be understood in more than one way (see `lay_out`).
    """
    root = Path(name).expanduser()
    remarks = Remarks(root)
    layout = lay_out(name, root, remarks)
    labels, test_labels, class_names = number_classes(name, *_joined(name, layout))
    for step in layout.steps:
        log.warning("%s: %s", name, step)
    train, validation, test = (layout.files.get(part, []) for part in Part)
    images = _decode(name, [*train, *validation, *test], size, remarks)
    count = len(train) + len(validation)
    trained_on = {image.tobytes() for image in images[:count]} if test else set()
    for path, image in zip(test, images[count:], strict=True):
        if image.tobytes() in trained_on:
            remarks.add("test images that are training images too", path)
    for path in validation:
        remarks.add("validation images, which join the training part", path)
    for line in remarks.lines():
        log.warning("%s: %s", name, line)
    return Parts.of_images(
        images=images[:count],
        source=printable(root),
        labels=labels,
        test_images=images[count:] if test else None,
        test_labels=test_labels,
        class_names=tuple(map(printable, class_names)),
    )


def _joined(name: str, layout: FolderLayout) -> tuple[list[str], list[str]]:
    """The classes of the training and validation parts together, and of the test part."""
    train, validation, test = (layout.labels.get(part, []) for part in Part)
    if Part.VALIDATION in layout.files and bool(train) != bool(validation):
        rule = "has class folders in only one of its training and validation parts"
        raise DataError("dataset", name, rule, "give both of them class folders, or none")
    return train + validation, test


def _decode(
    name: str, paths: Sequence[Path], size: tuple[int, int] | None, remarks: Remarks
) -> Images:
    """Decode files into one array (N, C, H, W), with one channel if all of them are grey.

    Raises:
        DataError: files that cannot be read, or of different sizes: the first one, and how many.
    """
    images = np.empty((0, 0, 0, 0), dtype=np.uint8)
    first = None
    unreadable: list[tuple[Path, DataError]] = []
    others: list[tuple[Path, tuple[int, ...]]] = []
    for index, path in enumerate(paths):
        try:
            planes = _planes(path, size, remarks)
        except DataError as error:
            unreadable.append((path, error))
            continue
        if first is None:
            first = path
            check_memory(name, len(paths) * planes.nbytes)
            images = np.empty((len(paths), *planes.shape), dtype=np.uint8)
        if planes.shape[1:] != images.shape[2:]:
            others.append((path, planes.shape))
        elif not (unreadable or others):
            if len(planes) > images.shape[1]:
                check_memory(name, len(planes) * images.nbytes)
                images = np.repeat(images, len(planes), axis=1)
            images[index] = planes
    if unreadable:
        raise _counted(unreadable[0][1], len(unreadable), len(paths))
    if others:
        assert first is not None
        (path, (_, height, width)), (first_height, first_width) = others[0], images.shape[2:]
        rule = f"is {width}×{height} pixels where {first.name} is {first_width}×{first_height}"
        odd = DataError("dataset", str(path), rule, "set the data set's size: [height, width]")
        raise _counted(odd, len(others), len(paths))
    return images


def _counted(error: DataError, count: int, of: int) -> DataError:
    """The error of the first file, with the number of files that have one."""
    more = f" ({count:,} such files of {of:,})" if count > 1 else ""
    return DataError(error.field, error.value, error.rule + more, error.hint)


def _planes(path: Path, size: tuple[int, int] | None, remarks: Remarks) -> Images:
    """Decode one file, (C, H, W), C being 1 or 3. Raises: DataError."""
    from PIL import Image

    if not path.is_file():
        rule = "is a link that leads nowhere" if path.is_symlink() else "is not a regular file"
        raise DataError("dataset", str(path), rule, "repair it or remove it")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                deep = _is_deep(image)
                if not deep:
                    planes = _pixels(path, image, remarks)
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others.
    except Exception as error:
        rule = f"cannot be read as an image: {type(error).__name__}: {error}"
        raise DataError("dataset", str(path), rule, "repair it or remove it") from error
    if deep:
        rule = f"has more than 8 bits per channel (mode {image.mode})"
        hint = "convert it to 8 bits (of 16: value / 257), or return floats in [0, 1] from a"
        raise DataError("dataset", str(path), rule, f"{hint} ./file.py:function")
    return planes if size is None else resize(planes[None], size)[0]


def _is_deep(image: Any) -> bool:
    """Whether a channel has more than 8 bits, of which Pillow would read 8."""
    if image.mode.startswith(("I", "F")) or _DEEP.search(str(image.tile)):
        return True
    tags = getattr(image, "tag_v2", None) or {}  # of a TIFF, whose planes may be apart
    greatest = [value for tile in image.tile for value in tile.args if isinstance(value, int)]
    pnm = image.format == "PPM" and max(greatest, default=0) > 255
    return pnm or max(tags.get(_BITS_PER_SAMPLE) or (8,)) > 8


def _pixels(path: Path, image: Image.Image, remarks: Remarks) -> Images:
    """The first page of an opened image, upright, without transparency."""
    if getattr(image, "n_frames", 1) > 1:
        remarks.add("several pages, of which the first is used", path)
    image = _upright(path, image, remarks)
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            remarks.add("transparency, which is left out", path)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"), dtype=np.uint8)[None]
    array = np.asarray(image.convert("RGB"), dtype=np.uint8)
    # A palette may hold greys only. What is stored as colours stays so, be they equal or not.
    is_grey = image.mode in ("P", "PA") and (array == array[:, :, :1]).all()
    return np.ascontiguousarray(array.transpose(2, 0, 1)[: 1 if is_grey else 3])


def _upright(path: Path, image: Image.Image, remarks: Remarks) -> Image.Image:
    from PIL import ImageOps

    image.load()  # what cannot be decoded is not to be taken for poor EXIF data below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return ImageOps.exif_transpose(image)
    except Exception:  # Pillow warns of damaged EXIF data, or raises many kinds of errors
        remarks.add("damaged EXIF data, so not turned upright", path)
        return image
