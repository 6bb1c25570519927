"""Fetching and keeping data sets, with fake sources. Nothing here uses a network."""

from __future__ import annotations

import gzip
import logging
import multiprocessing
import os
import socket
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrace.errors import DataError
from foldrace.trainables.data.arrays import Parts
from foldrace.trainables.data.datasets import State, fetch, list_datasets, load_dataset
from foldrace.trainables.data.named import sources
from foldrace.trainables.data.named.catalogue import CATALOGUE, NamedDataset
from foldrace.trainables.data.named.fetching import obtain
from foldrace.trainables.data.named.sources import (
    IDX_FILES,
    Source,
    apt_source,
    installed_source,
    torchvision_source,
)
from foldrace.trainables.data.named.store import stored_path
from foldrace.trainables.data.parts import digest


def small(seed: int = 0, source: str = "here") -> Parts:
    rng = np.random.default_rng(seed)
    return Parts.of_images(
        images=rng.integers(0, 256, (12, 1, 4, 3), dtype=np.uint8),
        labels=np.arange(12) % 3,
        test_images=rng.integers(0, 256, (5, 1, 4, 3), dtype=np.uint8),
        test_labels=np.arange(5) % 3,
        source=source,
    )


def giving(parts: Parts, calls: list[str] | None = None, name: str = "giver") -> Source:
    def read(folder: Path) -> Parts:
        assert list(folder.iterdir()) == []
        (folder / "half").write_bytes(b"of something")
        if calls is not None:
            calls.append(name)
        return parts

    return Source(name, read)


def failing(error: BaseException, calls: list[str] | None = None, name: str = "failer") -> Source:
    def read(folder: Path) -> Parts:
        (folder / "half").write_bytes(b"of something")
        if calls is not None:
            calls.append(name)
        raise error

    return Source(name, read)


def entry(*tried: Source, pinned: Parts | None = None) -> NamedDataset:
    pin = digest(pinned) if pinned else ""
    return NamedDataset(
        "toy", "toys", (12, 5), (1, 4, 3), ("a", "b", "c"), tried, "find a network", pin
    )


ARRAYS = ("images", "labels", "test_images", "test_labels")
DATA_LOG = "foldrace.trainables.data"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the data room has logged so far."""
    caplog.set_level(logging.INFO, DATA_LOG)
    return lambda: caplog.messages


def seen(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


# --- the order of sources, and what they give


def test_the_first_source_that_works_is_the_last_one_asked(tmp_path, told):
    calls: list[str] = []
    tried = entry(
        failing(OSError("no network"), calls, "one"),
        giving(small(), calls, "two"),
        giving(small(1), calls, "three"),
    )
    parts = obtain(tried, tmp_path)
    assert calls == ["one", "two"]
    np.testing.assert_array_equal(parts.arrays["images"], small().arrays["images"])
    assert parts.names == {"labels": ("a", "b", "c")} and parts.source == "here"
    assert any("no network" in line for line in told())
    assert told()[-1].startswith("toy: fetched from here in ")


def test_what_is_stored_is_not_fetched_again(tmp_path):
    calls: list[str] = []
    tried = entry(giving(small(), calls))
    first = obtain(tried, tmp_path)
    again = obtain(tried, tmp_path)
    assert calls == ["giver"] and seen(tmp_path) == ["toy.npz"]
    assert again.source == first.source and again.names == first.names
    for part in ARRAYS:
        np.testing.assert_array_equal(again.arrays[part], first.arrays[part])


def test_when_all_sources_fail_the_error_says_what_was_tried(tmp_path):
    tried = entry(
        failing(OSError("no\nnetwork"), name="one"),
        failing(ImportError("no torchvision"), name="two"),
    )
    with pytest.raises(DataError) as caught:
        obtain(tried, tmp_path / "new")
    message = str(caught.value)
    assert message.startswith("dataset: toy: cannot be fetched; tried 2: ")
    assert "one: OSError: no network; two: ImportError: no torchvision; find a network" in message
    assert seen(tmp_path / "new") == []


def changed(**parts: Any) -> Parts:
    return Parts.of_images(**{"source": "here", **small().arrays, **parts})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (small(1), "the SHA-256 digest is "),
        (changed(test_labels=(np.arange(5) + 1) % 3), "the SHA-256 digest is "),
        (
            changed(images=small().arrays["images"][:-1]),
            "images have shape (11, 1, 4, 3), not (12, 1, 4, 3)",
        ),
        (changed(test_images=None), "test_images have shape None"),
        (changed(labels=None), "labels are not 12 numbers from 0 to 2"),
        (changed(labels=np.arange(12)), "labels are not 12 numbers from 0 to 2"),
    ],
)
def test_what_is_not_the_data_set_is_refused_and_the_next_source_asked(tmp_path, given, says):
    right = small(source="right")
    with pytest.raises(DataError) as caught:
        obtain(entry(giving(given), pinned=right), tmp_path)
    assert says in str(caught.value) and seen(tmp_path) == []
    assert obtain(entry(giving(given), giving(right), pinned=right), tmp_path).source == "right"


# --- the data folder


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_an_interrupted_fetch_leaves_the_folder_as_it_was(tmp_path, interruption):
    (tmp_path / "other.npz").write_bytes(b"someone's")
    with pytest.raises((type(interruption), DataError)):
        obtain(entry(failing(interruption)), tmp_path)
    assert seen(tmp_path) == ["other.npz"]


def test_an_interruption_while_storing_keeps_what_was_there(tmp_path, monkeypatch):
    obtain(entry(giving(small())), tmp_path)
    damaged = stored_path("toy", tmp_path)
    damaged.write_bytes(before := damaged.read_bytes()[:-100])
    savez = np.savez

    def interrupted(path: Path, **arrays: Any) -> None:
        savez(path, **arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        obtain(entry(giving(small(1))), tmp_path)
    assert seen(tmp_path) == ["toy.npz"] and damaged.read_bytes() == before


def test_a_full_disk_is_a_data_error(tmp_path, monkeypatch):
    def full(path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"cannot be stored in .*No space left"):
        obtain(entry(giving(small())), tmp_path)
    assert seen(tmp_path) == []


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [flip, lambda c: c[:-50], lambda c: b"", lambda c: b"PK" + c])
def test_a_copy_that_was_damaged_is_noticed_and_fetched_anew(
    tmp_path, told, caplog, damage: Callable[[bytes], bytes]
):
    large = changed(
        images=np.zeros((12, 1, 40, 30), dtype=np.uint8),
        test_images=np.zeros((5, 1, 40, 30), dtype=np.uint8),
    )
    tried = replace(entry(giving(large)), sample_shape=(1, 40, 30))
    obtain(tried, tmp_path)
    path = stored_path("toy", tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    caplog.clear()
    assert not obtain(tried, tmp_path).arrays["images"].any()
    assert "is damaged" in told()[0] and caplog.records[0].levelno == logging.WARNING
    caplog.clear()
    obtain(tried, tmp_path)
    assert told() == []


def test_arrays_put_in_place_of_the_stored_ones_are_noticed(tmp_path, told, caplog):
    obtain(entry(giving(small())), tmp_path)
    path = stored_path("toy", tmp_path)
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    np.savez(
        path, **{**arrays, "images": small(1).arrays["images"]}
    )  # a whole file, with the old digest
    caplog.clear()
    again = obtain(entry(giving(small())), tmp_path)
    np.testing.assert_array_equal(again.arrays["images"], small().arrays["images"])
    assert "its digest is not the stored one" in told()[0]


def test_another_data_set_in_place_of_the_stored_one_is_noticed(tmp_path, told, caplog):
    obtain(entry(giving(small(1))), tmp_path)  # whole, and with its own digest
    caplog.clear()
    right = entry(giving(small()), pinned=small())
    got = obtain(right, tmp_path).arrays["images"]
    np.testing.assert_array_equal(got, small().arrays["images"])
    assert f"is damaged (the SHA-256 digest is {digest(small(1))}, not " in told()[0]


def test_what_a_killed_process_left_is_removed_by_the_next_fetch(tmp_path):
    code = (
        "import os; from pathlib import Path\n"
        "from foldrace.trainables.data.named.store import staging\n"
        f"with staging('toy', Path({str(tmp_path)!r})) as stage:\n"
        "    (stage / 'half').write_bytes(b'of something'); os.kill(os.getpid(), 9)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode
        == -9
    )
    assert len(seen(tmp_path)) == 1 and seen(tmp_path)[0].startswith(".fetching-")
    obtain(entry(giving(small())), tmp_path)
    assert seen(tmp_path) == ["toy.npz"]


def fetch_together(data_dir: Path, fetched: Any, barrier: Any, other_waits: Any) -> None:
    def read(folder: Path) -> Parts:
        (folder / "half").write_bytes(b"of something")
        assert other_waits.wait(30)
        fetched.put(os.getpid())
        return small()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for another process" in record.getMessage():
                other_waits.set()

    logging.getLogger(DATA_LOG).addHandler(Watch())
    logging.getLogger(DATA_LOG).setLevel(logging.INFO)
    barrier.wait(30)
    obtain(entry(Source("slow", read)), data_dir)


def test_of_two_processes_that_fetch_at_once_one_does_and_both_have_it(tmp_path):
    context = multiprocessing.get_context("spawn")  # a fork could inherit another test's threads
    fetched, barrier, other_waits = context.Queue(), context.Barrier(2), context.Event()
    arguments = (tmp_path, fetched, barrier, other_waits)
    workers = [context.Process(target=fetch_together, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert fetched.get(timeout=10) and fetched.empty()
    assert seen(tmp_path) == ["toy.npz"]


def test_a_data_folder_that_cannot_be_made_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be used"):
        obtain(entry(giving(small())), tmp_path / "file")


# --- torchvision


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stand-in for ``torchvision.datasets``, in whose place the tests put classes."""
    package, module = types.ModuleType("torchvision"), types.ModuleType("torchvision.datasets")
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    return module


def class_of(data: Parts, *, channels_last: bool) -> type:
    class Fake:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert download and socket.getdefaulttimeout() == sources.NETWORK_TIMEOUT
            print("100%|#####|")
            print("100%|#####|", file=sys.stderr)
            (Path(root) / "raw").mkdir(exist_ok=True)
            images, labels = [data.arrays[of] for of in (ARRAYS[:2] if train else ARRAYS[2:])]
            assert images is not None and labels is not None
            self.data = images.transpose(0, 2, 3, 1) if channels_last else images[:, 0]
            self.targets = labels.tolist()

    return Fake


@pytest.mark.parametrize(("channels", "channels_last"), [(1, False), (3, True)])
def test_torchvisions_arrays_are_taken_over_quietly(
    tmp_path, torchvision, capfd, channels, channels_last
):
    rng = np.random.default_rng(0)
    data = Parts.of_images(
        images=rng.integers(0, 256, (12, channels, 8, 8), dtype=np.uint8),
        labels=np.arange(12) % 3,
        test_images=rng.integers(0, 256, (5, channels, 8, 8), dtype=np.uint8),
        test_labels=np.arange(5) % 3,
        source="",
    )
    torchvision.TOY = class_of(data, channels_last=channels_last)  # type: ignore[attr-defined]
    tried = replace(entry(torchvision_source("TOY")), sample_shape=(channels, 8, 8))
    parts = obtain(tried, tmp_path)
    for part in ARRAYS:
        np.testing.assert_array_equal(parts.arrays[part], data.arrays[part])
    assert parts.source == "torchvision" and seen(tmp_path) == ["toy.npz"]
    assert capfd.readouterr() == ("", "") and socket.getdefaulttimeout() is None


def test_offline_is_one_error_and_the_timeout_is_put_back(tmp_path, torchvision):
    def offline(*_: Any, **__: Any) -> None:
        raise RuntimeError("Error downloading:\nTried somewhere, got:\ntimed out")

    torchvision.TOY = offline  # type: ignore[attr-defined]
    with pytest.raises(
        DataError, match="RuntimeError: Error downloading: Tried somewhere, got: timed out"
    ):
        obtain(entry(torchvision_source("TOY")), tmp_path)
    assert socket.getdefaulttimeout() is None and seen(tmp_path) == []


# --- Debian's package


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_package(folder: Path, data: Parts) -> None:
    folder.mkdir(parents=True)
    arrays = (data.arrays[part] for part in ARRAYS)
    for name, array in zip(IDX_FILES, arrays, strict=True):
        content = idx(array[:, 0] if array.ndim == 4 else array)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))


def test_the_installed_package_is_read_and_verified(tmp_path):
    write_package(tmp_path / "package", small())
    tried = entry(installed_source(tmp_path / "package"), pinned=small())
    parts = obtain(tried, tmp_path / "data")
    for part in ARRAYS:
        np.testing.assert_array_equal(parts.arrays[part], small().arrays[part])
    assert parts.source == "Debian package dataset-fashion-mnist"


PACKED = [gzip.compress(content, mtime=0) for content in (b"", b"\x00\x00\x08\x03\x00", b"x" * 99)]


@pytest.mark.parametrize("content", [b"", b"no gzip", *PACKED])
def test_a_damaged_package_is_a_data_error(tmp_path, content):
    write_package(tmp_path / "package", small())
    (tmp_path / "package" / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match="the installed package dataset-fashion-mnist: "):
        obtain(entry(installed_source(tmp_path / "package")), tmp_path / "data")
    assert seen(tmp_path / "data") == []


def put_tools(folder: Path, monkeypatch: pytest.MonkeyPatch, apt: str, dpkg: str) -> None:
    folder.mkdir()
    for name, script in (("apt-get", apt), ("dpkg", dpkg)):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_package_is_downloaded_and_unpacked_aside(tmp_path, monkeypatch):
    write_package(tmp_path / "archive" / "usr/share/datasets/fashion-mnist", small())
    copy = f'test "$1" = -x && cp -r {tmp_path}/archive "$3"'
    put_tools(tmp_path / "bin", monkeypatch, "touch dataset-fashion-mnist_1_all.deb", copy)
    parts = obtain(entry(apt_source(), pinned=small()), tmp_path / "data")
    np.testing.assert_array_equal(parts.arrays["images"], small().arrays["images"])
    assert seen(tmp_path / "data") == ["toy.npz"]


def test_apts_complaint_is_passed_on(tmp_path, monkeypatch):
    put_tools(
        tmp_path / "bin",
        monkeypatch,
        "echo W: odd >&2; echo E: Unable to locate package >&2; exit 100",
        "",
    )
    with pytest.raises(DataError, match="apt-get ended with 100: E: Unable to locate package;"):
        obtain(entry(apt_source()), tmp_path / "data")


def test_without_apt_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="apt-get is not installed"):
        obtain(entry(apt_source()), tmp_path / "data")


# --- by name


def test_fashion_mnist_asks_its_sources_in_this_order():
    assert [source.name for source in CATALOGUE["fashion-mnist"].sources] == [
        "torchvision's download",
        "the installed package dataset-fashion-mnist",
        "apt-get download dataset-fashion-mnist",
    ]
    assert len(CATALOGUE["fashion-mnist"].digest) == 64


def test_fetching_listing_and_loading_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "mnist", replace(entry(giving(small())), name="mnist"))

    def listed() -> dict[str, State]:
        return {info.name: info.state for info in list_datasets(tmp_path)}

    assert sorted(listed()) == ["cifar10", "digits", "fashion-mnist", "kmnist", "mnist"]
    assert listed()["mnist"] is State.NOT_FETCHED
    info = fetch("mnist", tmp_path)
    assert (
        info.state is State.READY
        and Path(info.where).is_file()
        and listed()["mnist"] is State.READY
    )
    data = load_dataset("mnist", data_dir=tmp_path, limit=6)
    assert len(data) == 6 and len(data.test_images) == 5 and data.class_names == ("a", "b", "c")
    assert data.digest == load_dataset("mnist", data_dir=tmp_path, limit=6).digest
