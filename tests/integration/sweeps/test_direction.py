"""A metric that is maximised, and its negative that is minimised, make the same sweep."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.sweeps import Swept, run_here

TASK = """
import math, torch
from torch import nn

class Scored:
    def build(self, params, sample):
        return nn.Linear(math.prod(sample.shape), 1)

    def losses(self, model, images, params):
        error = (model(images.flatten(1))[:, 0] - 1).square()
        score = 1 / (1 + error.detach())
        return {"loss": error, "fit": score, "misfit": -score}
"""
SWEEP = """
name: scored
task: ./scored.py:Scored
dataset: {name: digits, limit: 90, size: [8, 8]}
epochs: 3
space:
  lr: {log: [1.0e-4, 1.0e-2]}
  weight_decay: {uniform: [0.0, 0.1]}
  optimizer: sgd
  batch_size: 16
search: {trials: 5, seed: 0, deterministic: true, max_concurrent_trials: 2}
"""
SAMPLERS = ("tpe", "random", "qmc", "cmaes", "gp", "nsga2")
SCHEDULERS = ("promotion", "stopping", "fifo")
IN_CI = ("tpe", "promotion")


def pairs() -> Iterator[Any]:
    """Every sampler with every scheduler; one of them often, all seldom."""
    for pair in itertools.product(SAMPLERS, SCHEDULERS):
        yield pytest.param(*pair, marks=pytest.mark.slow if pair == IN_CI else pytest.mark.long)


def swept(root: Path, objective: str, sampler: str, kind: str, address: str) -> Swept:
    root.mkdir()
    (root / "scored.py").write_text(TASK)
    (root / "scored.yaml").write_text(SWEEP)
    overrides = [
        f"objective={objective}",
        f"search.sampler={sampler}",
        f"scheduler={{kind: {kind}}}",
    ]
    return run_here(root / "scored.yaml", root, overrides, address)


@pytest.mark.parametrize(("sampler", "kind"), pairs())
def test_both_have_the_same_winner_race_and_record(
    cluster: Any, tmp_path: Path, sampler: str, kind: str
) -> None:
    high = swept(
        tmp_path / "high",
        "{metric: fit, direction: maximize}",
        sampler,
        kind,
        cluster.address,
    )
    low = swept(tmp_path / "low", "misfit", sampler, kind, cluster.address)
    assert high.status == low.status == 0, high.err + low.err
    assert high.record.params == low.record.params
    assert high.record.numbers == low.record.numbers
    ours, theirs = high.result, low.result
    assert ours["fold_epochs"] == theirs["fold_epochs"] and ours["trials"] == theirs["trials"]
    best, other = ours["best"], theirs["best"]
    assert best["trial"] == other["trial"] and best["params"] == other["params"]
    assert best["score"]["mean"] == -other["score"]["mean"] > 0
    assert (best["metric"], best["direction"]) == ("fit", "maximize") and "val_loss" not in best
    assert other["val_loss"] == other["score"] and other["direction"] == "minimize"
    tags = high.record.sweep.data.tags
    assert (tags["foldrace.metric"], tags["foldrace.direction"]) == ("fit", "maximize")
    statuses = [
        {number: run.info.status for number, run in each.record.trials.items()}
        for each in (high, low)
    ]
    assert statuses[0] == statuses[1]
    assert "CV fit ± std. error" in high.err or "fit" in high.err
