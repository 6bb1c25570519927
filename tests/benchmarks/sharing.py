"""The memory that workers on one node need for the data.

``python -m tests.benchmarks.sharing OUT``: a sweep's `Work` is in Ray's object store, as in
``foldrace sweep``; 1, 2 and 4 workers get it, train an epoch of its folds and read every pixel.
Each worker's memory is read from the kernel twice: after the imports and training on a few images,
and when all workers have the data. The comparison gives each worker a copy of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.work import make_work
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.tune.session import ray_session
from foldrace.trainables.ray.process import prepare_process
from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.splits import FoldPlan
from tests.benchmarks.arguments import (
    benchmark_parser,
    one_or_more,
    parse_out,
    refusing,
    say_written,
)
from tests.benchmarks.spread import write_record

__all__ = ["Growth", "Memory", "main", "measure", "memory_of_this_process"]

SPEC = Path("tests/benchmarks/specs/bench-study.yaml")
_FEW = 6000
_MIB = 2**20


@dataclass(frozen=True)
class Memory:
    """A process's memory in bytes, by ``/proc/PID/smaps_rollup``.

    Attributes:
        resident: pages in memory, those included that others hold as well.
        proportional: the same, a page that n processes hold counted as 1/n.
        private: pages that this process alone holds.
        shared: pages that others hold as well.
    """

    resident: int
    proportional: int
    private: int
    shared: int

    def __sub__(self, other: Memory) -> Memory:
        return Memory(*(getattr(self, name) - getattr(other, name) for name in asdict(self)))


@dataclass(frozen=True)
class Growth:
    """A worker's memory without the data and with it."""

    before: Memory
    after: Memory

    @property
    def by(self) -> Memory:
        return self.after - self.before


def memory_of_this_process() -> Memory:
    """Reads the kernel's counts; on Linux only."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        name: 1024 * int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in lines)
    }
    return Memory(
        resident=sizes["Rss"],
        proportional=sizes["Pss"],
        private=sizes["Private_Clean"] + sizes["Private_Dirty"],
        shared=sizes["Shared_Clean"] + sizes["Shared_Dirty"],
    )


def images_of(work: Work) -> NDArray[np.uint8]:
    """The images of a data set of images."""
    images = work.fields["images"]
    assert isinstance(images, np.ndarray)
    return images


def with_images(work: Work, images: NDArray[np.uint8]) -> Work:
    """The same work on other images."""
    return replace(work, fields={**work.fields, "images": images})


class _Worker:
    """A Ray actor that keeps a `Work` and trains on it."""

    def __init__(self, copy: bool) -> None:
        self._copy = copy

    def train(self, work: Work) -> int:
        """Keeps the data, trains on a part of it, reads all of it, and returns its sum."""
        prepare_process(work.threads)
        self._held = with_images(work, images_of(work).copy()) if self._copy else work
        params: dict[str, Value] = {
            "optimizer": "adam",
            "lr": 1e-3,
            "batch_size": 256,
            "latent_dim": 16,
        }
        self._trained = self._held.cross_validation(params, self._held.samples_on())
        self._trained.advance()
        return int(images_of(self._held).sum(dtype=np.int64))

    def memory(self) -> Memory:
        return memory_of_this_process()


def measure(work: Work, count: int, *, copy: bool) -> list[Growth]:
    """The memory of each of ``count`` workers before and after it gets the data, in a running Ray.

    Both readings are taken when all workers are at the same point: whether a page counts as shared
    depends on which workers hold it then.
    """
    import ray

    work = _quick(work)
    few = replace(with_images(work, images_of(work)[:_FEW]), positions=None)
    actor = ray.remote(num_cpus=0)(_Worker)
    shared = ray.put(work)
    workers = [actor.remote(copy) for _ in range(count)]

    def each(method: str, *arguments: Any) -> list[Any]:
        found: list[Any] = ray.get(
            [getattr(worker, method).remote(*arguments) for worker in workers]
        )
        return found

    for _ in range(2):  # the allocator has grown to what training needs
        each("train", few)
    before = each("memory")
    assert set(each("train", shared)) == {int(images_of(work).sum(dtype=np.int64))}
    after = each("memory")
    for worker in workers:
        ray.kill(worker)
    return [Growth(*pair) for pair in zip(before, after, strict=True)]


def _quick(work: Work) -> Work:
    """The same data with small folds of its first images: training time is not measured here."""
    plan = FoldPlan(min(_FEW, len(work)), splits=max(2, len(work.splits)))
    return replace(work, splits=tuple(plan.split()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; writes sharing.json into OUT and prints a line per number of workers."""
    parser = benchmark_parser(
        "sharing", "The memory that workers need for the images: a few minutes."
    )
    parser.add_argument(
        "--workers", type=one_or_more, nargs="+", default=[1, 2, 4], metavar="N", help="that train"
    )
    parser.add_argument(
        "--times",
        type=one_or_more,
        default=8,
        help="how often the images are repeated: allocators weigh less then",
    )
    parser.add_argument("--set", action="append", default=[], help="an override of the sweep file")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where data sets are kept"
    )
    asked = parse_out(parser, arguments)
    with refusing(parser):
        work = make_work(prepare(load_spec(SPEC, asked.set), asked.data_dir))
    work = with_images(work, np.tile(images_of(work), (asked.times, 1, 1, 1)))
    rows = []
    for count in asked.workers:
        for copy in (False, True):
            with ray_session(None):  # a new one: no worker of before has a share in anything
                grown = measure(work, count, copy=copy)
            rows.append({"workers": count, "copy": copy, "memory": grown})
            private, shared, whole = (
                [getattr(growth.by, name) / _MIB for growth in grown]
                for name in ("private", "shared", "proportional")
            )
            print(
                f"{count} workers, {'a copy each' if copy else 'one copy'}: more private memory,"
                f" each {min(private):.1f} to {max(private):.1f} MiB; shared {min(shared):.1f} to"
                f" {max(shared):.1f} MiB; together {sum(whole):.1f} MiB",
                flush=True,
            )
    print(f"the images: {images_of(work).nbytes / _MIB:.1f} MiB")
    values = {"images": len(work), "image_bytes": images_of(work).nbytes, "rows": rows}
    write_record(asked.out / "sharing.json", "sharing", values)
    say_written(asked.out / "sharing.json")


if __name__ == "__main__":
    main()
