"""The command line that the benchmarks share; it checks all arguments before the measuring."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from foldrace.errors import InputError
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.data.datasets import load_dataset

__all__ = ["benchmark_parser", "dataset_of", "one_or_more", "parse_out", "refusing", "say_written"]


def benchmark_parser(
    name: str, description: str, *, rounds: int | None = None
) -> argparse.ArgumentParser:
    """A parser with OUT, and with ``--rounds`` if a default is given for it.

    Args:
        name: the module in `tests.benchmarks`.
        description: what is measured, and about how long it takes.
        rounds: the default number of rounds.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.benchmarks.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "out",
        metavar="OUT",
        type=Path,
        help=f"folder for {name}.json, and a picture if there is one",
    )
    if rounds is not None:
        text = "how often every side is measured, in alternating order"
        parser.add_argument("--rounds", type=one_or_more, default=rounds, metavar="N", help=text)
    return parser


def one_or_more(text: str) -> int:
    """A count from the command line. Raises: argparse.ArgumentTypeError."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return int(text)


def parse_out(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """The parsed arguments; makes the folder OUT. Exits with status 2 if they are wrong."""
    asked = parser.parse_args(arguments)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"OUT: {asked.out}: cannot be made: {error.strerror}")
    return asked


@contextmanager
def refusing(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turns an `InputError` of the block into one line and exit status 2."""
    try:
        yield
    except InputError as error:
        parser.error(str(error))


def dataset_of(parser: argparse.ArgumentParser, name: str, data_dir: Path) -> Dataset:
    """Loads a data set of 28×28 grey images, which the notebook can read as well.

    Exits with status 2 for any other.
    """
    with refusing(parser):
        data = load_dataset(name, data_dir=data_dir)
    if data.images.shape[1:] != (1, 28, 28):
        parser.error(f"--dataset: {name}: must have grey images of 28×28 pixels")
    return data


def say_written(*paths: Path) -> None:
    """Prints where the results are."""
    print("written:", ", ".join(map(str, paths)))
