"""A tracking server that dies while a sweep runs: the sweep goes on, and no point is lost or there
twice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from tests.benchmarks.tracking_server import TrackingServer
from tests.helpers.sweeps import QUICK, SMALL_DIGITS, environment, sweep_arguments

pytestmark = pytest.mark.slow

DEADLINE = 240.0
SWEEP = [
    SMALL_DIGITS,
    "epochs=4",
    "search.trials=10",
    "search.sampler=random",
    "scheduler={kind: fifo}",
]
POINTS = """
SELECT r.name, m.key, m.step, COUNT(*) FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid
GROUP BY r.name, m.key, m.step
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path, environment())
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def running_sweep(server: TrackingServer) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "foldrace",
        *sweep_arguments(QUICK, server.root / "sweeps", SWEEP),
    ]
    process = subprocess.Popen(
        [*command, "--tracking-uri", server.uri],
        cwd=server.root,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = Timer(DEADLINE, process.kill)
    deadline.start()
    try:
        yield process
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    """Its standard error up to a line that holds ``pattern``."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError(f"no {pattern!r} in:\n" + "".join(lines))


def assert_whole(server: TrackingServer, result: Mapping[str, object]) -> None:
    """Ten trials of three folds and four epochs, every point once, every run ended, the winner's
    models there."""
    assert result["trials"] == {"completed": 10, "pruned": 0, "failed": 0}
    levels = server.query(
        "SELECT value, COUNT(*) FROM tags WHERE key = 'foldrace.level' GROUP BY value"
    )
    assert dict(levels) == {"sweep": 1, "trial": 10, "fold": 30}
    assert server.query("SELECT DISTINCT status FROM runs") == [("FINISHED",)]
    points = server.query(POINTS)
    # two trials may end at the same fold-epochs of the sweep, each the best so far; nothing else
    # is there twice
    assert not [point for point in points if point[3] != 1 and point[0] != "quick"]
    doubled = (
        "SELECT key, step FROM metrics GROUP BY run_uuid, key, step, value HAVING COUNT(*) > 1"
    )
    assert server.query(doubled) == []
    losses = [
        (name, step) for name, key, step, _ in points if key == "val_loss" and name != "quick"
    ]
    folds = {
        (f"trial {t:04d} fold {k}", epoch)
        for t in range(10)
        for k in range(3)
        for epoch in (1, 2, 3, 4)
    }
    assert set(losses) == folds | {
        (f"trial {t:04d}", 3 * epoch) for t in range(10) for epoch in (1, 2, 3, 4)
    }
    assert len(list((server.root / "art").glob("**/checkpoint/state_dict.pt"))) == 3


def test_killed_and_restarted_in_the_middle_of_a_sweep(server: TrackingServer) -> None:
    with running_sweep(server) as process:
        read_until(process, r"trial \d+ completed")
        server.kill()
        read_until(process, f"recording waits: {server.uri} does not answer")
        server.start()
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert err.count("recording resumed") == 1 and "records wait in" not in err
    assert_whole(server, json.loads(out.splitlines()[-1]))
    assert not (server.root / "sweeps" / "quick" / "spool").exists()


def test_killed_for_good_the_sweep_ends_well_and_sync_completes_the_record_later(
    server: TrackingServer,
) -> None:
    with running_sweep(server) as process:
        read_until(process, r"trial \d+ completed")
        server.kill()
        read_until(process, f"recording waits: {server.uri} does not answer")
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert re.search(r"records wait in .*foldrace sync quick --dir", err), err
    result = json.loads(out.splitlines()[-1])
    folder = server.root / "sweeps" / "quick"
    assert json.loads((folder / "result.json").read_text())["best"] == result["best"]
    server.start()
    for said in (r"\d+ records delivered", "nothing waits"):
        command = [sys.executable, "-m", "foldrace", "sync", "quick", "--dir", str(folder.parent)]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0 and re.search(said, done.stdout), done.stdout + done.stderr
    assert_whole(server, result)
    assert (folder / "overview.png").is_file()
