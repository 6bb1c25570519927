"""What the outbox has taken it gives back, exactly, in order and once, however its process
ended."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from foldrace.search.recording.events import (
    Closed,
    Event,
    Files,
    Finished,
    Incumbent,
    Reported,
    Started,
    from_json,
    to_json,
)
from foldrace.search.recording.outbox import Outbox, waiting_in
from foldrace.search.recording.schema import Outcome
from foldrace.trainables.training.reports import EpochReport, FoldReport


def reported(trial: int, epoch: int = 1, picture: str | None = None) -> Reported:
    fold = FoldReport(
        0, epoch, 0, True, "fold 0: val_loss is inf", {"val_loss": math.inf, "val_mse": 0.1 + 0.2}
    )
    report = EpochReport(
        epoch, (fold,), epoch, 1e-300, False, trained=(fold, fold), rungs=((0.1,), (5e-324, 1e308))
    )
    return Reported(trial, report, picture, 1000 + epoch, None)


EVERY: list[Event] = [
    Started(
        7,
        {"lr": 1 / 3, "batch_size": 64, "optimizer": "adam", "nesterov": True, "none": None},
        {"arm": "ä"},
        5,
    ),
    reported(7, picture="iVBORw0KGgo="),
    Finished(7, Outcome.FAILED, reported(7).report.folds, "it\nbroke", "Traceback \ud800\r\n", 9),
    Incumbent(7, -math.inf, 0.25, 12, 10),
    Files((7, 2), "winner/fold-2", "checkpoint", 11),
    Files((), "reconstructions.npz", "", 11),
    Closed(Outcome.PRUNED, {"interrupted": True, "wall_seconds": 12.5}, "**note**", 12),
]


def events(outbox: Outbox, most: int = 500) -> list[Event]:
    """All that waits, delivered."""
    found: list[Event] = []
    while (batch := outbox.take(most)).lines:
        found += [waiting.event for waiting in batch.events]
        outbox.delivered(batch)
    return found


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_equal_from_its_one_line(event: Event) -> None:
    line = to_json(event)
    assert "\n" not in line and "\r" not in line
    assert from_json(line) == event


def test_what_is_not_a_number_and_numpys_scalars_keep_their_values() -> None:
    metrics = {
        "a": math.nan,
        "b": np.float32(0.1),
        "c": np.float64(1 / 3),
        "d": np.int64(3),
        "e": -math.inf,
    }
    fold = FoldReport(0, 1, 1, np.bool_(False), None, metrics)  # type: ignore[arg-type]
    back = from_json(to_json(Finished(0, Outcome.COMPLETED, (fold,), "", "", 1)))
    assert isinstance(back, Finished)
    given = back.folds[0].metrics
    assert math.isnan(given["a"]) and given["e"] == -math.inf
    assert (given["b"], given["c"], given["d"]) == (float(np.float32(0.1)), 1 / 3, 3)
    assert back.folds[0].stopped is False


# --- order, and once -----------------------------------------------------------------------------


def test_events_come_in_order_and_each_once_over_many_segments_and_two_openings(
    tmp_path: Path,
) -> None:
    first = Outbox(tmp_path / "outbox", segment=400)
    for trial in range(10):
        first.append(reported(trial))
    assert len(list((tmp_path / "outbox").glob("*.jsonl"))) > 3
    batch = first.take(3)
    taken = len(batch.events)
    assert taken and [waiting.event for waiting in batch.events] == [
        reported(trial) for trial in range(taken)
    ]
    first.delivered(batch)
    first.close()
    assert waiting_in(tmp_path / "outbox") == 10 - taken
    second = Outbox(tmp_path / "outbox", segment=400)
    assert second.waiting == 10 - taken
    for trial in range(10, 13):
        second.append(reported(trial))
    assert events(second, most=2) == [reported(trial) for trial in range(taken, 13)]
    assert second.waiting == waiting_in(tmp_path / "outbox") == 0


def test_what_is_not_delivered_is_there_again_and_what_is_delivered_is_not(tmp_path: Path) -> None:
    for kept in (0, 2):
        outbox = Outbox(tmp_path / "outbox")
        if not kept:
            for trial in range(4):
                outbox.append(reported(trial))
        taken = [waiting.event for waiting in outbox.take(2).events]
        assert taken == [reported(kept), reported(kept + 1)]
        assert [waiting.event for waiting in outbox.take(2).events] == taken
        outbox.delivered(outbox.take(2))  # and here the process is killed: nothing is closed
    assert waiting_in(tmp_path / "outbox") == 0


def test_a_delivered_segment_is_removed_and_an_empty_spool_leaves_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox", segment=1)
    for trial in range(3):
        outbox.append(reported(trial))
    assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == [
        f"{n:06d}.jsonl" for n in (1, 2, 3)
    ]
    outbox.delivered(outbox.take(5))
    outbox.delivered(outbox.take(5))
    assert sorted(path.name for path in (tmp_path / "outbox").glob("0*")) == [
        "000002.jsonl",
        "000003.jsonl",
    ]
    events(outbox)
    outbox.close()
    assert not (tmp_path / "outbox").exists()


def test_a_spool_that_was_never_used_makes_no_folder(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    assert events(outbox) == [] and outbox.waiting == waiting_in(tmp_path / "outbox") == 0
    outbox.sync()
    outbox.close()
    assert not (tmp_path / "outbox").exists()


def test_a_line_longer_than_what_is_read_at_once_is_taken_whole(tmp_path: Path) -> None:
    long = [reported(trial, picture="x" * 1_500_000) for trial in range(3)]
    outbox = Outbox(tmp_path / "outbox")
    for event in long:
        outbox.append(event)
    assert events(outbox) == long


# --- crashes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 50, 100_000])
def test_a_torn_last_line_is_cut_off_and_the_whole_ones_stay(tmp_path: Path, cut: int) -> None:
    before = Outbox(tmp_path / "outbox")
    before.append(reported(0))
    last = reported(1, picture="x" * 200_000)
    before.append(last)
    path = tmp_path / "outbox" / "000001.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    after = Outbox(tmp_path / "outbox")
    assert after.waiting == 1
    after.append(last)
    assert events(after) == [reported(0), last]


def test_a_cursor_that_is_lost_costs_a_second_delivery_and_no_event(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    for trial in range(3):
        outbox.append(reported(trial))
    outbox.delivered(outbox.take(2))
    (tmp_path / "outbox" / "delivered.json").write_text("")
    assert events(Outbox(tmp_path / "outbox")) == [reported(0), reported(1), reported(2)]


def test_a_line_that_is_damaged_is_set_aside_and_the_others_come(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox")
    for trial in range(3):
        outbox.append(reported(trial))
    path = tmp_path / "outbox" / "000001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * (len(lines[1]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    again = Outbox(tmp_path / "outbox")
    assert events(again) == [reported(0), reported(2)]
    [entry] = [json.loads(line) for line in again.refused.read_text().splitlines()]
    assert "cannot be read" in entry["reason"]
    again.close()
    assert [path.name for path in (tmp_path / "outbox").iterdir()] == ["refused.jsonl"]


def test_a_write_that_the_disk_cuts_short_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path / "outbox")
    outbox.append(reported(0))
    whole = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: whole(file, data[:10]))
        with pytest.raises(OSError, match="took 10 of"):
            outbox.append(reported(1))
    outbox.append(reported(2))
    assert events(outbox) == [reported(0), reported(2)]


# --- bounds --------------------------------------------------------------------------------------


def test_pictures_are_dropped_first_then_reports_with_one_warning_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path / "outbox", limit=8000)
    for epoch in range(1, 30):
        outbox.append(reported(0, epoch, picture="p" * 1000))
    outbox.append(EVERY[2])
    kept = events(outbox)
    pictures = [event.picture is not None for event in kept if isinstance(event, Reported)]
    assert pictures == sorted(pictures, reverse=True) and 0 < sum(pictures) < len(pictures) < 29
    assert kept[-1] == EVERY[2]
    said = caplog.messages
    assert ["pictures" in line for line in said] == [True, False] and "reports are lost" in said[1]
    outbox.append(reported(1, picture="p"))
    assert events(outbox) == [reported(1, picture="p")]  # what is delivered makes room
