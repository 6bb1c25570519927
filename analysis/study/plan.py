"""What the study consists of, and how far it has come: part by part, stage by stage, in a file of
its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from pathlib import Path

from foldrace.errors import StateError
from foldrace.search.spec.sweep_spec import SweepSpec, load_spec

__all__ = ["PARTS", "QUICK", "REPORTS", "Journal", "Part", "Stage"]

JOURNAL = "study.json"
REPORTS = "report"
"""The folder of reports in a sweep's, where `foldrace report` puts them too."""


class Stage(StrEnum):
    """What is done for a part, in this order."""

    SWEEP = "sweep"
    REFIT = "refit"
    REPORTS = "reports"


@dataclass(frozen=True)
class Part:
    """One sweep of the study, with what is made of it.

    Attributes:
        key: unique; `name` is the sweep's.
        title, short: for people.
        file: in ``search/specs/study``, changed by ``overrides``.
        stages: those that this part has.
    """

    key: str
    title: str
    short: str
    file: str
    overrides: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = tuple(Stage)

    @property
    def name(self) -> str:
        """The sweep's, and its folder's."""
        return f"study-{self.key}"

    def spec(self, overrides: Sequence[str]) -> SweepSpec:
        """The part's sweep file with the study's overrides in it; those of the form
        ``PART:KEY=VALUE`` are for the part of that key alone. Raises: InputError."""
        own = [f"name={self.name}", *self.overrides, *_for_part(overrides, self.key)]
        return load_spec(Path(str(files("foldrace.search") / "specs" / "study" / self.file)), own)


def _for_part(overrides: Sequence[str], key: str) -> list[str]:
    keys = {part.key for part in PARTS}
    split = [(override, *override.partition(":")[::2]) for override in overrides]
    return [
        rest if target == key else whole
        for whole, target, rest in split
        if target == key or target not in keys
    ]


PARTS = (
    Part("ae", "The autoencoder, a code of 16 numbers", "code of 16", "ae.yaml"),
    Part(
        "ae4",
        "The autoencoder, a code of 4 numbers",
        "code of 4",
        "ae.yaml",
        ("space.latent_dim=4",),
    ),
    Part(
        "optimizers",
        "Adam against SGD",
        "optimizers",
        "optimizers.yaml",
        stages=(Stage.SWEEP, Stage.REPORTS),
    ),
    Part("vae", "The variational autoencoder", "VAE", "vae.yaml"),
)

QUICK = (
    "dataset.limit=3000",
    "epochs=2",
    "search.trials=4",
    "optimizers:search.trials=2",
    "optimizers:comparison.repeats=2",
)
"""The same study on a twentieth of the images, in minutes: its figures show that all of it works,
and no more."""


@dataclass
class Journal:
    """How far a study has come; written to its folder after every stage.

    Attributes:
        overrides: put into every part's sweep file.
        seconds: spent on each stage of each part, all sessions together.
        done: the stages of each part that have ended.
    """

    path: Path
    overrides: tuple[str, ...] = ()
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    done: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, overrides: Sequence[str]) -> Journal:
        """The journal of the study in a folder, or a new one. Without overrides a study goes on
        with its own.

        Raises:
            StateError: it cannot be read, or the study there has other overrides.
        """
        path = root / JOURNAL
        if not path.is_file():
            return cls(path, tuple(overrides))
        try:
            known = json.loads(path.read_text())
            journal = cls(path, tuple(known["overrides"]), known["seconds"], known["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{path}: cannot be read, so this study cannot go on: {error}"
            ) from error
        if overrides and tuple(overrides) != journal.overrides:
            raise StateError(
                f"{root}: the study here has other options"
                f" ({', '.join(journal.overrides) or 'none'}); leave yours out to go on with it,"
                " or choose another folder with --dir"
            )
        return journal

    def has(self, part: Part, stage: Stage) -> bool:
        """Whether a stage has ended."""
        return stage.value in self.done.get(part.key, [])

    def spent(self, part: Part) -> float:
        """Seconds on all stages of a part."""
        return sum(self.seconds.get(part.key, {}).values())

    @property
    def total(self) -> float:
        """Seconds on everything."""
        return sum(sum(stages.values()) for stages in self.seconds.values())

    @contextmanager
    def stage(
        self, part: Part, stage: Stage, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[None]:
        """Times the block, also one that is broken off, and notes that the stage has ended if it
        is not."""
        started = clock()
        try:
            yield
            self.done.setdefault(part.key, []).append(stage.value)
        finally:
            own = self.seconds.setdefault(part.key, {})
            own[stage.value] = own.get(stage.value, 0.0) + clock() - started
            self.save()

    def save(self) -> None:
        """Replaces the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"overrides": list(self.overrides), "seconds": self.seconds, "done": self.done}
        staged = self.path.with_suffix(".part")
        staged.write_text(json.dumps(content, indent=2))
        staged.replace(self.path)
