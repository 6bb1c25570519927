"""The speed of the training step, in images a second.

``python -m tests.benchmarks.step OUT [--rounds N]``: the study's autoencoder with its dropout and
Adam on FashionMNIST, one thread a process: this project's step against a notebook's
(`tests.benchmarks.notebook`), against a plain loop over a tensor in memory, and against what the
machine could do at best: its float32 matrix product's FLOP a second over the network's FLOP an
image. The sides are processes of their own that take turns; a ratio is of two neighbours in time.
Then two of this project's processes side by side against one alone, validation, and three folds of
a trial fused against one after the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tests.benchmarks.arguments import (
    benchmark_parser,
    dataset_of,
    one_or_more,
    parse_out,
    say_written,
)
from tests.benchmarks.notebook import write_raw
from tests.benchmarks.spread import write_record
from tests.benchmarks.step.figure import draw_step
from tests.benchmarks.step.processes import Order, SideProcess, What, opened
from tests.benchmarks.step.sides import Setting, Side, flop_per_image
from tests.benchmarks.step.summary import Measured, Measurement, summary

__all__ = ["main", "measure"]


def measure(
    setting: Setting, *, rounds: int, batch_sizes: Sequence[int], seconds: float
) -> Iterator[Measurement]:
    """Measures round after round, in alternating order.

    Args:
        seconds: that processes train side by side, and alone, each time. Only without a GPU: it
            would be shared.
    """
    ours, *_ = sides = list(Side)
    pair = setting.device == "cpu"
    with opened([*sides, ours] if pair else sides, setting) as processes:
        for turn in range(1, rounds + 1):
            order = processes[: len(sides)] if turn % 2 else processes[: len(sides)][::-1]
            yield Measurement(
                turn, Measured.MATRIX_FLOPS, ours, 0, processes[0].ask(Order(What.MATRIX))
            )
            for batch_size in batch_sizes:
                for what, measured in (
                    (What.TRAIN, Measured.TRAIN),
                    (What.VALIDATE, Measured.VALIDATE),
                ):
                    for process in order:
                        yield Measurement(
                            turn,
                            measured,
                            process.side,
                            batch_size,
                            process.ask(Order(what, batch_size)),
                        )
                if pair:
                    yield from _side_by_side(
                        processes[0], processes[-1], turn, batch_size, seconds
                    )
                yield from _folds(processes[0], turn, batch_size)


def _side_by_side(
    first: SideProcess, second: SideProcess, turn: int, batch_size: int, seconds: float
) -> Iterator[Measurement]:
    """One process alone and both together, alternately; they take turns at being alone."""
    order = Order(What.KEEP_TRAINING, batch_size, seconds)
    for together in (False, True) if turn % 2 else (True, False):
        if together:
            for process in (first, second):
                process.tell(order._replace(together=True))
            value = first.answer() + second.answer()
        else:
            value = (first if turn % 4 in (0, 1) else second).ask(order)
        measured = Measured.SIDE_BY_SIDE if together else Measured.ALONE
        yield Measurement(turn, measured, first.side, batch_size, value)


def _folds(process: SideProcess, turn: int, batch_size: int) -> Iterator[Measurement]:
    for fused in (False, True) if turn % 2 else (True, False):
        value = process.ask(Order(What.FOLDS, batch_size, fused=fused))
        yield Measurement(
            turn,
            Measured.FUSED_FOLDS if fused else Measured.FOLDS,
            process.side,
            batch_size,
            value,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark; writes step.json and step.png into OUT, and prints the ratios."""
    parser = benchmark_parser(
        "step",
        "Images a second in training and validation, against the notebook's way: two minutes a"
        " round.",
        rounds=7,
    )
    parser.add_argument("--images", type=one_or_more, default=12_000, help="an epoch's")
    parser.add_argument(
        "--batch-sizes", type=one_or_more, nargs="+", default=[64, 128, 256], help="of the step"
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="that processes train side by side"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="what trains")
    parser.add_argument("--dataset", default="fashion-mnist", help="of 28×28 grey images")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where data sets are kept"
    )
    asked = parse_out(parser, arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: cuda: torch sees no GPU here")
    data = dataset_of(parser, asked.dataset, asked.data_dir)
    with tempfile.TemporaryDirectory() as raw:
        write_raw(Path(raw), data)
        setting = Setting(
            asked.dataset, asked.data_dir, Path(raw), asked.images, device=asked.device
        )
        measurements = []
        for measurement in measure(
            setting, rounds=asked.rounds, batch_sizes=asked.batch_sizes, seconds=asked.seconds
        ):
            measurements.append(measurement)
            print(measurement, flush=True)
    flop = flop_per_image()
    found = summary(measurements, flop)
    values = {
        "rounds": asked.rounds,
        "images": asked.images,
        "device": asked.device,
        "threads": setting.threads,
        "flop_per_image": flop,
        "summary": found,
        "figures": measurements,
    }
    write_record(asked.out / "step.json", "step", values)
    draw_step(measurements, flop, asked.out / "step.png")
    for batch_size, ratios in found["ratios"].items():
        for name, spread in ratios.items():
            print(f"batch {batch_size}, {name}: {spread.text()}")
    say_written(asked.out / "step.json", asked.out / "step.png")
