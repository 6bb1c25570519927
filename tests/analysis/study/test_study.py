"""The study's order of work: what is done before is skipped, what was broken off goes on, and the
time is kept."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from foldrace.analysis.study.plan import PARTS, QUICK, Stage, StudyPart, StudyProgress
from foldrace.analysis.study.run import begin_study, run_study
from foldrace.errors import InputError, StateError

TWO = (
    StudyPart("one", "One", "1", "ae.yaml"),
    StudyPart("two", "Two", "2", "ae.yaml", stages=(Stage.SWEEP, Stage.REPORTS)),
)


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fakes:
    """Notes each stage, takes ten seconds for it, and is interrupted at one of them."""

    def __init__(self, clock: Clock, interrupted_at: tuple[str, str] | None = None) -> None:
        self.calls: list[tuple[str, str]] = []
        self._clock, self._interrupted_at = clock, interrupted_at

    def _do(self, part: StudyPart, stage: str) -> None:
        self.calls.append((part.key, stage))
        self._clock.now += 10
        if (part.key, stage) == self._interrupted_at:
            raise KeyboardInterrupt

    def sweep(self, part: StudyPart) -> None:
        self._do(part, "sweep")

    def refit(self, part: StudyPart) -> None:
        self._do(part, "refit")

    def reports(self, part: StudyPart) -> None:
        self._do(part, "reports")


ALL = [
    ("one", "sweep"),
    ("one", "refit"),
    ("one", "reports"),
    ("two", "sweep"),
    ("two", "reports"),
]


def test_every_stage_runs_once_in_order_and_is_timed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "foldrace")
    clock = Clock()
    progress = StudyProgress.open(tmp_path, [])
    fakes = Fakes(clock)
    run_study(TWO, progress, fakes, clock)
    assert fakes.calls == ALL
    assert progress.seconds == {
        "one": {"sweep": 10, "refit": 10, "reports": 10},
        "two": {"sweep": 10, "reports": 10},
    }
    assert (progress.spent(TWO[1]), progress.total) == (20, 50)
    assert "[1/2] One: sweep" in caplog.messages
    assert caplog.messages[-1] == "[2/2] Two: done, 0:20; the study so far 0:50"


def test_what_is_done_is_skipped_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "foldrace")
    clock = Clock()
    run_study(TWO, StudyProgress.open(tmp_path, []), Fakes(clock), clock)
    caplog.clear()
    again = Fakes(clock)
    run_study(TWO, StudyProgress.open(tmp_path, []), again, clock)
    assert not again.calls
    assert caplog.messages == [
        "[1/2] One: already done, in 0:30",
        "[2/2] Two: already done, in 0:20",
    ]


@pytest.mark.parametrize("at", range(len(ALL)))
def test_it_goes_on_with_the_stage_that_was_broken_off(tmp_path: Path, at: int) -> None:
    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        run_study(
            TWO, StudyProgress.open(tmp_path, []), Fakes(clock, interrupted_at=ALL[at]), clock
        )
    rest = Fakes(clock)
    progress = StudyProgress.open(tmp_path, [])
    run_study(TWO, progress, rest, clock)
    assert rest.calls == ALL[at:]
    part, stage = ALL[at]
    assert progress.seconds[part][stage] == 20, "both sessions count"
    assert progress.total == 60


def test_a_stage_that_fails_is_not_done(tmp_path: Path) -> None:
    class Failing(Fakes):
        def refit(self, part: StudyPart) -> None:
            raise StateError("no")

    with pytest.raises(StateError):
        run_study(TWO, StudyProgress.open(tmp_path, []), Failing(Clock()), Clock())
    progress = StudyProgress.open(tmp_path, [])
    assert [progress.has(TWO[0], stage) for stage in Stage] == [True, False, False]


# --- options -------------------------------------------------------------------------------------


def test_a_study_goes_on_with_the_options_that_it_began_with(tmp_path: Path) -> None:
    begin_study(tmp_path, QUICK).save()
    assert begin_study(tmp_path, []).overrides == QUICK
    assert begin_study(tmp_path, QUICK).overrides == QUICK
    with pytest.raises(StateError, match=r"other options .*--dir"):
        begin_study(tmp_path, ["epochs=1"])


def test_a_wrong_option_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epochs"):
        begin_study(tmp_path, ["epochs=0"])
    with pytest.raises(InputError, match="epochs"):
        begin_study(tmp_path, ["vae:epochs=0"])
    assert not list(tmp_path.iterdir())


def test_an_option_can_be_for_one_part(tmp_path: Path) -> None:
    epochs = {part.key: part.spec(["epochs=4", "vae:epochs=7"]).epochs for part in PARTS}
    assert epochs == {"ae": 4, "ae4": 4, "optimizers": 4, "vae": 7}


def test_an_option_for_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="aee"):
        begin_study(tmp_path, ["aee:epochs=7"])


def test_a_damaged_progress_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(StateError, match=r"study\.json"):
        begin_study(tmp_path, [])


# --- the study's own files -----------------------------------------------------------------------


def test_the_parts_are_the_studys() -> None:
    specs = {part.key: part.spec([]) for part in PARTS}
    assert {spec.name for spec in specs.values()} == {
        "study-ae",
        "study-ae4",
        "study-optimizers",
        "study-vae",
    }
    assert {spec.folds.splits for spec in specs.values()} == {3}
    assert {key: spec.epochs for key, spec in specs.items()} == {
        "ae": 5,
        "ae4": 5,
        "optimizers": 3,
        "vae": 2,
    }
    assert {spec.dataset.name for spec in specs.values()} == {"fashion-mnist"}
    assert {spec.dataset.limit for spec in specs.values()} == {None}


def test_the_small_study_is_small() -> None:
    for part in PARTS:
        spec = part.spec(QUICK)
        assert (spec.dataset.limit, spec.epochs) == (3000, 2)


def test_a_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(InputError, match="--dir: /proc/study: cannot be written"):
        begin_study(Path("/proc/study"), [])
