"""The thin Ray Tune adapter around `CrossValidation`: nothing is decided here."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from foldrace.errors import StateError, first_line
from foldrace.trainables.ray.limits import (
    Limits,
    Printed,
    TrialTimeout,
    guarded,
    is_out_of_memory,
    limit_memory,
    private_memory,
)
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.cross_validation import CrossValidation, EpochReport, Fused
from foldrace.trainables.training.fold import EarlyStopping
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.process import Precision, prepare_process
from foldrace.trainables.training.seeds import derive_seed
from foldrace.trainables.training.splits import Split

__all__ = [
    "CHECKPOINT_FILE",
    "DROPPED",
    "GPUS",
    "RAISED",
    "FoldTrainable",
    "Work",
    "load_checkpoint_file",
]

RAISED = "raised"
DROPPED = "dropped"
GPUS = "gpus"

CHECKPOINT_FILE = "trial.pt"
_CHECKPOINT_SECONDS = 15.0
_ON_CPU = "FOLDRACE_TRAIN_ON_CPU"
"""Set on a worker, trials train on its CPU whatever GPUs they are given: to try a cluster out, or
where Ray is told of GPUs that are not there."""


@dataclass(frozen=True)
class Work:
    """What all trials of a sweep share. Put once into the object store; its arrays are then shared
    by every worker.

    Attributes:
        images: (N, C, H, W) uint8.
        threads: CPU threads a trial.
        gpu: train on the GPU that Ray assigned.
        positions: (N,), where each image stands in the data set's source; None: at its own place.
        picture_epochs: epochs after which fold 0's reconstructions are reported.
        pictures: how many images a strip shows.
        repeat_splits: for each repeat, from 1, its own splits.
        ladder: the rungs that a trial climbs; all folds side by side if there are none.
        fused: whether folds at the same epoch are trained as one batched program, see
            `CrossValidation`.
        limits: what a trial may use.
        report_seconds: a trial reports at every rung, and between two of them at the first aligned
            epoch after so long.
    """

    task: LoadedTask
    images: NDArray[np.uint8]
    splits: tuple[Split, ...]
    epochs: int
    seed: int = 0
    objective: str | None = None
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    threads: int = 1
    gpu: bool = False
    positions: NDArray[np.int64] | None = None
    picture_epochs: frozenset[int] = field(default_factory=frozenset)
    pictures: int = 16
    repeat_splits: tuple[tuple[Split, ...], ...] = ()
    ladder: tuple[Rung, ...] = ()
    fused: Fused = "auto"
    precision: Precision = Precision.FLOAT32
    limits: Limits = field(default_factory=Limits)
    report_seconds: float = 1.0

    def cross_validation(
        self, params: Mapping[str, Value], images: torch.Tensor, repeat: int = 0
    ) -> CrossValidation:
        """A trial's training, from its beginning.

        Args:
            repeat: 0, or the repeat whose folds and seed are taken; they are the same for all
                trials, so that the losses of two of them are paired.
        """
        return CrossValidation(
            self.task,
            self.task.complete(params),
            images,
            self.repeat_splits[repeat - 1] if repeat else self.splits,
            epochs=self.epochs,
            seed=derive_seed(self.seed, "repeat", repeat) if repeat else self.seed,
            objective=self.objective,
            early_stopping=self.early_stopping,
            ladder=self.ladder,
            fused=self.fused,
            precision=self.precision,
        )


def shared_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """A tensor on the array's own memory, which may be read-only (Ray's object store)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


class FoldTrainable(tune.Trainable):  # type: ignore[misc]
    """One Tune trial: the cross-validation of ``config["params"]``; on the folds of
    ``config["repeat"]``, if there is one.

    A step goes to the next rung, or to the first aligned epoch after ``report_seconds``: an epoch
    that is shorter is not worth the way to the driver and back. Its result holds ``val_loss``
    (mean over folds; left out if the trial diverged, so that nothing compares it), ``epoch``,
    ``fold_epochs``, ``finished``, ``parameters`` (trainable weights), ``seconds`` (of training),
    the last `EpochReport` under ``report``, and under ``earlier`` those before it in this step,
    each with the time at which it was made. If the task raises something, the trial ends with a
    result that holds under ``raised`` what it was, in a line, and where, beside the last report
    before. So does one whose time or memory is over. ``dropped`` counts the characters that it has
    printed beyond its limit, ``gpus`` names those that Ray has given it.
    """

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        assert work is not None
        self._work = work
        prepare_process(work.threads, work.precision)
        self._gpus = ",".join(map(str, ray.get_gpu_ids())) if work.gpu else ""
        device = torch.device("cuda" if work.gpu and _ON_CPU not in os.environ else "cpu")
        self._images = shared_tensor(work.images).to(device)
        self._held = 0 if work.limits.memory is None else limit_memory(work.limits.memory)
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial_config = config
        self._cv = self._new_cross_validation()
        self._reached: EpochReport | None = None
        self._printed = Printed(self._work.limits.printed)
        if "checkpoint" in config:  # a trial of a sweep that has ended, which is trained on
            self.load_checkpoint(config["checkpoint"])
        self._saved_at = time.monotonic()

    def _new_cross_validation(self) -> CrossValidation:
        config = self._trial_config
        return self._work.cross_validation(config["params"], self._images, config.get("repeat", 0))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        memory = self._work.limits.memory
        if memory is not None and self._held and private_memory() - self._held > memory / 2:
            # an earlier trial has not given its memory back, so the next one gets another process
            os._exit(1)
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self._earlier: list[tuple[EpochReport, int]] = []
        spent = 0.0 if self._reached is None else self._reached.seconds
        try:
            with guarded(self._work.limits, spent, self._printed):
                result = self._train()
        except torch.AcceleratorError:  # after which this process can do nothing more on its GPU
            raise
        except (
            Exception,
            SystemExit,
            TrialTimeout,
        ) as error:  # the task's own, as it would be again
            known = {} if self._reached is None else {"report": self._reached}
            told = {
                "trial": self._trial_config["trial"],
                "reported_ms": _now_ms(),
                "earlier": tuple(self._earlier),
            }
            result = {**told, **known, RAISED: _told(error), "finished": False, DONE: True}
        if self._gpus:
            result[GPUS] = self._gpus
        if self._printed.dropped:
            result[DROPPED] = self._printed.dropped
        return result

    def _train(self) -> dict[str, Any]:
        started, earlier = time.monotonic(), self._earlier
        # a checkpoint may be newer than what Tune remembers of the trial: then it is finished, and
        # only reports again
        report = self._reached = self._cv.report() if self._cv.finished else self._cv.advance()
        while not self._returns(report, time.monotonic() - started):
            earlier.append((report, _now_ms()))
            report = self._reached = self._cv.advance()
        result: dict[str, Any] = {
            "trial": self._trial_config["trial"],
            "epoch": report.epoch,
            "fold_epochs": report.fold_epochs,
            "finished": report.finished,
            "parameters": self._cv.parameters,
            "seconds": report.seconds,
            "report": report,
            "reported_ms": _now_ms(),
            "earlier": tuple(earlier),
            DONE: report.finished,
        }
        if report.diverged is None:
            result["val_loss"] = report.metrics["val_loss"]
            if report.finished or report.epoch in self._work.picture_epochs:
                result["picture"] = self._picture()
        if report.finished or time.monotonic() - self._saved_at > _CHECKPOINT_SECONDS:
            result[SHOULD_CHECKPOINT] = True
            self._saved_at = time.monotonic()
        return result

    def _returns(self, report: EpochReport, seconds: float) -> bool:
        """Whether a step that has taken so long ends with this report."""
        here = Rung(len(report.folds), report.epoch)
        pictured = report.epoch in self._work.picture_epochs
        return (
            report.finished
            or here in self._work.ladder
            or pictured
            or seconds >= self._work.report_seconds
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        for name in ("picture", "earlier"):  # else Tune keeps them in its own state
            (getattr(self, "_last_result", None) or {}).pop(name, None)
        known = self._trial_config
        state: dict[str, Any] = {
            name: known[name] for name in ("trial", "params", "repeat") if name in known
        }
        state["cross_validation"] = self._cv.state_dict()
        path = Path(checkpoint_dir) / CHECKPOINT_FILE
        torch.save(state, path)
        _digest_of(path).write_text(_sha256(path))  # last, so that half a checkpoint is known

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Takes up the trial there, or at the one before if that is damaged; without one it begins
        anew. Its numbers are the same, wherever it takes up."""
        given = Path(checkpoint)
        before = (path for path in given.parent.glob("checkpoint_*") if path.name < given.name)
        for folder in [given, *sorted(before, reverse=True)]:
            try:
                state = load_checkpoint_file(folder / CHECKPOINT_FILE)
                self._cv.load_state_dict(state["cross_validation"])
            except StateError as error:
                print(error, file=sys.stderr)
            except (
                Exception
            ) as error:  # whole, but no state of this trial: it may have been taken up in part
                print(
                    f"{folder / CHECKPOINT_FILE}: does not fit this trial: {error!r}",
                    file=sys.stderr,
                )
                self._cv = self._new_cross_validation()
            else:
                self._reached = self._cv.report()
                return

    def _picture(self) -> str | None:
        try:
            pair = self._cv.reconstruct(0, self._work.pictures)
            return None if pair is None else base64.b64encode(strip_png(*pair)).decode()
        except (
            Exception
        ):  # a task of the user's may do anything; a trial does not fail over a picture
            return None


def _told(error: BaseException) -> tuple[str, str]:
    """What was raised, in a line, and where."""
    lines = traceback.format_exception(error)
    line = lines[-1].strip().splitlines()[0]
    if isinstance(error, TrialTimeout):
        line = str(error)
    elif is_out_of_memory(error):
        line = f"out of memory: {line}"
    return line, "".join(lines)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _digest_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """A trial's checkpoint, on the CPU. Tensors and plain containers only: a pickle of anything
    else is refused.

    Raises:
        StateError: it is damaged, or not there.
    """
    try:
        if _digest_of(path).read_text() != _sha256(path):
            raise ValueError("its digest differs")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(state, dict):
            raise ValueError("it holds no trial")
    except (
        Exception
    ) as error:  # torch, zipfile and pickle raise a dozen kinds of errors over a damaged file
        raise StateError(
            f"{path}: this checkpoint is damaged and cannot be used: {first_line(error)}"
        ) from error
    return state


def strip_png(
    originals: torch.Tensor, reconstructions: torch.Tensor, *, scale: int = 2, gap: int = 2
) -> bytes:
    """Originals above their reconstructions, both (B, C, H, W) uint8 with 1 or 3 channels, as a
    PNG."""
    from PIL import Image

    batch, channels, height, width = originals.shape
    canvas = torch.full((3, 2 * height + gap, batch * (width + gap) - gap), 255, dtype=torch.uint8)
    for row, images in enumerate((originals, reconstructions)):
        top = row * (height + gap)
        for column, image in enumerate(images[:, :3] if channels >= 3 else images[:, :1]):
            left = column * (width + gap)
            canvas[:, top : top + height, left : left + width] = image
    picture = Image.fromarray(canvas.permute(1, 2, 0).numpy())
    picture = picture.resize(
        (picture.width * scale, picture.height * scale), Image.Resampling.NEAREST
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
