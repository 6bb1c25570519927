"""What the driver trains or evaluates itself, it computes as a trial's worker does: a sum depends
on how many threads share it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldrace.search.recording.folder import SweepFolder
from foldrace.search.recording.schema import COMPARISON_FILE
from foldrace.search.sampling.comparison_plan import Phase, TrialRole
from foldrace.search.sweeps.comparison_result import log_reconstructions
from foldrace.search.sweeps.models import log_fold_models
from foldrace.search.tune.state import TrialRecord, TrialStatus
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, save_checkpoint_file
from foldrace.trainables.ray.process import prepared_process
from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.splits import FoldPlan
from tests.helpers.images import image_fields

ROOT = Path(__file__).parents[3]
THREADS = 2


class CountsThreads:
    """Records the number of threads, and reconstructs nothing but that number."""

    def build(self, params: Mapping[str, Any], sample_shape: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(sample_shape), 1))

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        threads = torch.full((len(images),), float(torch.get_num_threads()))
        return {"loss": model(images).square().squeeze(1), "threads": threads}

    def reconstruct(self, model: nn.Module, images: Tensor, params: Any) -> Tensor:
        return torch.full_like(images, torch.get_num_threads() / 255)


@pytest.fixture
def work(digits: Tensor) -> Iterator[Work]:
    """Of two threads, in a process of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    task = LoadedTask("counts", CountsThreads(), {}, None)
    splits = tuple(FoldPlan(30, splits=3).split())
    yield Work(
        task,
        *image_fields(digits[:30].numpy().copy()),
        splits,
        TrainingOptions(2),
        threads=THREADS,
    )
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def checkpoint(work: Work, folder: Path) -> Path:
    """A trial's, after the first of two epochs."""
    cv = work.cross_validation({}, work.samples_on())
    cv.advance()
    folder.mkdir()
    save_checkpoint_file(folder / CHECKPOINT_FILE, {"cross_validation": cv.state_dict()})
    return folder


def test_what_a_kill_has_lost_is_trained_again_on_as_many_threads(
    work: Work, tmp_path: Path
) -> None:
    saved = checkpoint(work, tmp_path / "checkpoint")
    report: Any = SimpleNamespace(fold_epochs=6)
    sink: Any = SimpleNamespace(files=lambda *_: None)
    folder = SweepFolder(tmp_path, "sweep")
    log_fold_models(sink, TrialRecord(0, {}, report=report), saved, work, folder)
    for number in range(3):
        about = json.loads((folder.winner / f"fold-{number}" / "fold.json").read_text())
        assert about["epoch"] == 2
        assert about["metrics"]["train_threads"] == about["metrics"]["val_threads"] == THREADS


def test_an_arm_is_shown_as_its_worker_computes_it(work: Work, tmp_path: Path) -> None:
    saved = checkpoint(work, tmp_path / "checkpoint")
    repeated = Work(**{**vars(work), "repeat_splits": (work.splits,)})
    role = TrialRole("arm", Phase.REPEAT, repeat=1)
    records = {0: TrialRecord(0, {}, TrialStatus.COMPLETED, part=role)}
    trials: Any = SimpleNamespace(records=records)
    sink: Any = SimpleNamespace(files=lambda *_: None)
    folder = SweepFolder(tmp_path, "sweep")
    folder.path.mkdir()
    log_reconstructions(sink, trials, {0: saved}, repeated, work.fields["images"][:4], folder)
    with np.load(folder.path / COMPARISON_FILE) as written:
        assert np.unique(written["reconstructions"]).tolist() == [THREADS]


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_kernels_are_as_before_after_the_block(fails: bool) -> None:
    def settings() -> tuple[object, ...]:
        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        return (
            torch.get_num_threads(),
            cudnn.deterministic,
            cudnn.benchmark,
            cudnn.allow_tf32,
            matmul.allow_tf32,
            torch.are_deterministic_algorithms_enabled(),
        )

    before = settings()
    try:
        with prepared_process(before[0] + 1, gpu=True):  # type: ignore[operator]
            assert settings() == (before[0] + 1, True, False, False, False, True)  # type: ignore[operator]
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert settings() == before


def test_whatever_makes_a_fold_outside_the_workers_computes_as_they_do() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "search").rglob("*.py"))
        if ".cross_validation(" in (text := path.read_text()) or " Fold(" in text
        if "work.process(" not in text
    ]
    assert found == []
