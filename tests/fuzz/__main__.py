"""Gives the product input that nobody means well with, and counts what is not met with one clear
line: ``python -m tests.fuzz --help``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import data, image_folders, items, records, specs, surroundings, tasks

__all__ = ["KINDS", "Found", "run_cases"]

KINDS: Mapping[str, Callable[[int, Path], str]] = {
    "specs": specs.run_case,
    "data": data.run_case,
    "items": items.run_case,
    "folders": image_folders.run_case,
    "records": records.run_case,
    "tasks": tasks.run_case,
    "surroundings": surroundings.run_case,
}
_LIMIT = 60.0
_CHUNK = 50


class _Hang(BaseException):
    pass


@dataclass
class Found:
    """Of some cases: how many were accepted and refused, and what went wrong, with the seed."""

    counts: Counter[str] = field(default_factory=Counter)
    amiss: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, 0)

    def add(self, other: Found) -> None:
        self.counts += other.counts
        self.amiss += other.amiss
        self.slowest = max(self.slowest, other.slowest)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_cases(kind: str, seeds: range) -> Found:
    """Runs the cases of these seeds in this process."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in seeds:
            began = time.monotonic()
            try:
                with _limited(_LIMIT):
                    found.counts[KINDS[kind](seed, Path(folder))] += 1
            except _Hang:
                found.amiss.append(f"{kind} {seed}: hangs for {_LIMIT:.0f} s")
            except Exception:
                found.amiss.append(f"{kind} {seed}: {traceback.format_exc(limit=-3)}")
            found.slowest = max(found.slowest, (time.monotonic() - began, seed))
    return found


def main() -> int:
    """Returns 1 if anything was amiss."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--specs", type=int, default=10_000, help="sweep files (10,000)")
    parser.add_argument("--data", type=int, default=500, help="data sets (500)")
    parser.add_argument("--items", type=int, default=500, help="data sets of torch (500)")
    parser.add_argument("--folders", type=int, default=1000, help="folders of images (1,000)")
    parser.add_argument(
        "--records", type=int, default=500, help="checkpoints and sweeps' folders (500)"
    )
    parser.add_argument("--tasks", type=int, default=500, help="tasks of a user's (500)")
    parser.add_argument(
        "--surroundings", type=int, default=150, help="environments and terminals (150)"
    )
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of the first case; the time by default"
    )
    asked = parser.parse_args()
    logging.getLogger("foldrace").addHandler(logging.NullHandler())  # no warnings between ours
    amiss = 0
    for kind in KINDS:
        count, began = getattr(asked, kind), time.monotonic()
        if not count:
            continue
        found = _side_by_side(kind, range(asked.seed, asked.seed + count))
        for one in found.amiss[:20]:
            print(one, file=sys.stderr, flush=True)
        amiss += len(found.amiss)
        slowest, seed = found.slowest
        print(
            f"{kind}: {count:,} from seed {asked.seed}: {found.counts['accepted']:,} accepted,"
            f" {found.counts['refused']:,} refused with a message, {len(found.amiss)} tracebacks"
            f" or hangs; {time.monotonic() - began:.0f} s, the slowest {slowest:.1f} s (seed"
            f" {seed})",
            flush=True,
        )
    return int(amiss > 0)


def _side_by_side(kind: str, seeds: range) -> Found:
    found = Found()
    parts = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    with ProcessPoolExecutor(2) as pool:
        try:
            for part in pool.map(run_cases, [kind] * len(parts), parts):
                found.add(part)
        except BrokenProcessPool:
            found.amiss.append(
                f"{kind}: a process died, in one of the seeds after {found.counts.total()}"
            )
    return found


if __name__ == "__main__":
    sys.exit(main())
