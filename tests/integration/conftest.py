"""Sweeps that several tests look at, each run once; and one Ray cluster for those that can share
it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from foldrace.cli.app import main
from tests.helpers.stores import write_tables
from tests.helpers.sweeps import (
    QUICK,
    RACE,
    SMALL_DIGITS,
    Swept,
    environment,
    run_alone,
    run_here,
    sweep_arguments,
)

DEADLINE = 120.0
VAE = """
name: vae
task: variational
dataset: {name: digits, limit: 600, size: [12, 12]}
epochs: 6
space: {latent_dim: 2, variance: 0.02, batch_size: 16, lr: {log: [1.0e-3, 1.0e-2]},
        beta: {choice: [0.5, 1, 2]}}
search: {sampler: random, trials: 3}
scheduler: {kind: stopping, reduction_factor: 2}
"""
COMPARISON = """
kind: comparison
name: comparison
dataset: {name: digits, limit: 480, size: [12, 12]}
folds: {splits: 3, seed: 0}
epochs: 2
space: {latent_dim: 8, batch_size: 16, dropout: 0.0}
comparison:
  arms:
    adam: {space: {lr: {log: [3.0e-3, 2.0e-2]}}}
    adam-again: {optimizer: adam, space: {lr: {log: [3.0e-3, 2.0e-2]}}}
    sgd: {space: {lr: {log: [1.0e-9, 1.0e-7]}}, defaults: {lr: 1.0e-8}}
  repeats: 2
search: {trials: 3, seed: 0}
"""
LONG = [SMALL_DIGITS, "epochs=4", "search.trials=10", "search.sampler=random"]


@pytest.fixture(scope="session", autouse=True)
def no_outside() -> Iterator[None]:
    """No tracking server or folder from the caller's environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "FOLDRACE_DIR", "FOLDRACE_DATA_DIR", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A Ray of one node with two processors that belongs to no sweep."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """quick.yaml made small, in a process and on a Ray of its own."""
    return run_alone(QUICK, tmp_path_factory.mktemp("quick"), RACE)


@pytest.fixture(scope="session")
def one_by_one(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The same sweep on the cluster, a trial at a time."""
    overrides = [*RACE, "search.max_concurrent_trials=1"]
    return run_here(QUICK, tmp_path_factory.mktemp("one_by_one"), overrides, cluster.address)


@pytest.fixture(scope="session")
def stopping(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The same sweep under the scheduler that stops trials; one at a time, so that the good one
    reports first."""
    overrides = [
        *RACE,
        "scheduler={kind: stopping, reduction_factor: 2}",
        "search.max_concurrent_trials=1",
    ]
    return run_here(QUICK, tmp_path_factory.mktemp("stopping"), overrides, cluster.address)


@pytest.fixture(scope="session")
def interrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Swept, dict[psutil.Process, str]]:
    """A long sweep that got SIGINT once a trial had completed, and all its processes with their
    names."""
    return interrupt(tmp_path_factory.mktemp("interrupted"), LONG, r"trial \d+ completed")


def interrupt(
    root: Path, overrides: list[str], when: str
) -> tuple[Swept, dict[psutil.Process, str]]:
    """A sweep of quick.yaml that gets SIGINT once a line of its progress says ``when``, and all
    its processes."""
    write_tables(root)
    command = [sys.executable, "-m", "foldrace", *sweep_arguments(QUICK, root, overrides)]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    deadline = Timer(DEADLINE, process.kill)
    deadline.start()
    try:
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if re.search(when, line):
                break
        descendants = {
            child: child.name() for child in psutil.Process(process.pid).children(recursive=True)
        }
        os.kill(process.pid, signal.SIGINT)
        out, rest = process.communicate()
    finally:
        deadline.cancel()
        process.kill()
    return Swept(process.returncode, out, "".join(lines) + rest, root), descendants


@pytest.fixture(scope="session")
def comparison_sweep(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """An optimizer twice under two names, and one that cannot learn at its rates."""
    root = tmp_path_factory.mktemp("comparison")
    spec = root / "comparison.yaml"
    spec.write_text(COMPARISON)
    return run_here(spec, root, [], cluster.address)


@pytest.fixture(scope="session")
def reported_vae(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A VAE with two latent dimensions, swept, refitted and reported: the folder of sweeps, and
    its name."""
    root = tmp_path_factory.mktemp("vae")
    spec = root / "vae.yaml"
    spec.write_text(VAE)
    assert run_here(spec, root, [], cluster.address).status == 0
    places = ["--dir", str(root), "--data-dir", str(root / "data")]
    assert main(["refit", "vae", *places, "--bound-samples", "5"]) == 0
    assert main(["report", "vae", "--dir", str(root)]) == 0
    return root, "vae"


@pytest.fixture(scope="session")
def reported_comparison(comparison_sweep: Any) -> tuple[Path, str]:
    """The comparison of optimizers, reported."""
    assert main(["report", "--dir", str(comparison_sweep.root)]) == 0
    return comparison_sweep.root, str(comparison_sweep.result["sweep"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.integration)
