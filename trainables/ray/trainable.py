"""The Ray Tune trainable: a thin adapter around `CrossValidation` that decides nothing."""

from __future__ import annotations

import base64
import logging
import os
import socket
import time
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray._private.state import state as cluster
from ray.tune.result import DONE, SHOULD_CHECKPOINT

from foldrace.errors import StateError
from foldrace.trainables.ray.checkpoint import (
    CHECKPOINT_FILE,
    load_checkpoint_file,
    newest_checkpoints,
    save_checkpoint_file,
)
from foldrace.trainables.ray.gpus import (
    check_assigned_gpus,
    device_name,
    release_share,
    take_share,
    training_device,
)
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
from foldrace.trainables.ray.work import Work
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.reports import EpochReport
from foldrace.trainables.training.samples import Samples

__all__ = ["DEVICE", "DROPPED", "GPUS", "NOTICE", "RAISED", "FoldTrainable", "Notice"]

log = logging.getLogger(__name__)

RAISED = "raised"
DROPPED = "dropped"
GPUS = "gpus"
DEVICE = "device"
NOTICE = "notice"

_CHECKPOINT_SECONDS = 15.0
_NOTICE_SECONDS = 2.0


class Notice:
    """A notice that this node will be taken away: a spot machine's, or ``ray drain-node``'s.

    Ray then starts nothing more there, and what runs ends with the machine. It is asked every two
    seconds at most. Without Ray there is none.
    """

    def __init__(self) -> None:
        self._asked, self._given = -_NOTICE_SECONDS, False

    @property
    def given(self) -> bool:
        """Whether there is one."""
        now = time.monotonic()
        if not self._given and now - self._asked >= _NOTICE_SECONDS and ray.is_initialized():
            node = ray.get_runtime_context().get_node_id()
            self._asked, self._given = now, node in cluster.get_draining_nodes()
        return self._given


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
    - ``notice``: the machine will be taken away (`Notice`).
    - ``dropped``: characters printed beyond the limit.
    - ``gpus``: the GPUs that Ray has assigned; ``device``: what it then trains on, ``cpu`` or the
      GPU's model.

    Data, model and checkpoint come to the device in the trial's first step, so that an error
    there, such as missing memory, ends the trial and not the worker.
    """

    def setup(self, config: dict[str, Any], work: Work | None = None) -> None:
        """Prepares the worker's process; Tune calls this once per process.

        Raises:
            StateError: this machine, which may have joined later, does not see `Work.seen`.
        """
        assert work is not None
        if work.seen and not Path(work.seen).is_file():
            raise StateError(
                f"{work.seen} is not seen on {socket.gethostname()}: all machines of a cluster"
                " have to share the folder of sweeps"
            )
        self._work = work
        self._device = training_device(work.gpu)
        on_gpu = self._device.type == "cuda"
        prepare_process(work.threads, on_gpu)
        assigned = ray.get_gpu_ids() if work.gpu else []
        self._gpus = ",".join(map(str, assigned))
        if on_gpu:
            check_assigned_gpus(assigned)
        self._device_name = device_name(self._device)
        self._samples: Samples | None = None
        self._held = 0
        self._notice = Notice()
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial_config = config
        self._cv: CrossValidation | None = None  # the one before is deleted first
        # that of a trial of an earlier sweep, which is trained further
        self._checkpoint: str | None = config.get("checkpoint")
        self._reached: EpochReport | None = None
        self._output = Output(self._work.limits.output)
        self._saved_at = time.monotonic()
        if self._device.type == "cuda":
            release_share(self._work.gpu)

    def _started(self) -> CrossValidation:
        """The trial's cross-validation, made at the first call, from its checkpoint if any."""
        if self._samples is None:
            self._samples = self._data_on_device()
        if self._cv is None:
            checkpoint = self._checkpoint
            self._cv = (
                self._restored_cross_validation(Path(checkpoint))
                if checkpoint
                else self._new_cross_validation()
            )
        return self._cv

    def _data_on_device(self) -> Samples:
        if self._device.type == "cuda":
            take_share(self._work.gpu)
        samples = self._work.samples_on(self._device)
        if self._work.limits.memory is not None:
            self._held = limit_memory(self._work.limits.memory)
        return samples

    def _new_cross_validation(self) -> CrossValidation:
        assert self._samples is not None
        config = self._trial_config
        return self._work.cross_validation(
            config["params"], self._samples, config.get("repeat", 0)
        )

    def _restored_cross_validation(self, checkpoint: Path) -> CrossValidation:
        for folder in newest_checkpoints(checkpoint):
            path, cv = folder / CHECKPOINT_FILE, self._new_cross_validation()
            try:
                cv.load_state_dict(load_checkpoint_file(path)["cross_validation"])
            except StateError as error:
                log.warning("%s", error)
            except Exception as error:
                if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
                    raise
                log.warning("%s: does not fit this trial: %r", path, error)
            else:
                self._reached = cv.report()
                return cv
        return self._new_cross_validation()

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
        try:
            cv = self._started()
            spent = 0.0 if self._reached is None else self._reached.seconds
            with enforce_limits(self._work.limits, spent, self._output):
                result = self._train(cv)
        except (Exception, SystemExit, TrialTimeout) as error:
            if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
                raise  # the process can no longer use its GPU
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
            result |= {GPUS: self._gpus, DEVICE: self._device_name}
        if self._output.dropped:
            result[DROPPED] = self._output.dropped
        return result

    def _train(self, cv: CrossValidation) -> dict[str, Any]:
        started = time.monotonic()
        # A checkpoint may be newer than Tune's own state of the trial. A finished trial then only
        # reports again.
        report = self._reached = cv.report() if cv.finished else cv.advance()
        while not self._returns(report, time.monotonic() - started):
            self._earlier.append((report, _now_ms()))
            report = self._reached = cv.advance()
        result: dict[str, Any] = {
            "epoch": report.epoch,
            "fold_epochs": report.fold_epochs,
            "finished": report.finished,
            "parameters": cv.parameters,
            "seconds": report.seconds,
            "report": report,
            DONE: report.finished,
        }
        if report.diverged is None:
            result["val_loss"] = report.metrics["val_loss"]
            if report.finished or report.epoch in self._work.picture_epochs:
                result["picture"] = self._picture(cv)
        unsaved = time.monotonic() - self._saved_at
        if report.finished or unsaved > _CHECKPOINT_SECONDS or self._notice.given:
            result[SHOULD_CHECKPOINT] = True
        if self._notice.given:
            result[NOTICE] = True
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
        state["cross_validation"] = self._started().state_dict()
        save_checkpoint_file(Path(checkpoint_dir) / CHECKPOINT_FILE, state)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Continues the trial from a checkpoint's folder.

        If that checkpoint is damaged, it continues from the one before, and without any from the
        beginning. Its numbers are the same in each case. It is read in the next step.
        """
        self._cv, self._checkpoint = None, checkpoint

    def _picture(self, cv: CrossValidation) -> str | None:
        try:
            pair = cv.reconstruct(0, self._work.pictures)
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
