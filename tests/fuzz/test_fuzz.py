"""Whatever a file holds, it is used or refused with a message; `make fuzz` tries many more."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("specs", 250),
        ("data", 150),
        ("items", 150),
        ("folders", 60),
        ("records", 80),
        ("tasks", 60),
    ],
)
def test_damaged_files_end_in_a_message(kind: str, count: int) -> None:
    found = fuzz.run_cases(kind, range(count))
    assert not found.amiss, "\n".join(found.amiss)
    assert found.counts["accepted"] > count / 50 and found.counts["refused"] > count / 4


def test_what_is_not_met_with_a_message_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def case(seed: int, folder: Path) -> str:
        if seed == 1:
            raise KeyError("a traceback")
        if seed == 2:
            time.sleep(10)
        return "refused"

    monkeypatch.setattr(fuzz, "KINDS", {"bad": case})
    monkeypatch.setattr(fuzz, "_LIMIT", 0.2)
    found = fuzz.run_cases("bad", range(4))
    assert found.counts == {"refused": 2}
    assert (
        "KeyError" in found.amiss[0] and "bad 2: hangs" in found.amiss[1] and len(found.amiss) == 2
    )


def test_a_traceback_of_the_command_line_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("foldrace.search.spec.sweep_spec.load_spec", broken)
    assert all("ZeroDivisionError" in line for line in fuzz.run_cases("specs", range(3)).amiss)


def test_a_file_that_is_dropped_in_silence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foldrace.trainables.data.folder_layout.Remarks.lines", lambda _: iter(()))
    assert any("used, 0 named of" in line for line in fuzz.run_cases("folders", range(12)).amiss)
