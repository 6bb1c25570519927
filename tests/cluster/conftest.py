"""A cluster of three nodes brought up by `ray up`, and laptops."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.lan import PATIENCE, Host, Lan, lan, missing

WHEEL = "foldrace-0.1.0-py3-none-any.whl"
WORKERS = ("one", "two")
_FAILED = pytest.StashKey[list[bool]]()
_STORE = "postgresql+psycopg2://foldrace@127.0.0.1:5432/mlflow"
_POSTGRES = """
set -e
install -d -o postgres -g postgres /home/pg
as="setpriv --reuid=postgres --regid=postgres --clear-groups"
$as initdb -D /home/pg/data -A trust -U foldrace > /home/pg.log
own="-c listen_addresses=127.0.0.1 -c unix_socket_directories=/tmp"
$as pg_ctl -D /home/pg/data -l /home/pg/log -w -o "$own" start > /dev/null
createdb -h 127.0.0.1 -U foldrace mlflow
"""


@dataclass
class Up:
    """The cluster.

    Attributes:
        runs: the shared folder of sweeps.
        yaml: the file that it was brought up by, on the shared disk.
    """

    net: Lan
    head: Host
    workers: dict[str, Host]
    laptop: Host
    outside: Host

    @property
    def runs(self) -> Path:
        return self.net.common / "runs"

    @property
    def yaml(self) -> Path:
        return self.net.common / "files" / "onprem.yaml"

    def tunnel(self, laptop: Host) -> None:
        """Opens a tunnel from a laptop to the head's dashboard and MLflow."""
        laptop.spawn(f"exec python -m foldrace tunnel {self.yaml}")
        until = time.monotonic() + PATIENCE
        while laptop.run(
            "curl -s -o /dev/null http://127.0.0.1:5000/health", check=False
        ).returncode:
            assert time.monotonic() < until, "the tunnel does not open"
            time.sleep(0.1)

    def query(self, text: str) -> list[list[str]]:
        """The rows of an SQL query in MLflow's PostgreSQL."""
        done = self.head.run(f'psql -h 127.0.0.1 -U foldrace -d mlflow -At -F "|" -c "{text}"')
        return [line.split("|") for line in done.stdout.splitlines()]

    def join(self, name: str) -> Host:
        """A new machine joins, as a spot machine does."""
        worker, gpus = self.net.add(name), self.gpus()
        (worker.files / "root/.ray").mkdir()
        token = (self.laptop.files / "root/.ray/auth_token").read_text()
        (worker.files / "root/.ray/auth_token").write_text(token)
        worker.set(FOLDRACE_TRAIN_ON_CPU="1", RAY_AUTH_MODE="token")
        worker.run(f"ray start --address={self.head.address}:6379 --num-cpus=2 --num-gpus=2")
        self.wait_for(gpus + 2)
        return worker

    def gpus(self) -> float:
        """How many GPUs the cluster has."""
        told = self.head.run("ray status", check=False).stdout
        found = re.search(r"/([\d.]+) GPU", told)
        return float(found[1]) if found else 0.0

    def wait_for(self, gpus: float) -> None:
        """Waits until the cluster has this many GPUs."""
        until = time.monotonic() + PATIENCE
        while (there := self.gpus()) != gpus:
            assert time.monotonic() < until, there
            time.sleep(0.5)


def _cluster_file(up: Up) -> str:
    """The onprem.yaml of `cluster init` for the hosts: not installed, and with pretended GPUs."""
    text = up.yaml.read_text()
    addresses = ", ".join(host.address for host in up.workers.values())
    install = (
        "python -m pip install --quiet --constraint ~/foldrace/constraints.txt"
        ' "$HOME/foldrace/foldrace-0.1.0-py3-none-any.whl[cluster]"'
    )
    changes = {
        "HEAD_ADDRESS": up.head.address,
        "WORKER_ADDRESS": addresses,
        "SSH_USER": "root",
        "min_workers: 1": f"min_workers: {len(up.workers)}",
        "max_workers: 1": f"max_workers: {len(up.workers)}",
        "ray start --address=$RAY_HEAD_IP:6379": (
            "ray start --address=$RAY_HEAD_IP:6379 --num-cpus=2 --num-gpus=2"
        ),
        install: f"ls ~/foldrace/constraints.txt ~/foldrace/{WHEEL}",
    }
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Lets `nothing_left_running` know whether the test has failed."""
    report = yield
    item.stash.setdefault(_FAILED, []).append(report.failed)
    return report


@pytest.fixture(autouse=True)
def nothing_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """A sweep that a failing test has left does not hold up the next test."""
    yield
    if "up" in request.fixturenames and any(request.node.stash.get(_FAILED, [])):
        laptop = request.getfixturevalue("up").laptop
        listed = laptop.run("python -m foldrace list --json", check=False).stdout
        for job in json.loads(listed or "[]"):
            if job["status"] in ("PENDING", "RUNNING"):
                laptop.run(f"python -m foldrace stop {job['id']} --force", check=False)


@pytest.fixture(scope="session")
def up() -> Iterator[Up]:
    if lacks := missing():
        message = f"NO CLUSTER TESTS: this machine lacks {', '.join(lacks)}"
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    with lan() as net:
        head, *workers = [net.add(name) for name in ("head", *WORKERS)]
        up = Up(
            net,
            head,
            dict(zip(WORKERS, workers, strict=True)),
            net.add("laptop", serves=False),
            net.add("outside"),
        )
        head.run(_POSTGRES)
        head.set(FOLDRACE_MLFLOW_STORE=_STORE)
        for host in up.workers.values():
            host.set(FOLDRACE_TRAIN_ON_CPU="1")
        up.laptop.run(f"python -m foldrace cluster init {up.yaml.parent}")
        (up.yaml.parent / WHEEL).write_bytes(b"not installed here")
        up.yaml.write_text(_cluster_file(up))
        up.laptop.run("ray get-auth-token --generate")
        up.laptop.run(
            f"cd {up.yaml.parent} && ray up -y --no-config-cache onprem.yaml",
            RAY_UP_enable_autoscaler_v2="0",
        )
        for host in (head, *up.workers.values()):
            host.set(RAY_AUTH_MODE="token")
        up.wait_for(gpus=4)
        up.tunnel(up.laptop)
        yield up
