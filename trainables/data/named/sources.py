"""Where the named data sets come from: torchvision, a Debian package, or scikit-learn."""

from __future__ import annotations

import gzip
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

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Parts
from foldrace.trainables.data.conversion import parts_from

__all__ = [
    "IDX_FILES",
    "PACKAGE",
    "Source",
    "apt_source",
    "installed_source",
    "read_digits",
    "torchvision_source",
]

NETWORK_TIMEOUT = 10.0
"""Seconds without an answer or a byte after which a download fails."""

PACKAGE = "dataset-fashion-mnist"
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_PACKAGE_FOLDER = Path("usr/share/datasets/fashion-mnist")
_APT_TIMEOUT = 600.0


@dataclass(frozen=True)
class Source:
    """One way to get a data set.

    Attributes:
        name: what an error and the log call it.
        read: gets an empty folder for its files, which is removed afterwards, and returns images
            and labels of both parts. It may raise anything: then the next source is tried.
    """

    name: str
    read: Callable[[Path], Parts]


def torchvision_source(class_name: str) -> Source:
    """Download by a class of ``torchvision.datasets``, which verifies its files' MD5 sums."""

    def read(folder: Path) -> Parts:
        with _silent_with_timeout():
            return _read_torchvision(class_name, folder, "torchvision", download=True)

    return Source("torchvision's download", read)


def _read_torchvision(class_name: str, folder: Path, source: str, *, download: bool) -> Parts:
    factory = getattr(importlib.import_module("torchvision.datasets"), class_name)
    train, test = (factory(str(folder), train=part, download=download) for part in (True, False))
    values = {
        "images": train.data,
        "labels": train.targets,
        "test_images": test.data,
        "test_labels": test.targets,
    }
    return parts_from(class_name, values, source)


@contextmanager
def _silent_with_timeout() -> Iterator[None]:
    """Hide progress bars, and let a missing network fail in seconds instead of minutes.

    torchvision has no such settings, so these hold for the whole process until the block ends.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)


def installed_source(package: Path = Path("/") / _PACKAGE_FOLDER) -> Source:
    """FashionMNIST from the folder of the installed Debian package."""
    return Source(f"the installed package {PACKAGE}", lambda folder: _read_idx(package, folder))


def apt_source() -> Source:
    """FashionMNIST from the Debian package: downloaded and unpacked without root."""

    def read(folder: Path) -> Parts:
        for tool in ("apt-get", "dpkg"):
            if shutil.which(tool) is None:
                raise FileNotFoundError(f"{tool} is not installed")
        timeout = f"Acquire::http::Timeout={NETWORK_TIMEOUT:.0f}"
        options = ["-q", "-o", timeout, "-o", "Acquire::Retries=1"]
        _run(["apt-get", *options, "download", PACKAGE], folder)
        archives = sorted(folder.glob("*.deb"))
        if len(archives) != 1:
            raise FileNotFoundError(f"apt-get downloaded {len(archives)} archives, not one")
        _run(["dpkg", "-x", archives[0].name, "unpacked"], folder)
        return _read_idx(folder / "unpacked" / _PACKAGE_FOLDER, folder)

    return Source(f"apt-get download {PACKAGE}", read)


def _run(command: list[str], folder: Path) -> None:
    """Run a command in ``folder``. Raises OSError, with the command's errors, if it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_APT_TIMEOUT,
    )
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if not line.startswith("W:")]
        raise OSError(f"{command[0]} ended with {done.returncode}: {' '.join(errors)}")


def _read_idx(package: Path, folder: Path) -> Parts:
    """The package's four gzipped idx files, unpacked to where torchvision reads them."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX_FILES:
        with gzip.open(package / f"{name}.gz") as packed, (raw / name).open("wb") as file:
            shutil.copyfileobj(packed, file)
    return _read_torchvision("FashionMNIST", folder, f"Debian package {PACKAGE}", download=False)


def read_digits() -> Parts:
    """scikit-learn's 1,797 handwritten digits, (1797, 1, 8, 8); there is no test part.

    The values 0 to 16 are scaled to 0 to 255.

    Raises:
        DataError: scikit-learn cannot be imported.
    """
    try:
        load_digits = importlib.import_module("sklearn.datasets").load_digits
    except ImportError as error:
        rule = f"needs scikit-learn: {error}"
        raise DataError("dataset", "digits", rule, "pip install scikit-learn") from error
    digits = load_digits()
    return Parts.of_images(
        images=np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8),
        source="scikit-learn",
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(n) for n in range(10)),
    )
