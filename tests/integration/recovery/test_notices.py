"""A machine that is taken away with notice: what runs there is saved at once, and not counted."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from foldrace.trainables.ray.trainable import Notice
from tests.helpers.stores import write_tables
from tests.helpers.sweeps import QUICK, SMALL_DIGITS, environment, sweep_arguments

pytestmark = pytest.mark.slow

DEADLINE = 120.0
SWEEP = [
    SMALL_DIGITS,
    "epochs=80",
    "search={sampler: random, trials: 1, seed: 0}",
    "scheduler={kind: fifo}",
    "limits={max_failures: 0}",
]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head on which nothing runs, and two machines."""
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def drain(address: str, node: str) -> None:
    """Gives notice that a node will be taken away in ten minutes."""
    words = ["drain-node", "--address", address, "--node-id", node]
    words += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    code = "from ray.scripts.scripts import main; main()"
    command = [sys.executable, "-c", code, *words, "--deadline-remaining-seconds", "600"]
    subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE)


def test_what_runs_there_is_saved_and_goes_on_elsewhere_without_counting(
    cluster: Any, tmp_path: Path
) -> None:
    first = cluster.add_node(num_cpus=1)
    write_tables(tmp_path)
    words = [*sweep_arguments(QUICK, tmp_path, SWEEP), "--address", cluster.address]
    process = subprocess.Popen(
        [sys.executable, "-m", "foldrace", *words],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    trials = tmp_path / "quick" / "tune"

    def wait_for(pattern: str) -> None:
        until = time.monotonic() + DEADLINE
        while not list(trials.glob(pattern)):
            assert process.poll() is None and time.monotonic() < until, pattern
            time.sleep(0.05)

    try:
        wait_for("trial-0000")
        drain(cluster.address, first.node_id)
        wait_for("trial-0000/checkpoint_*/trial.pt")
        cluster.add_node(num_cpus=1)
        cluster.remove_node(first, allow_graceful=False)
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 0, err
    result = json.loads(out.splitlines()[-1])
    assert result["trials"] == {"completed": 1, "pruned": 0, "failed": 0}


def test_a_worker_there_knows_of_the_notice_and_one_elsewhere_does_not(cluster: Any) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:

        @ray.remote(num_cpus=1)
        class Asked:
            def __init__(self) -> None:
                self.notice = Notice()

            def node_and_notice(self) -> tuple[str, bool]:
                return ray.get_runtime_context().get_node_id(), self.notice.given

        actors = [Asked.remote() for _ in nodes]
        ask = lambda: dict(ray.get([actor.node_and_notice.remote() for actor in actors]))  # noqa: E731
        assert ask() == {node.node_id: False for node in nodes}
        drain(cluster.address, nodes[0].node_id)
        until = time.monotonic() + DEADLINE
        while not (told := ask())[nodes[0].node_id]:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert not told[nodes[1].node_id]
    finally:
        ray.shutdown()
