"""How much memory W workers on one machine need for the data: ``python -m tests.benchmarks.sharing
OUT``.

A sweep's `Work` lies in Ray's object store, as ``foldrace sweep`` puts it there; 1, 2 and 4
workers take it, train an epoch of its folds and read every pixel. Each worker's memory is read
from the kernel twice: when it has imported everything and trained on a few images, and when all
workers have the data. For comparison the same with a copy of the images for each worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.work import make_work
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.tune.session import ray_session
from foldrace.trainables.ray.process import prepare_process
from foldrace.trainables.ray.work import Work, shared_tensor
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
    """Reads the kernel's figures. Linux alone has them."""
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


class _Worker:
    """An actor that holds a `Work` and trains on it."""

    def __init__(self, copy: bool) -> None:
        self._copy = copy

    def train(self, work: Work) -> int:
        """Takes the data, trains on some of it and looks at all of it; returns its sum."""
        prepare_process(work.threads)
        self._held = replace(work, images=work.images.copy()) if self._copy else work
        params: dict[str, Value] = {
            "optimizer": "adam",
            "lr": 1e-3,
            "batch_size": 256,
            "latent_dim": 16,
        }
        self._trained = self._held.cross_validation(params, shared_tensor(self._held.images))
        self._trained.advance()
        return int(self._held.images.sum(dtype=np.int64))

    def memory(self) -> Memory:
        return memory_of_this_process()


def measure(work: Work, count: int, *, copy: bool) -> list[Growth]:
    """Each of ``count`` workers before and after it has taken the data, within a Ray that runs.

    Both readings are taken when all workers stand equally far: pages count as shared by who has
    them then.
    """
    import ray

    work = _quick(work)
    few = replace(work, images=work.images[:_FEW], positions=None)
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
    assert set(each("train", shared)) == {int(work.images.sum(dtype=np.int64))}
    after = each("memory")
    for worker in workers:
        ray.kill(worker)
    return [Growth(*pair) for pair in zip(before, after, strict=True)]


def _quick(work: Work) -> Work:
    """The same data with small folds of its first images: what is trained on is not what is
    measured."""
    plan = FoldPlan(min(_FEW, len(work.images)), splits=max(2, len(work.splits)))
    return replace(work, splits=tuple(plan.split()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; writes sharing.json into OUT and prints a line a number of workers."""
    parser = benchmark_parser(
        "sharing", "The memory that workers have for the images: a few minutes."
    )
    parser.add_argument(
        "--workers", type=one_or_more, nargs="+", default=[1, 2, 4], metavar="N", help="that train"
    )
    parser.add_argument(
        "--times",
        type=one_or_more,
        default=8,
        help="the images so many times over: allocators weigh less then",
    )
    parser.add_argument("--set", action="append", default=[], help="an override of the sweep file")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where data sets are kept"
    )
    asked = parse_out(parser, arguments)
    with refusing(parser):
        work = make_work(prepare(load_spec(SPEC, asked.set), asked.data_dir))
    work = replace(work, images=np.tile(work.images, (asked.times, 1, 1, 1)))
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
    print(f"the images: {work.images.nbytes / _MIB:.1f} MiB")
    values = {"images": len(work.images), "image_bytes": work.images.nbytes, "rows": rows}
    write_record(asked.out / "sharing.json", "sharing", values)
    say_written(asked.out / "sharing.json")


if __name__ == "__main__":
    main()
