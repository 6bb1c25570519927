"""Any terminal takes what is printed, and what is wrong around us is one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from rich.table import Table

from foldrace.cli.app import main
from foldrace.cli.doctor import Finding, Grade
from foldrace.cli.messages import UserConsole, prepare_streams
from foldrace.cli.tables import findings_table


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", "3x28 +/- 0.1 + ?"), ("latin-1", "3×28 ± 0.1 + ?"), ("utf-8", "3×28 ± 0.1 ✓ 名")],
)
def test_what_a_terminal_cannot_show_is_shown_in_its_characters(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    there = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(there, encoding))
    prepare_streams()
    print("3×28 ± 0.1 ✓ 名", end="", flush=True)
    assert there.getvalue().decode(encoding) == shown


def test_a_name_that_is_no_text_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = BytesIO()
    monkeypatch.setattr(sys, "stderr", TextIOWrapper(there, "utf-8"))
    prepare_streams()
    print(os.fsdecode(b"\xff"), end="", file=sys.stderr, flush=True)
    assert there.getvalue() == b"?"


def test_neither_markup_nor_emoji_codes_are_read_anywhere() -> None:
    text = "[red]a[/] :fire:"
    table = Table("[b]:bug:", title=text)
    table.add_row(text)
    console = UserConsole(file=StringIO(), width=80)
    console.print(text)
    console.print(table, findings_table([Finding(text, Grade.GOOD, text, text)]))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert shown.count(text) == 6 and "[b]:bug:" in shown and "✓" in shown


@pytest.mark.parametrize(
    ("streams", "status", "said"),
    [
        (">/dev/full", 2, "Error: the disk is full"),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
        ("| head -1", 1, ""),
    ],
)
def test_a_closed_or_full_output_is_no_traceback(streams: str, status: int, said: str) -> None:
    script = f'set -o pipefail; "$@" {streams}'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "foldrace", "schema"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith(said) and done.stderr.count("\n") == (1 if said else 0)
    # `head` may have read all before it ends
    assert done.returncode == status or ("|" in streams and done.returncode == 0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"),
            "/proc/x: No su",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", b"/a"),
            "/a: Permission denied; check",
        ),
        (MlflowException("API request to http://h failed\nmore"), "refuses: API request to http"),
    ],
)
def test_what_is_wrong_around_us_is_one_line_with_a_remedy(
    error: Exception,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("foldrace.search.spec.sweep_spec.json_schema", fails)
    assert main(["schema"]) == 2
    told = capsys.readouterr().err
    assert said in told and told.startswith("Error: ") and told.count("\n") == 1


@pytest.mark.parametrize("command", [["simulate"], ["tunnel"], ["cluster", "check"]])
def test_a_missing_file_is_said_without_an_error_number(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "missing.yaml"]) == 2
    told = capsys.readouterr().err
    assert "No such file or directory" in told and "Errno" not in told


@pytest.mark.slow
@pytest.mark.integration
def test_a_sweep_ends_well_on_a_terminal_for_ascii_alone_without_a_home(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }
    root = Path(__file__).parents[2]
    spec = str(root / "search" / "specs" / "quick.yaml")
    command = [sys.executable, "-m", "foldrace", "sweep", spec, "--set", "search.trials=2"]
    ended = subprocess.run(
        [*command, "--dir", str(tmp_path / "runs"), "--data-dir", str(tmp_path / "data")],
        cwd=root,
        env=environment,
        capture_output=True,
        timeout=300,
        check=False,
    )
    shown = (ended.stdout + ended.stderr).decode("ascii")
    assert ended.returncode == 0 and "Traceback" not in shown, shown[-2000:]
    assert "+/-" in shown
