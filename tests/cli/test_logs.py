"""The library's messages on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import StringIO

import pytest
from rich.console import Console
from rich.live import Live

from foldrace.cli.app import main
from foldrace.cli.logs import ConsoleHandler, shown_log

log = logging.getLogger("foldrace.some.module")


@pytest.fixture
def console() -> Iterator[Console]:
    made = Console(file=StringIO(), width=40)
    with shown_log(made):
        yield made


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_text_is_printed_as_it_is(console: Console) -> None:
    text = "[bold]x[/] :smile: 3 trials\nand a line that is longer than the console is wide"
    log.info(text)
    log.warning("%s", "yes")
    log.debug("no")
    assert printed(console) == f"{text}\nyes\n"


def test_warnings_are_yellow_on_a_terminal() -> None:
    console = Console(file=StringIO(), force_terminal=True, color_system="standard")
    handler = ConsoleHandler(console)
    handler.handle(logging.makeLogRecord({"msg": "careful", "levelno": logging.WARNING}))
    handler.handle(logging.makeLogRecord({"msg": "fine", "levelno": logging.INFO}))
    assert printed(console) == "\x1b[33mcareful\x1b[0m\nfine\n"


def test_a_live_display_on_the_same_console_stays_whole() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=40)
    with shown_log(console):
        with Live("the table", console=console, auto_refresh=False) as live:
            live.refresh()
            log.info("a note")
        text = printed(console)
        assert text.index("a note") < text.rindex("the table")


def test_each_message_is_printed_once_and_pytest_still_sees_it(
    console: Console, caplog: pytest.LogCaptureFixture
) -> None:
    log.info("once")
    assert printed(console) == "once\n"
    assert caplog.messages == ["once"]


def test_the_command_line_shows_messages_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak() -> dict[str, str]:
        log.info("a [note]")
        return {}

    monkeypatch.setattr("foldrace.search.spec.sweep_spec.json_schema", speak)
    for _ in range(2):
        assert main(["schema"]) == 0
        assert tuple(capsys.readouterr()) == ("{}\n", "a [note]\n")
