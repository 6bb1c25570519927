"""What a sweep goes on from is whole and of one moment, wherever it was cut off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from foldrace import files as durable
from foldrace.files import atomic_write, write_text_atomically
from foldrace.search.tune.snapshots import Snapshots, go_back_to_snapshot

STATES = ("experiment_state-{}.json", "search_gen_state-{}.json", "searcher-state-{}.pkl")


@dataclass
class Experiment:
    """Tune's folder of an experiment, and the one where it writes its state first."""

    folder: Path
    staged: Path
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.staged.mkdir()
        (self.folder / "tuner.pkl").write_text("tuner")
        self.snapshots = Snapshots(self.folder, lambda: self.told.append("settled"))

    def save(self, session: str, content: str) -> None:
        for name in STATES:
            (self.staged / name.format(session)).write_text(content)

    def keep(self, *, soon: bool = False) -> None:
        self.keep_beside((), soon=soon)

    def keep_beside(self, pruned: Iterable[int], *, soon: bool = False) -> None:
        storage = SimpleNamespace(experiment_driver_staging_path=str(self.staged))
        keep = self.snapshots.keep_newest_soon if soon else self.snapshots.keep_newest
        keep([cast(Any, SimpleNamespace(storage=storage))], pruned)

    def checkpoints(self) -> list[int]:
        """The trials that have one."""
        return sorted(
            int(path.parent.name[-4:]) for path in self.folder.glob("trial-*/checkpoint_*")
        )

    def found(self) -> dict[str, str]:
        return {
            path.name: path.read_text()
            for path in self.folder.iterdir()
            if path.suffix in (".json", ".pkl")
        }


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path / "tune", tmp_path / "staged")


def state(session: str, content: str) -> dict[str, str]:
    return {"tuner.pkl": "tuner", **{name.format(session): content for name in STATES}}


def test_the_newest_state_takes_the_place_of_what_was_cut_short_or_belongs_to_another_time(
    experiment: Experiment,
) -> None:
    experiment.save("1", "old")
    experiment.keep()
    experiment.save("2", "new")
    experiment.keep()
    for name, content in {**state("1", "old"), **state("2", "newer than")}.items():
        (experiment.folder / name).write_text(content)
    (experiment.folder / STATES[0].format("2")).write_text('{"cut')
    (experiment.folder / "tuner.pkl").write_text("")
    go_back_to_snapshot(experiment.folder)
    assert experiment.found() == state("2", "new")
    go_back_to_snapshot(experiment.folder)
    assert experiment.found() == state("2", "new")


def test_a_clock_that_was_put_back_changes_nothing(experiment: Experiment) -> None:
    experiment.save("2", "old")
    experiment.keep()
    experiment.save("1", "new")
    experiment.keep()
    go_back_to_snapshot(experiment.folder)
    assert experiment.found() == state("1", "new")


def test_at_every_step_it_looks_but_now_and_then_and_at_the_end_in_any_case(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("foldrace.search.tune.snapshots.time.monotonic", lambda: now)
    for content, moment, kept in (
        ("a", 0.0, "a"),
        ("b", 0.3, "a"),
        ("b", 0.6, "b"),
        ("c", 0.7, "b"),
    ):
        now = 100.0 + moment
        experiment.save("1", content)
        experiment.keep(soon=True)
        go_back_to_snapshot(experiment.folder)
        assert experiment.found() == state("1", kept)
    experiment.keep()
    go_back_to_snapshot(experiment.folder)
    assert experiment.found() == state("1", "c")


def test_what_a_snapshot_speaks_of_is_safe_before_it_is(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, place = experiment.told, durable.Path.replace
    monkeypatch.setattr(
        "foldrace.search.tune.snapshots.fsync_tree", lambda folder: told.append(folder.name)
    )
    monkeypatch.setattr(
        durable.Path,
        "replace",
        lambda part, to: (told.append(f"-> {to.name}"), place(part, to))[1],
    )
    checkpoint = experiment.folder / "trial-0000" / "checkpoint_000000"
    checkpoint.mkdir(parents=True)
    experiment.snapshots.checkpointed(checkpoint)
    experiment.save("1", "")
    experiment.keep()
    assert told == ["settled", "checkpoint_000000", "-> state.zip"]
    experiment.keep()
    assert len(told) == 3, "nothing is new"


def test_an_experiment_that_had_hardly_begun_begins_anew(experiment: Experiment) -> None:
    go_back_to_snapshot(experiment.folder)
    assert not experiment.folder.exists()
    go_back_to_snapshot(experiment.folder)


def test_an_experiment_without_snapshots_but_with_checkpoints_is_left_as_it_is(
    experiment: Experiment,
) -> None:
    (experiment.folder / "trial-0000" / "checkpoint_000000").mkdir(parents=True)
    go_back_to_snapshot(experiment.folder)
    assert experiment.found() == {"tuner.pkl": "tuner"}


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text_atomically(path, "first")
    with pytest.raises(RuntimeError), atomic_write(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [
        ("result.json", "first")
    ]
    write_text_atomically(path, "second")
    assert path.read_text() == "second"


def test_the_checkpoints_of_a_trial_that_was_pruned_go_once_no_snapshot_asks_for_them(
    experiment: Experiment,
) -> None:
    for number in range(3):
        (experiment.folder / f"trial-{number:04d}" / "checkpoint_000000").mkdir(parents=True)
    experiment.save("1", "old")
    experiment.keep_beside([1])
    assert experiment.checkpoints() == [0, 1, 2]  # the snapshot may be from before its end
    experiment.keep_beside([1])
    assert experiment.checkpoints() == [0, 1, 2]
    experiment.save("1", "new")
    experiment.keep_beside([1, 2])
    assert experiment.checkpoints() == [0, 2]
    experiment.snapshots.clear([1, 2])
    assert experiment.checkpoints() == [0]


def test_the_tuner_is_kept_whole_while_tune_copies_its_own_over_it(experiment: Experiment) -> None:
    experiment.save("1", "one")
    (experiment.folder / "tuner.pkl").write_text("")
    experiment.keep()
    go_back_to_snapshot(experiment.folder)
    assert experiment.found() == state("1", "one")
