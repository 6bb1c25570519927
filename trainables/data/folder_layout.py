"""How a folder of images is understood: its parts and classes, and what is left out and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from foldrace.errors import DataError, printable
from foldrace.trainables.data.parts import Part, part_named, parts_in

__all__ = ["IMAGE_SUFFIXES", "FolderLayout", "Remarks", "lay_out", "walk"]

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"}
    | {".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
_EXAMPLES = 5  # files that a remark names


@dataclass
class Remarks:
    """What is to be said of files, by the remark: each file is counted, the first ones named."""

    root: Path
    files: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, remark: str, path: Path) -> None:
        """Remark on one file, or on a folder as a whole."""
        self.files.setdefault(remark, []).append(path)

    def lines(self) -> Iterator[str]:
        """One line for each remark: ``left out, hidden (2): .DS_Store, cat/.thumbnails``."""
        for remark, paths in self.files.items():
            names = [printable(path.relative_to(self.root)) for path in sorted(paths)[:_EXAMPLES]]
            more = f" and {len(paths) - _EXAMPLES:,} more" if len(paths) > _EXAMPLES else ""
            yield f"{remark} ({len(paths):,}): {', '.join(names)}{more}"


@dataclass(frozen=True)
class FolderLayout:
    """The images of a folder.

    Attributes:
        files: the sorted images of each part that the folder has.
        labels: the class of each of them; no labels if the part has no class folders.
        steps: how the folder was understood, one sentence each, where it was not as it stands.
    """

    files: dict[Part, list[Path]]
    labels: dict[Part, list[str]]
    steps: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    images: list[Path]
    folders: dict[Path, list[Path]]  # by the folder that they are in


def lay_out(name: str, root: Path, remarks: Remarks) -> FolderLayout:
    """Find a folder's images, and decide of which part and class each one is.

    A folder that holds all images is entered until there is a choice. Folders named as parts (see
    `part_named`) are parts; in a part, or where there are none, the folders are classes.

    Args:
        name: the data set's name in an error.
        remarks: is told of all that is left out.

    Raises:
        DataError: no images, or none in a part; or it cannot be said what is meant: images outside
            the parts, two folders for one part, no training part, or images beside class folders.
    """
    found = walk(name, root, remarks)
    if not found.images:
        raise _no_images(name, root, remarks)
    _name_empty_folders(root, found, remarks)
    base, steps = root, []
    while not (parts := _parts_in(name, base, found)):
        inner = _only_folder(base, found.images)
        if inner is None:
            break
        base = inner
        steps.append(f"all images are in {_below(base, root)}, which is taken as the data set")
    folders = parts or {Part.TRAINING: base}
    images = {
        part: [path for path in found.images if path.is_relative_to(folder)]
        for part, folder in folders.items()
    }
    for part, folder in folders.items():
        if not images[part]:
            raise _no_images(name, folder, remarks)
    while parts:
        inner_folders = {part: _only_folder(folders[part], images[part]) for part in folders}
        if None in inner_folders.values():
            break
        folders = {part: inner for part, inner in inner_folders.items() if inner is not None}
        inside = ", ".join(_below(folder, root) for folder in folders.values())
        steps.append(f"each part has one folder, which is taken as the part: {inside}")
    labels = {part: _classes(name, folders[part], images[part]) for part in folders}
    return FolderLayout(images, labels, tuple(steps))


def walk(name: str, root: Path, remarks: Remarks) -> _Found:
    """All images at any depth, sorted, and all folders; each other entry gets a remark.

    Links are followed, but each folder is read once: folders before links to them.

    Raises:
        DataError: a folder that cannot be read.
    """
    images, folders, read = list[Path](), defaultdict[Path, list[Path]](list), set[object]()
    waiting, links = [root], list[Path]()
    while waiting or links:
        if not waiting:
            links.sort(reverse=True)
            if root.resolve().is_relative_to(links[-1].resolve()):
                remarks.add("left out, a link to a folder above", links.pop())
                continue
            waiting.append(links.pop())
        folder = waiting.pop()
        identity = _identity(name, folder)
        if identity in read:
            remarks.add("left out, a folder that is read by another path", folder)
            continue
        read.add(identity)
        folders[folder.parent].append(folder)
        for path, is_folder in _entries(name, folder):
            if path.name.startswith("."):
                remarks.add("left out, hidden", path)
            elif is_folder:
                (links if path.is_symlink() else waiting).append(path)
            elif path.suffix.lower() not in IMAGE_SUFFIXES:
                remarks.add("left out, not an image by the ending of the name", path)
            else:
                images.append(path)
    return _Found(sorted(images), folders)


def _name_empty_folders(root: Path, found: _Found, remarks: Remarks) -> None:
    """A remark on each folder without any image in it or below, the topmost ones."""
    full = {above for image in found.images for above in image.parents} | {root}
    for above, folders in found.folders.items():
        for folder in folders:
            if above in full and folder not in full:
                remarks.add("left out, a folder without images", folder)


def _identity(name: str, folder: Path) -> tuple[int, int]:
    """The same for all paths to a folder."""
    with _readable(name, folder):
        status = folder.stat()
        return status.st_dev, status.st_ino


def _entries(name: str, folder: Path) -> list[tuple[Path, bool]]:
    """What is in a folder, and whether it is a folder itself or a link to one."""
    with _readable(name, folder):
        return [(path, path.is_dir()) for path in folder.iterdir()]


@contextmanager
def _readable(name: str, folder: Path) -> Iterator[None]:
    """Turn an error of the system into a DataError."""
    try:
        yield
    except OSError as error:
        rule = f"cannot be read: {error.strerror or error}"
        hint = "make it readable, or move it away"
        raise DataError("dataset", name, f"{folder} {rule}", hint) from error


def _only_folder(base: Path, images: list[Path]) -> Path | None:
    """The folder in ``base`` that all these images are in, if there is one."""
    tops = {path.relative_to(base).parts[0] for path in images}
    return base / tops.pop() if len(tops) == 1 and base not in {p.parent for p in images} else None


def _parts_in(name: str, base: Path, found: _Found) -> dict[Part, Path]:
    """The folders in ``base`` that are parts by their names; empty if there are none."""
    parts: dict[Part, Path] = {}
    for folder in sorted(found.folders.get(base, [])):
        part = part_named(folder.name)
        if part in parts:
            rule = f"has two folders for the {part.value} part: {parts[part].name}, {folder.name}"
            raise DataError("dataset", name, rule, "merge or rename one of them")
        if part is not None:
            parts[part] = folder
    if not parts:
        return parts
    names = " and ".join(f"{folder.name}/" for folder in parts.values())
    if Part.TRAINING not in parts:
        rule = f"has {names} but no train/"
        raise DataError("dataset", name, rule, "put the other images, or all classes, into train/")
    outside = [p for p in found.images if not any(p.is_relative_to(f) for f in parts.values())]
    if outside:
        first = outside[0].relative_to(base).parts[0]
        rule = f"has images outside {names} ({len(outside):,}): {first}"
        hint = "move them into train/ (which is divided into folds) or away"
        classes = "; if the names are classes, put all of them into train/"
        raise DataError("dataset", name, rule, hint + classes)
    return parts


def _classes(name: str, folder: Path, images: list[Path]) -> list[str]:
    """The class folder of each image of a part; empty if there are no class folders."""
    loose = [path for path in images if path.parent == folder]
    if loose and len(loose) < len(images):
        rule = f"has images beside its class folders in {folder}: {loose[0].name}"
        raise DataError("dataset", name, rule, "give each image a class folder, or none")
    classes = [] if loose else [path.relative_to(folder).parts[0] for path in images]
    if classes and all(part_named(label) for label in set(classes)):
        both = ", ".join(sorted(set(classes)))
        rule = f"has folders that are named as parts inside {folder}: {both}"
        hint = "name the folder of that part itself, or rename them if they are classes"
        raise DataError("dataset", name, rule, hint)
    _check_no_parts_in_classes(name, folder, images if classes else [])
    return classes


def _check_no_parts_in_classes(name: str, folder: Path, images: list[Path]) -> None:
    """Checks that no part of another layout would be taken for classes, or for a class's own.

    Raises:
        DataError: the classes' names speak of training and test, or a folder below one is a part.
    """
    inside = {path.parent.relative_to(folder) for path in images}
    speaking = sorted({place.parts[0] for place in inside if parts_in(place.parts[0])})
    hint = "put the parts above the classes (train/CLASS, test/CLASS), or rename these folders"
    if {Part.TRAINING, Part.TEST} <= {part for top in speaking for part in parts_in(top)}:
        rule = f"has class folders that speak of parts: {', '.join(speaking[:_EXAMPLES])}"
        raise DataError("dataset", name, rule, hint)
    below = sorted(
        place
        for place in inside
        if {part_named(inner) for inner in place.parts[1:]} & {Part.TEST, Part.VALIDATION}
    )
    if below:
        rule = f"has folders below its classes that are named as parts: {printable(below[0])}"
        raise DataError("dataset", name, rule, hint)


def _no_images(name: str, folder: Path, remarks: Remarks) -> DataError:
    left_out: Iterable[str] = remarks.lines()
    rule = "; ".join([f"no images in {folder}", *left_out])
    hint = f"files with these endings count: {', '.join(sorted(IMAGE_SUFFIXES))}"
    return DataError("dataset", name, rule, hint)


def _below(folder: Path, root: Path) -> str:
    return f"{printable(folder.relative_to(root))}/"
