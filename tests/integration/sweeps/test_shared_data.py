"""Workers on one machine read one copy of the data, in Ray's object store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.splits import Split
from tests.helpers.images import image_fields

IMAGES, BATCH = 130_000, 64
MEGABYTE = 2**20


@ray.remote(num_cpus=1)
class Worker:
    """Looks at where a trial's images lie, as `FoldTrainable` has them."""

    def __init__(self) -> None:
        import torch

        from foldrace.trainables.tasks.autoencoder_network import Autoencoder  # noqa: F401  (imports are not what is measured)

        torch.set_num_threads(1)
        torch.nn.Linear(2, 2)(torch.zeros(4, 2)).sum().backward()

    def private_bytes(self) -> int:
        return int(psutil.Process().memory_full_info().uss)

    def evaluate(self, work: Work) -> tuple[str, tuple[str, int], int, float]:
        """(path of the mapping that holds the pixels, (inode, offset in it), growth in bytes, a
        loss)."""
        import torch

        from foldrace.trainables.training.fold import Fold
        from foldrace.trainables.training.samples import Samples

        shape = work.fields["images"].shape[1:]
        some = Samples.of_images(torch.zeros(BATCH, *shape, dtype=torch.uint8))
        Fold(work.task, work.task.complete({}), some, work.splits[0], work.options).evaluate(
            torch.arange(BATCH)
        )
        before = self.private_bytes()
        samples = work.samples_on()
        images = samples._columns["images"].values
        run = Fold(work.task, work.task.complete({}), samples, work.splits[0], work.options)
        loss = run.evaluate(torch.arange(BATCH))["loss"]
        assert work.fields["images"].max() == 255  # every page is read
        grown = self.private_bytes() - before
        for line in open("/proc/self/maps"):  # noqa: SIM115, PTH123
            span, _, offset, _, inode, *path = line.split(maxsplit=5)
            start, end = (int(bound, 16) for bound in span.split("-"))
            if start <= images.data_ptr() < end:
                place = (inode, images.data_ptr() - start + int(offset, 16))
                return "".join(path).strip(), place, grown, loss
        raise AssertionError("the pixels lie nowhere")


@pytest.fixture
def connected(cluster: Any) -> Iterator[None]:
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()


def test_two_workers_share_one_copy(connected: None) -> None:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, 1, 28, 28), dtype=np.uint8)
    assert images.nbytes > 95 * MEGABYTE
    split = Split(np.arange(BATCH), np.arange(BATCH))
    work = ray.put(
        Work(load_task("autoencoder"), *image_fields(images), (split,), TrainingOptions(1))
    )
    workers = [Worker.remote() for _ in range(2)]  # type: ignore[attr-defined]
    ray.get([worker.private_bytes.remote() for worker in workers])
    (path, place, grown, loss), second = ray.get(
        [worker.evaluate.remote(work) for worker in workers], timeout=100
    )
    assert "plasma" in path or "/dev/shm" in path, path
    assert second[:2] == (path, place)
    assert max(grown, second[2]) < images.nbytes / 3
    assert loss == second[3] > 0
    for worker in workers:
        ray.kill(worker)
