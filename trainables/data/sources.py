"""Where the data sets with a name come from: torchvision, a Debian package, scikit-learn."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Parts, parts_from

__all__ = [
    "DIGITS",
    "IDX_FILES",
    "PACKAGE",
    "Source",
    "apt_source",
    "idx_sha256",
    "installed_source",
    "read_digits",
    "torchvision_source",
]

DIGITS = "digits"
NETWORK_PATIENCE = 10.0
"""Seconds without an answer or a byte until a network is given up."""

PACKAGE = "dataset-fashion-mnist"
_PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")
_APT_LIMIT = 600.0
IDX_FILES = {
    "images": "train-images-idx3-ubyte",
    "labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class Source:
    """One way to get a data set.

    ``read`` is given an empty folder for its files, removed afterwards, and returns all four
    arrays. It may raise anything: the next source is tried then.
    """

    name: str
    read: Callable[[Path], Parts]


def torchvision_source(class_name: str) -> Source:
    """The download by a class of ``torchvision.datasets``, which checks its files against MD5
    sums."""

    def read(folder: Path) -> Parts:
        factory = getattr(importlib.import_module("torchvision.datasets"), class_name)
        with _quiet_and_impatient():
            train = factory(str(folder), train=True, download=True)
            test = factory(str(folder), train=False, download=True)
        values = {
            "images": train.data,
            "labels": train.targets,
            "test_images": test.data,
            "test_labels": test.targets,
        }
        return parts_from(class_name, values, "torchvision")

    return Source("torchvision's download", read)


@contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """No progress bars; and a network that is not there is noticed in seconds (by default: in
    minutes, or never).

    torchvision takes no such settings, so they hold for the whole process meanwhile.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_PATIENCE)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def installed_source(folder: Path = Path("/") / _PACKAGE_FOLDER) -> Source:
    """FashionMNIST's four files as Debian's package puts them into ``folder``."""
    return Source(f"the installed package {PACKAGE}", lambda _: _read_idx_folder(folder))


def apt_source() -> Source:
    """FashionMNIST's four files from Debian's package: downloaded and unpacked aside, not
    installed; needs no root."""

    def read(folder: Path) -> Parts:
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise FileNotFoundError(f"no {tool} here")
        patience = f"Acquire::http::Timeout={NETWORK_PATIENCE:.0f}"
        _run(
            ["apt-get", "-q", "-o", patience, "-o", "Acquire::Retries=1", "download", PACKAGE],
            folder,
        )
        archives = sorted(folder.glob("*.deb"))
        if len(archives) != 1:
            raise FileNotFoundError(f"apt-get left {len(archives)} archives")
        _run(["dpkg", "-x", archives[0].name, "unpacked"], folder)
        return _read_idx_folder(folder / "unpacked" / _PACKAGE_FOLDER)

    return Source(f"apt-get download {PACKAGE}", read)


def _run(command: list[str], folder: Path) -> None:
    """Runs ``command`` in ``folder``. Raises: OSError, with what the command complained about."""
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_APT_LIMIT,
    )
    if done.returncode != 0:
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        raise OSError(f"{command[0]} ended with {done.returncode}: {' '.join(complaints)}")


def _read_idx_folder(folder: Path) -> Parts:
    arrays = {part: _read_idx(folder / f"{file}.gz") for part, file in IDX_FILES.items()}
    return parts_from(str(folder), arrays, f"Debian package {PACKAGE}")


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """The bytes in a gzipped idx file: a magic number 0, 0, 8 (bytes), axes; each axis' length;
    the values."""
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    if content[:3] != b"\x00\x00\x08" or axes not in (1, 3) or len(content) < start:
        raise ValueError(f"{path.name} is not an idx file of bytes")
    shape = [int(n) for n in np.frombuffer(content[4:start], dtype=">u4")]
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def idx_sha256(array: NDArray[np.uint8] | NDArray[np.int64]) -> str:
    """The SHA-256 sum of the idx file that holds ``array`` (without its channel axis)."""
    shape = array.shape if array.ndim == 1 else (len(array), *array.shape[2:])
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    total = hashlib.sha256(header)
    total.update(np.ascontiguousarray(array, dtype=np.uint8).reshape(-1).data)
    return total.hexdigest()


def read_digits() -> Parts:
    """scikit-learn's 1,797 handwritten digits, (1797, 1, 8, 8), their values 0 to 16 scaled to 0
    to 255; no test part.

    Raises:
        DataError: scikit-learn does not import.
    """
    try:
        load_digits = importlib.import_module("sklearn.datasets").load_digits
    except ImportError as error:
        raise DataError(
            "dataset", DIGITS, f"needs scikit-learn: {error}", "pip install scikit-learn"
        ) from error
    digits = load_digits()
    return Parts(
        images=np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8),
        source="scikit-learn",
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(n) for n in range(10)),
    )
