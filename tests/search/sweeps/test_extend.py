"""What an extension makes of a sweep's file, and which checkpoints it starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from foldrace.errors import InputError
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.search.sweeps.extend import _begun, _list_of, _longer
from foldrace.trainables.training.ladder import Rung, aligned_points


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"scheduler": {"kind": "stopping", "reduction_factor": 2}},
        {"scheduler": {"kind": "fifo"}},
        {"scheduler": {"ladder": [[1, 2], [2, 4], [3, 9]]}},
        {"scheduler": {"kind": "fifo"}, "search": {"objectives": ["val_loss", "parameters"]}},
        {"search": {"fold_epochs": 60, "time_budget": "10m", "target": 0.1}},
        {"folds": {"kind": "holdout", "seeds": 2}},
    ],
)
def test_the_longer_file_can_be_read_and_its_ladder_goes_on_where_the_old_one_ends(
    keys: dict[str, Any],
) -> None:
    old = parse_spec({"dataset": "digits", "epochs": 9, **keys}, Path())
    longer = _longer(old, 27)
    assert parse_spec(yaml.safe_load(longer.to_yaml()), Path()) == longer
    assert longer.ladder[-1] == Rung(old.folds.count, 27)
    points = aligned_points(old.ladder)
    assert aligned_points(longer.ladder)[: len(points)] == points
    assert (longer.search.fold_epochs, longer.search.time_budget, longer.search.target) == (
        None,
        None,
        None,
    )


def test_a_checkpoint_of_a_longer_extension_that_was_left_is_not_taken(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    for place in ("tune", "tune-15", "tune-100"):
        (tmp_path / "sweep" / place / "trial-0003" / "checkpoint_000001").mkdir(parents=True)
        (tmp_path / "sweep" / place / "trial-0003" / "checkpoint_000001" / "trial.pt").touch()
    taken = [folder.checkpoint(3, "trial.pt", epochs) for epochs in (9, 15, 30, 100)]
    assert [path and path.parts[-3] for path in taken] == [
        "tune",
        "tune-15",
        "tune-15",
        "tune-100",
    ]
    assert folder.checkpoint(4, "trial.pt", 100) is None


def test_an_extension_that_was_begun_keeps_its_survivors(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path, "sweep")
    folder.path.mkdir()
    assert _begun(folder, 20, None) is None
    _list_of(folder, 20).write_text(
        '[{"number": 4, "params": {"lr": 0.1}, "checkpoint": "/c", "fold_epochs": 27}]'
    )
    [survivor] = _begun(folder, 20, None) or []
    assert (survivor.number, survivor.params, survivor.checkpoint, survivor.fold_epochs) == (
        4,
        {"lr": 0.1},
        Path("/c"),
        27,
    )
    with pytest.raises(InputError, match="was begun with 1 trial"):
        _begun(folder, 20, 2)
