"""The Ray Tune trainable: a thin adapter around `CrossValidation` that decides nothing."""

from __future__ import annotations

import base64
import logging
import os
import time
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from foldrace.errors import StateError
from foldrace.trainables.ray.checkpoint import (
    CHECKPOINT_FILE,
    load_checkpoint_file,
    newest_checkpoints,
    save_checkpoint_file,
)
from foldrace.trainables.ray.gpus import check_assigned_gpus
from foldrace.trainables.ray.limits import (
    Output,
    TrialTimeout,
    enforce_limits,
    is_out_of_memory,
    limit_memory,
    private_memory,
)
from foldrace.trainables.ray.picture import strip_png
from foldrace.trainables.ray.process import prepare_process
from foldrace.trainables.ray.work import Work, shared_tensor
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.reports import EpochReport

__all__ = ["DROPPED", "GPUS", "RAISED", "FoldTrainable"]

log = logging.getLogger(__name__)

RAISED = "raised"
DROPPED = "dropped"
GPUS = "gpus"

_CHECKPOINT_SECONDS = 15.0
_TRAIN_ON_CPU = "FOLDRACE_TRAIN_ON_CPU"
"""If this environment variable is set on a worker, trials train on its CPU even if Ray assigns
them GPUs: to try out a cluster, or where Ray has been given GPUs that do not exist."""


class FoldTrainable(tune.Trainable):  # type: ignore[misc]
    """One Tune trial: the cross-validation of one configuration.

    Its config holds the number of the ``trial`` and its ``params``. It may hold ``repeat``, the
    number of a repeat, and ``checkpoint``, a folder from which training continues.

    A step trains to the next rung, or to the first aligned point after ``report_seconds``, since
    shorter epochs are not worth a message to the driver each. Its result holds:

    - ``val_loss``: the mean over folds. It is missing if the trial diverged, so that nothing can
      compare it.
    - ``epoch``, ``fold_epochs``, ``seconds``, ``finished``: see `EpochReport`, the last of which
      is ``report``.
    - ``earlier``: the earlier reports of this step, each with its time; ``reported_ms``: the time
      of the last one; both in milliseconds since 1970.
    - ``parameters``: number of trainable weights.
    - ``picture``: reconstructions as a PNG in base64, after some epochs.
    - ``raised``: what the task has raised, or the limit of time or memory that the trial has
      exceeded: one line, and the traceback. The trial ends with this result, which also holds the
      last report before it.
    - ``dropped``: characters printed beyond the limit.
    - ``gpus``: the GPUs that Ray has assigned.
    """

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        """Prepares the worker's process; Tune calls this once per process."""
        assert work is not None
        self._work = work
        on_gpu = work.gpu and _TRAIN_ON_CPU not in os.environ
        prepare_process(work.threads, on_gpu)
        assigned = ray.get_gpu_ids() if work.gpu else []
        self._gpus = ",".join(map(str, assigned))
        if on_gpu:
            check_assigned_gpus(assigned)
        self._images = shared_tensor(work.images).to("cuda" if on_gpu else "cpu")
        self._held = 0 if work.limits.memory is None else limit_memory(work.limits.memory)
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial_config = config
        self._cv = self._new_cross_validation()
        self._reached: EpochReport | None = None
        self._output = Output(self._work.limits.output)
        if "checkpoint" in config:  # a trial of an earlier sweep, which is trained further
            self.load_checkpoint(config["checkpoint"])
        self._saved_at = time.monotonic()

    def _new_cross_validation(self) -> CrossValidation:
        config = self._trial_config
        return self._work.cross_validation(config["params"], self._images, config.get("repeat", 0))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Starts another trial in this process."""
        memory = self._work.limits.memory
        if memory is not None and self._held and private_memory() - self._held > memory / 2:
            # An earlier trial has not released its memory: the next one gets another process.
            os._exit(1)
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Trains to the next report. See the class for the result."""
        self._earlier: list[tuple[EpochReport, int]] = []
        spent = 0.0 if self._reached is None else self._reached.seconds
        try:
            with enforce_limits(self._work.limits, spent, self._output):
                result = self._train()
        except torch.AcceleratorError:  # the process can no longer use its GPU
            raise
        except (Exception, SystemExit, TrialTimeout) as error:
            # The task's own error, which would be raised again in another process.
            result = {RAISED: _summary_and_traceback(error), "finished": False, DONE: True}
            if self._reached is not None:
                result["report"] = self._reached
        result |= {
            "trial": self._trial_config["trial"],
            "reported_ms": _now_ms(),
            "earlier": tuple(self._earlier),
        }
        if self._gpus:
            result[GPUS] = self._gpus
        if self._output.dropped:
            result[DROPPED] = self._output.dropped
        return result

    def _train(self) -> dict[str, Any]:
        started = time.monotonic()
        # A checkpoint may be newer than Tune's own state of the trial. A finished trial then only
        # reports again.
        report = self._reached = self._cv.report() if self._cv.finished else self._cv.advance()
        while not self._returns(report, time.monotonic() - started):
            self._earlier.append((report, _now_ms()))
            report = self._reached = self._cv.advance()
        result: dict[str, Any] = {
            "epoch": report.epoch,
            "fold_epochs": report.fold_epochs,
            "finished": report.finished,
            "parameters": self._cv.parameters,
            "seconds": report.seconds,
            "report": report,
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
        """Whether a step that has taken ``seconds`` ends with this report."""
        return (
            report.finished
            or Rung(len(report.folds), report.epoch) in self._work.ladder
            or report.epoch in self._work.picture_epochs
            or seconds >= self._work.report_seconds
        )

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Writes the trial's state to a folder."""
        for name in ("picture", "earlier"):  # which Tune would keep in its own state
            (getattr(self, "_last_result", None) or {}).pop(name, None)
        config = self._trial_config
        state: dict[str, Any] = {
            name: config[name] for name in ("trial", "params", "repeat") if name in config
        }
        state["cross_validation"] = self._cv.state_dict()
        save_checkpoint_file(Path(checkpoint_dir) / CHECKPOINT_FILE, state)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continues the trial from a checkpoint's folder.

        If that checkpoint is damaged, it continues from the one before, and without any from the
        beginning. Its numbers are the same in each case.
        """
        for folder in newest_checkpoints(Path(checkpoint)):
            path = folder / CHECKPOINT_FILE
            try:
                self._cv.load_state_dict(load_checkpoint_file(path)["cross_validation"])
            except StateError as error:
                log.warning("%s", error)
            except Exception as error:
                log.warning("%s: does not fit this trial: %r", path, error)
                self._cv = self._new_cross_validation()  # it may have been loaded in part
            else:
                self._reached = self._cv.report()
                return

    def _picture(self) -> str | None:
        try:
            pair = self._cv.reconstruct(0, self._work.pictures)
            return None if pair is None else base64.b64encode(strip_png(*pair)).decode()
        except Exception:  # a user's task may raise anything; a picture must not fail the trial
            return None


def _summary_and_traceback(error: BaseException) -> tuple[str, str]:
    """What was raised in one line, and its traceback."""
    lines = traceback.format_exception(error)
    line = lines[-1].strip().splitlines()[0]
    if isinstance(error, TrialTimeout):
        line = str(error)
    elif is_out_of_memory(error):
        line = f"out of memory: {line}"
    return line, "".join(lines)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
