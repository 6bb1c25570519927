"""Trials that ask for GPUs, on a cluster of two machines that Ray is told have some: each lands on
one of its own. Refit and replay compute on what they trained on."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from foldrace.search.sweeps.refit import refit
from foldrace.search.sweeps.replay import replay_trial
from tests.helpers.sweeps import QUICK, SMALL_DIGITS, run_here


def test_trials_are_spread_over_machines_and_their_gpus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FOLDRACE_TRAIN_ON_CPU", "1")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, num_gpus=2)
        overrides = [
            SMALL_DIGITS,
            "epochs=2",
            "search.trials=4",
            "search.sampler=random",
            "scheduler={kind: fifo}",
        ]
        overrides += ["resources={cpu: 1, gpu: 1}"]
        swept = run_here(QUICK, tmp_path, overrides, cluster.address)
    finally:
        cluster.shutdown()
    assert swept.status == 0, swept.err
    tags = [run.data.tags for run in swept.record.trials.values()]
    assert Counter(tag["foldrace.gpus"] for tag in tags) == {"0": 2, "1": 2}
    assert {tag["foldrace.node"] for tag in tags} == {os.uname().nodename}
    assert {tag["foldrace.device"] for tag in tags} == {"cpu"}
    assert refit("quick", swept.root, swept.root / "data").test
    monkeypatch.delenv("FOLDRACE_TRAIN_ON_CPU")
    replayed = replay_trial("quick", 0, swept.root, swept.root / "data")
    assert replayed.identical and not replayed.versions
    assert "there is none here" not in caplog.text  # neither has looked for a GPU
