"""A process for each side of the step benchmark, which trains when it is told to.

It loads the data and imports what it needs once; then it waits for orders on a pipe, so that sides
can take turns within seconds of each other, and none has another's memory allocator, thread pool
or settings.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any, NamedTuple

import torch

from foldrace.trainables.ray.process import prepare_process
from foldrace.trainables.training.cross_validation import CrossValidation
from tests.benchmarks.step.sides import (
    FOLDS,
    Setting,
    Side,
    Trainer,
    make_folds,
    make_trainer,
    matrix_flops,
)

__all__ = ["Order", "SideProcess", "What", "opened"]


class What(StrEnum):
    """What a side is told to do."""

    TRAIN = "train"
    VALIDATE = "validate"
    FOLDS = "folds"
    MATRIX = "matrix product"
    KEEP_TRAINING = "keep training"


class Order(NamedTuple):
    """One order, answered by one number.

    ``TRAIN`` and ``VALIDATE``: images a second of one epoch, of one pass. ``FOLDS``: training
    images a second of an epoch of three folds of a trial and its validation, one after the other
    or ``fused`` (this project's side alone has folds). ``MATRIX``: FLOP a second of a float32
    matrix product. ``KEEP_TRAINING``: images a second over the whole epochs of ``seconds``, begun
    by all processes of a barrier together if ``together``.
    """

    what: What
    batch_size: int = 256
    seconds: float = 0.0
    together: bool = False
    fused: bool = False


class _Bench:
    """What a side's process keeps between orders: trainers that have warmed up."""

    def __init__(self, side: Side, setting: Setting, barrier: Barrier) -> None:
        self._side, self._setting, self._barrier = side, setting, barrier
        self._trainers: dict[int, Trainer] = {}
        self._folds: dict[tuple[int, bool], CrossValidation] = {}

    def obey(self, order: Order) -> float:
        images = self._setting.images
        match order.what:
            case What.MATRIX:
                return matrix_flops(torch.device(self._setting.device))
            case What.KEEP_TRAINING:
                trainer = self._trainer(order.batch_size)
                if order.together:
                    self._barrier.wait(timeout=300)
                return _keep_training(trainer, images, order.seconds)
            case What.FOLDS:
                folds = self._cross_validation(order.batch_size, order.fused)
                return FOLDS * images / _seconds(folds.advance)
            case What.TRAIN:
                return images / _seconds(self._trainer(order.batch_size).train)
            case What.VALIDATE:
                return images // 2 / _seconds(self._trainer(order.batch_size).validate)

    def _trainer(self, batch_size: int) -> Trainer:
        if batch_size not in self._trainers:
            made = self._trainers[batch_size] = make_trainer(self._side, self._setting, batch_size)
            made.train()  # the first steps allocate, choose kernels and import
            made.validate()
        return self._trainers[batch_size]

    def _cross_validation(self, batch_size: int, fused: bool) -> CrossValidation:
        which = batch_size, fused
        if which not in self._folds:
            self._folds[which] = make_folds(self._setting, batch_size, fused=fused)
            self._folds[which].advance()
        return self._folds[which]


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _serve(orders: Connection, barrier: Barrier, side: Side, setting: Setting) -> None:
    """The side's process: answers orders until it gets None."""
    if side is Side.OURS:
        prepare_process(setting.threads)  # as a worker's
    else:
        torch.set_num_threads(setting.threads)
    bench = _Bench(side, setting, barrier)
    while (order := orders.recv()) is not None:
        orders.send(bench.obey(order))


def _keep_training(trainer: Trainer, images: int, seconds: float) -> float:
    """Images a second over the epochs that end within ``seconds``: then others that began together
    still train too."""
    started = time.perf_counter()
    epochs, last = 0, 0.0
    while True:
        trainer.train()
        elapsed = time.perf_counter() - started
        if elapsed > seconds and epochs:
            return epochs * images / last
        epochs, last = epochs + 1, elapsed


class SideProcess:
    """A side at the other end of a pipe."""

    def __init__(self, side: Side, setting: Setting, barrier: Barrier) -> None:
        context = multiprocessing.get_context("spawn")  # as Ray's workers: nothing inherited
        self._orders, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, barrier, side, setting), daemon=True
        )
        self._process.start()
        theirs.close()
        self.side = side

    def tell(self, order: Order) -> None:
        self._orders.send(order)

    def answer(self) -> float:
        """Waits for the number. Raises: RuntimeError, if the process has ended."""
        try:
            number: float = self._orders.recv()
        except EOFError:
            raise RuntimeError(
                f"the process of {self.side} has ended; its error is above"
            ) from None
        return number

    def ask(self, order: Order) -> float:
        self.tell(order)
        return self.answer()

    def close(self) -> None:
        """Lets the process end, and waits for it."""
        with suppress(BrokenPipeError):  # it has ended
            self._orders.send(None)
        self._process.join(timeout=30)
        if self._process.is_alive():
            self._process.kill()


@contextmanager
def opened(sides: Sequence[Side], setting: Setting) -> Iterator[list[SideProcess]]:
    """A process for each side, in order, ended at the end. The barrier is for two of them."""
    barrier: Any = multiprocessing.get_context("spawn").Barrier(2)
    processes = [SideProcess(side, setting, barrier) for side in sides]
    try:
        yield processes
    finally:
        for process in processes:
            process.close()
