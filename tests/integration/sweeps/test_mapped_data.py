"""Processes that train on 2 GB of data in files, or read them, do not hold them in memory of their
own: it grows by less than a thirty-second part of that."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch.utils.data import Dataset

from foldrace.trainables.data.arrays import Fields
from foldrace.trainables.data.items.lazy import Items
from foldrace.trainables.data.items.loader import Loader
from foldrace.trainables.data.mapped import Mapped
from foldrace.trainables.data.sample import FieldInfo, Sample
from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.splits import Split
from tests.integration.sweeps.test_shared_data import MEGABYTE, connected

__all__ = ["connected"]

SIDE, BATCH, WORKERS = 32, 64, 4
IMAGES = 2048 * MEGABYTE // SIDE**2
MOST = 2048 * MEGABYTE // 32
SPREAD = np.arange(0, IMAGES, IMAGES // 4096)


def private_bytes(process: int | str = "self") -> int:
    """What only a process holds and has written. Pages of a file that it alone has read so far are
    not among them: the system drops those when it likes."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    return 1024 * int(rollup.partition("Private_Dirty:")[2].split()[0])


@ray.remote(num_cpus=0)
class Worker:
    """Trains a fold, as `FoldTrainable` does, and then reads all samples in batches."""

    def grown(self, work: Work) -> tuple[int, float]:
        """(growth of its own memory in bytes, a loss)."""
        import torch

        from foldrace.trainables.training.fold import Fold

        torch.set_num_threads(1)
        few = work.first_samples(BATCH)
        small = (Split(np.arange(BATCH), np.arange(BATCH)), work.options)
        Fold(work.task, work.task.complete({}), few, *small).train_epoch()
        before = private_bytes()
        samples = work.samples_on()
        fold = Fold(work.task, work.task.complete({}), samples, work.splits[0], work.options)
        fold.train_epoch()
        loss = fold.evaluate(torch.arange(BATCH))["loss"]
        for batch in samples.batches(torch.split(torch.arange(len(samples)), 1024)):
            assert len(batch["images"]) == 1024
        return private_bytes() - before, loss


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """2 GB, of which most are holes: nothing has been written there, and zeros are read."""
    path = tmp_path / "images.npy"
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (IMAGES, 1, SIDE, SIDE))
    for rows in (np.arange(BATCH), SPREAD):
        images[rows] = np.arange(SIDE, dtype=np.uint8) * 8
    images.flush()
    return path


@pytest.mark.slow
def test_data_in_files_are_not_held_by_each_worker(connected: None, path: Path) -> None:
    mapped = Mapped.of(path)
    assert mapped.nbytes == 2048 * MEGABYTE
    fields: Fields = {"images": mapped}
    sample = Sample({"images": FieldInfo("images", mapped.shape[1:], "uint8", 0.0, 248.0)})
    work: Any = ray.put(
        Work(
            load_task("autoencoder"),
            fields,
            sample,
            (Split(SPREAD, np.arange(BATCH)),),
            TrainingOptions(1),
        )
    )
    workers = [Worker.remote() for _ in range(WORKERS)]  # type: ignore[attr-defined]
    found = ray.get([worker.grown.remote(work) for worker in workers], timeout=300)
    assert max(grown for grown, _ in found) < MOST, found
    assert len({loss for _, loss in found}) == 1
    for worker in workers:
        ray.kill(worker)


class Rows(Dataset[Any]):
    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: Any = None

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> Any:
        if self.file is None:
            self.file = np.load(self.path, mmap_mode="r")
        return torch.from_numpy(np.array(self.file[index]))


@pytest.mark.slow
def test_data_in_files_are_not_held_by_each_process_that_reads_items(path: Path) -> None:
    loader = Loader(Items("rows", Rows(path), WORKERS), {"x": False})
    parts = [np.arange(at, at + 1024) for at in range(0, IMAGES, 1024 * 64)]
    assert sum(len(batch["x"]) for batch in loader.batches(parts)) == len(parts) * 1024
    readers = multiprocessing.active_children()
    before = {reader.pid: private_bytes(reader.pid or 0) for reader in readers}
    assert len(before) == WORKERS
    first = [part + 1024 for part in parts]
    for batch in loader.batches(first):
        assert batch["x"].shape == (1024, 1, SIDE, SIDE)
    grown = {pid: private_bytes(pid or 0) - size for pid, size in before.items()}
    assert max(grown.values()) < MOST, grown
    assert max(before.values()) < 2048 * MEGABYTE / 4, before
