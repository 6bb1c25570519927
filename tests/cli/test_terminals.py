"""What is printed is what was meant, on any terminal; every ending is one line with a remedy."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable

import pytest

from foldrace.cli.app import main
from foldrace.cli.messages import UserConsole, prepare_streams


def test_a_users_text_is_printed_as_it_is() -> None:
    file = io.StringIO()
    UserConsole(file=file, width=80).print("my_models.py:Fire :fire: [red]x[/red]")
    assert file.getvalue() == "my_models.py:Fire :fire: [red]x[/red]\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_a_character_gets_another(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    prepare_streams()
    print("0.1 ± 0.2 ✓ 名")
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    assert shown.startswith("0.1 ")
    assert {"ascii": "+/- 0.2 + ?", "latin-1": "± 0.2 + ?", "utf-8": "± 0.2 ✓ 名"}[
        encoding
    ] in shown


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission"),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
)
def test_an_error_of_the_system_is_one_line(
    error: Callable[[], OSError],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error()

    monkeypatch.setattr("foldrace.search.spec.sweep_spec.json_schema", broken)
    assert main(["schema"]) == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("Error: ") == 1 and len(shown.splitlines()) == 1


def test_a_reader_that_goes_away_ends_no_command_with_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("foldrace.search.spec.sweep_spec.json_schema", gone)
    with pytest.raises(SystemExit) as ended:
        main(["schema"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == ""
