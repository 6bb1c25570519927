"""The parts of the reference study, and the file that records which stages have ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from pathlib import Path

from foldrace.errors import StateError, first_line
from foldrace.files import write_text_atomically
from foldrace.search.spec.sweep_spec import SweepSpec, load_spec

__all__ = ["PARTS", "QUICK", "REPORTS", "Stage", "StudyPart", "StudyProgress"]

_FILE = "study.json"
REPORTS = "report"
"""The folder of reports within a sweep's folder, as for `foldrace report`."""


class Stage(StrEnum):
    """The stages of a part, in their order."""

    SWEEP = "sweep"
    REFIT = "refit"
    REPORTS = "reports"


@dataclass(frozen=True)
class StudyPart:
    """One sweep of the study, with its refit and reports.

    Attributes:
        key: unique among the parts; the sweep's `name` is made of it.
        title, short: names for people.
        file: the sweep file in ``search/specs/study``.
        overrides: of values in this file.
        stages: the stages of this part.
    """

    key: str
    title: str
    short: str
    file: str
    overrides: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = tuple(Stage)

    @property
    def name(self) -> str:
        """The name of the sweep and its folder."""
        return f"study-{self.key}"

    def spec(self, overrides: Sequence[str]) -> SweepSpec:
        """The part's sweep, with the study's overrides.

        Args:
            overrides: ``KEY=VALUE`` for every part, ``PART:KEY=VALUE`` for the part of that key.

        Raises:
            InputError: an override is wrong.
        """
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
    StudyPart("ae", "The autoencoder, a code of 16 numbers", "code of 16", "ae.yaml"),
    StudyPart(
        "ae4",
        "The autoencoder, a code of 4 numbers",
        "code of 4",
        "ae.yaml",
        ("space.latent_dim=4",),
    ),
    StudyPart(
        "optimizers",
        "Adam against SGD",
        "optimizers",
        "optimizers.yaml",
        stages=(Stage.SWEEP, Stage.REPORTS),
    ),
    StudyPart("vae", "The variational autoencoder", "VAE", "vae.yaml"),
)

QUICK = (
    "dataset.limit=3000",
    "epochs=2",
    "search.trials=4",
    "optimizers:search.trials=2",
    "optimizers:comparison.repeats=2",
)
"""Overrides for a study of a few minutes, on a twentieth of the images.

It shows that everything works; its numbers mean nothing.
"""


@dataclass
class StudyProgress:
    """How far a study has come; saved in its folder after every stage.

    Attributes:
        overrides: of the study's sweep files, see `StudyPart.spec`.
        seconds: by part and stage: the time spent, interrupted attempts included.
        done: by part: the stages that have ended.
    """

    path: Path
    overrides: tuple[str, ...] = ()
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    done: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def open(cls, root: Path, overrides: Sequence[str]) -> StudyProgress:
        """Reads the progress of the study in a folder, or begins a new study.

        Args:
            overrides: none continues a study with the overrides that it was begun with.

        Raises:
            StateError: the file cannot be read, or the study has other overrides.
        """
        path = root / _FILE
        if not path.is_file():
            return cls(path, tuple(overrides))
        try:
            known = json.loads(path.read_text())
            progress = cls(path, tuple(known["overrides"]), known["seconds"], known["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{path}: cannot be read, so the study cannot continue: {first_line(error)}"
            ) from error
        if overrides and tuple(overrides) != progress.overrides:
            raise StateError(
                f"{root}: the study here was begun with other options"
                f" ({', '.join(progress.overrides) or 'none'}); leave yours out to continue it, or"
                " choose another folder with --dir"
            )
        return progress

    def has(self, part: StudyPart, stage: Stage) -> bool:
        """Whether a stage has ended."""
        return stage.value in self.done.get(part.key, [])

    def spent(self, part: StudyPart) -> float:
        """Seconds spent on all stages of a part."""
        return sum(self.seconds.get(part.key, {}).values())

    @property
    def total(self) -> float:
        """Seconds spent on the whole study."""
        return sum(sum(stages.values()) for stages in self.seconds.values())

    @contextmanager
    def stage(
        self, part: StudyPart, stage: Stage, clock: Callable[[], float] = time.monotonic
    ) -> Iterator[None]:
        """Times the block, and records that the stage has ended unless the block raises."""
        started = clock()
        try:
            yield
            self.done.setdefault(part.key, []).append(stage.value)
        finally:
            own = self.seconds.setdefault(part.key, {})
            own[stage.value] = own.get(stage.value, 0.0) + clock() - started
            self.save()

    def save(self) -> None:
        """Replaces the file atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"overrides": list(self.overrides), "seconds": self.seconds, "done": self.done}
        write_text_atomically(self.path, json.dumps(content, indent=2))
