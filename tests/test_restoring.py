"""What of Tune's state can still be gone on with when a machine has died while it was written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from search.restoring import find_restorable

SESSIONS = ("2026-01-01_10-00-00", "2026-01-01_11-00-00")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two sessions' states, as Tune names them."""
    folder = tmp_path / "tune"
    folder.mkdir()
    (folder / "tuner.pkl").write_bytes(pickle.dumps({"a": list(range(50))}))
    for session in SESSIONS:
        (folder / f"experiment_state-{session}.json").write_text(json.dumps({"trial_data": [session]}))
        (folder / f"search_gen_state-{session}.json").write_text(json.dumps({"counter": 1}))
        (folder / f"searcher-state-{session}.pkl").write_bytes(pickle.dumps({"b": list(range(50))}))
    return folder


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_a_new_folder_has_nothing_to_go_on_with(tmp_path: Path) -> None:
    assert not find_restorable(tmp_path / "tune", print)


def test_what_is_whole_is_left_as_it_is(experiment: Path) -> None:
    before = sorted(experiment.iterdir())
    assert find_restorable(experiment, print)
    assert sorted(experiment.iterdir()) == before


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("file", ["experiment_state-{}.json", "search_gen_state-{}.json", "searcher-state-{}.pkl"])
def test_a_damaged_state_gives_way_to_the_session_before(experiment: Path, file: str, share: float) -> None:
    cut(experiment / file.format(SESSIONS[1]), share)
    said: list[str] = []
    assert find_restorable(experiment, said.append)
    assert [path.name for path in experiment.glob("experiment_state-*")] == [f"experiment_state-{SESSIONS[0]}.json"]
    assert not list(experiment.glob(f"se*{SESSIONS[1]}*"))
    assert said == [f"experiment_state-{SESSIONS[1]}.json is damaged: the sweep goes on from an older state"]


def test_where_nothing_is_whole_the_experiment_begins_anew_and_is_kept_aside(experiment: Path) -> None:
    cut(experiment / "tuner.pkl", 0.7)
    (experiment.parent / "lost-tune-1").mkdir()
    said: list[str] = []
    assert not find_restorable(experiment, said.append)
    assert not experiment.exists() and (experiment.parent / "lost-tune-2" / "tuner.pkl").is_file()
    assert "its trials begin anew (what was there is in lost-tune-2)" in said[0]
