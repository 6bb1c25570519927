"""Files in the working directory that are named as our folders are change nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOSTILE = (
    "search.py",
    "cluster.py",
    "analysis/__init__.py",
    "trainables/__init__.py",
    "search/spec.py",
    "cli.py",
    "errors.py",
    "files.py",
)
WRONG = "epochs: 0\n"
ENTRY = ["-m", "foldrace.cluster.entry_point"]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    folder = tmp_path / "hostile"
    for name in HOSTILE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("raise SystemExit('the wrong module was imported')\n")
    (folder / "sweep.yaml").write_text(WRONG)
    return folder


def run(arguments: list[str], folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONPATH": path} if path else {})
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("path", ["", "."])
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["-m", "foldrace", "schema"], 0, '"properties"'),
        (["-m", "foldrace", "sweep", "sweep.yaml"], 2, "epochs: 0: must be"),
        (["-m", "foldrace", "report"], 2, "no sweep here"),
        (["-m", "foldrace", "cluster", "check", "sweep.yaml"], 2, "is neither a file"),
        (["-m", "foldrace", "submit", "sweep.yaml"], 2, "epochs: 0: must be"),
        (["-m", "foldrace.cluster.mlflow_server"], 2, "usage: python -m foldrace.cluster.mlf"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_commands_work(
    hostile: Path, arguments: list[str], status: int, said: str, path: str
) -> None:
    done = run(arguments, hostile, path)
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr and "wrong module" not in done.stderr


@pytest.mark.parametrize("path", ["", "."])
def test_a_submitted_sweep_starts_in_a_jobs_working_directory(
    hostile: Path, tmp_path: Path, path: str
) -> None:
    shared = tmp_path / "shared"
    done = run([*ENTRY, str(shared), "digest", "sweep.yaml"], hostile, path)
    assert done.returncode == 2 and "epochs: 0: must be" in done.stderr, done.stderr
    assert (shared / ".code" / "digest" / "search.py").is_file()
