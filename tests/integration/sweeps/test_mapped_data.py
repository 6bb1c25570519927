"""Workers that train on data in files do not hold them in memory of their own.

The data are 512 MB, a quarter of the 2 GB of which it must hold; the bound is in proportion: a
worker's own memory grows by less than an eighth of the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from foldrace.trainables.data.arrays import Fields
from foldrace.trainables.data.mapped import Mapped
from foldrace.trainables.data.sample import FieldInfo, Sample
from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.splits import Split
from tests.integration.sweeps.test_shared_data import MEGABYTE, connected

__all__ = ["connected"]

SIDE, BATCH, WORKERS = 32, 64, 4
IMAGES = 512 * MEGABYTE // SIDE**2


def private_bytes() -> int:
    """What only this process holds and has written. Pages of a file that it alone has read so far
    are not among them: the system drops those when it likes."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
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


@pytest.mark.slow
def test_data_in_files_are_not_held_by_each_worker(connected: None, tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    shape = (IMAGES, 1, SIDE, SIDE)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    images[:] = np.arange(SIDE, dtype=np.uint8) * 8
    images.flush()
    mapped = Mapped.of(path)
    assert mapped.nbytes == 512 * MEGABYTE
    fields: Fields = {"images": mapped}
    sample = Sample({"images": FieldInfo("images", shape[1:], "uint8", 0.0, 248.0)})
    spread = np.arange(0, IMAGES, IMAGES // 4096)
    work: Any = ray.put(
        Work(
            load_task("autoencoder"),
            fields,
            sample,
            (Split(spread, np.arange(BATCH)),),
            TrainingOptions(1),
        )
    )
    workers = [Worker.remote() for _ in range(WORKERS)]  # type: ignore[attr-defined]
    found = ray.get([worker.grown.remote(work) for worker in workers], timeout=300)
    assert max(grown for grown, _ in found) < mapped.nbytes / 8, found
    assert len({loss for _, loss in found}) == 1
    for worker in workers:
        ray.kill(worker)
