"""Tasks that hang, leak, print without end, give up or give back nonsense: each is named, and the
sweep goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.sweeps import Swept, run_here

pytestmark = pytest.mark.slow

TASK = """
import time
import torch
from torch import nn

kept = []


class Misbehaving:
    parameters = {"trap": "none"}

    def build(self, params, sample_shape):
        n = sample_shape[0] * sample_shape[1] * sample_shape[2]
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(n, 4), nn.Linear(4, n), nn.Unflatten(1, sample_shape)
        )
        model.batches = 0
        return model

    def losses(self, model, images, params):
        model.batches += 1
        error = (model(images) - images).square().flatten(1).mean(1)
        if model.batches > 3:
            error = getattr(self, params["trap"])(error)
        return {"loss": error, "mse": error.detach()}

    def none(self, error):
        return error

    def hang(self, error):
        while True:
            try:
                time.sleep(1)
            except Exception:
                pass

    def leak(self, error):
        kept.append(torch.zeros(10_000_000))
        return error

    def talk(self, error):
        print("blah " * 100_000)
        return error

    def leave(self, error):
        raise SystemExit("enough")

    def nonsense(self, error):
        return error[:1]

    def nothing(self, error):
        return error * float("nan")
"""
TRAPS = ("hang", "leak", "talk", "leave", "nonsense", "nothing", "none")
SPEC = f"""
name: misbehaving
task: ./misbehaving.py:Misbehaving
dataset: {{name: digits, limit: 240, seed: 0, size: [12, 12]}}
epochs: 3
space:
  lr: 0.003
  batch_size: 32
  trap: {{choice: [{", ".join(TRAPS)}]}}
search:
  sampler: random
  trials: {len(TRAPS)}
  start_with: [{", ".join(f"{{trap: {trap}}}" for trap in TRAPS)}]
scheduler: {{kind: fifo}}
limits: {{trial_timeout: 8s, memory: 400MB}}
"""


def written(folder: Path) -> Path:
    (folder / "misbehaving.py").write_text(TASK)
    (folder / "sweep.yaml").write_text(SPEC)
    return folder / "sweep.yaml"


@pytest.fixture(scope="module")
def misbehaving(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    folder = tmp_path_factory.mktemp("misbehaving")
    # the check before the start looks at a first step alone, which they all pass
    return run_here(written(folder), folder, [], cluster.address)


@pytest.mark.parametrize(
    ("trap", "reason"),
    [
        ("hang", "no result within limits.trial_timeout (8 s of training)"),
        ("leak", "out of memory: "),
        ("leave", "SystemExit: enough"),
        ("nonsense", "losses() "),
        ("nothing", "diverged: fold 0"),
    ],
)
def test_what_a_task_does_is_named_in_the_record(
    misbehaving: Swept, trap: str, reason: str
) -> None:
    trial = misbehaving.record.trials[TRAPS.index(trap)]
    assert trial.info.status == "FAILED"
    assert reason in trial.data.tags["foldrace.failure"]


def test_the_others_are_not_touched(misbehaving: Swept) -> None:
    assert misbehaving.status == 3
    assert misbehaving.result["trials"] == {"completed": 2, "pruned": 0, "failed": 5}
    assert misbehaving.result["best"]["params"]["trap"] in ("none", "talk")
    numbers = [
        misbehaving.record.history(misbehaving.record.trials[trial], "val_loss")
        for trial, trap in enumerate(TRAPS)
        if trap in ("none", "talk")
    ]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 3


def test_what_is_printed_beyond_a_limit_is_dropped_and_said(misbehaving: Swept) -> None:
    trial = misbehaving.record.trials[TRAPS.index("talk")]
    assert trial.info.status == "FINISHED"
    assert trial.data.tags["foldrace.remark"].startswith("printed too much: ")
    silent = misbehaving.record.trials[TRAPS.index("none")]
    assert "foldrace.remark" not in silent.data.tags


def test_fail_fast_stops_at_the_first_failure_and_can_be_resumed(
    cluster: Any, tmp_path: Path
) -> None:
    overrides = [
        "limits.fail_fast=true",
        "search.start_with=[{trap: none}, {trap: leave}, {trap: talk}]",
    ]
    overrides += ["search.trials=3", "search.max_concurrent_trials=1"]
    stopped = run_here(written(tmp_path), tmp_path, overrides, cluster.address)
    assert stopped.status == 3
    assert "Stopping at the first failure (limits.fail_fast): trial 1 has failed." in stopped.err
    statuses = {number: run.info.status for number, run in stopped.record.trials.items()}
    assert statuses == {0: "FINISHED", 1: "FAILED"}
