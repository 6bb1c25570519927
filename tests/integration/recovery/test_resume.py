"""A sweep that was interrupted goes on: every trial ends, none twice, with the numbers that it
would have had."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.work import make_work
from foldrace.search.spec.sweep_spec import load_spec
from tests.helpers.sweeps import Swept, environment

pytestmark = pytest.mark.slow


def command(swept: Swept, *arguments: str) -> subprocess.CompletedProcess[str]:
    options = ["--dir", str(swept.root), "--data-dir", str(swept.root / "data"), "--json"]
    line = [sys.executable, "-m", "foldrace", *arguments, *options]
    return subprocess.run(
        line, cwd=swept.root, env=environment(), capture_output=True, text=True, timeout=150
    )


@pytest.fixture(scope="module")
def resumed(interrupted: tuple[Swept, dict[psutil.Process, str]]) -> tuple[Swept, Swept]:
    """The interrupted sweep, and the same after `foldrace resume`."""
    before = interrupted[0]
    assert before.record.runs  # read now: the store changes under it
    _ = before.record.numbers
    done = command(before, "resume")
    return before, Swept(done.returncode, done.stdout, done.stderr, before.root)


def test_every_trial_ends_and_none_is_recorded_twice(resumed: tuple[Swept, Swept]) -> None:
    before, after = resumed
    assert after.status == 0, after.err
    assert after.result["run_id"] == before.result["run_id"]
    assert after.result["trials"] == {"completed": 10, "pruned": 0, "failed": 0}
    assert sorted(after.record.trials) == list(range(10))
    assert len(after.record.level("fold")) == 10 * 3
    assert {run.info.status for run in after.record.runs} == {"FINISHED"}


def test_what_was_recorded_before_stands_and_every_epoch_stands_once(
    resumed: tuple[Swept, Swept],
) -> None:
    before, after = resumed
    numbers = after.record.numbers  # reading it asserts that no step is there twice
    for key, value in before.record.numbers.items():
        assert numbers[key] == value, key
    assert {key[2] for key in numbers if key[0] == "trial 0003 fold 1"} == {1, 2, 3, 4}


def test_the_trials_have_the_numbers_of_an_undisturbed_run(resumed: tuple[Swept, Swept]) -> None:
    before, after = resumed
    cut_off = [
        number for number, run in before.record.trials.items() if run.info.status == "KILLED"
    ]
    folder: Path = after.root / "quick"
    prepared = prepare(load_spec(folder / "sweep.yaml"), after.root / "data")
    work = make_work(prepared)
    torch.set_num_threads(work.threads)
    for number in [*cut_off[:2], 9]:
        given = {
            name: value
            for name, value in after.record.params[number].items()
            if name in prepared.space.tunable
        }
        typed = {
            name: prepared.task.declared[name].check(name, _number(text))
            for name, text in given.items()
        }
        params = {**_fixed(prepared), **typed}
        cv = work.cross_validation(params, work.samples_on())
        while not cv.finished:
            cv.advance()
        for fold in cv.report().folds:
            assert after.record.folds[number, fold.fold].data.metrics["val_loss"] == fold.val_loss


def test_resuming_again_says_that_it_has_ended(resumed: tuple[Swept, Swept]) -> None:
    again = command(resumed[1], "resume")
    assert again.returncode == 0 and "has ended" in again.stderr
    assert json.loads(again.stdout.splitlines()[-1]) == resumed[1].result


def test_a_sweep_that_was_broken_off_after_its_last_trial_keeps_them_all(
    resumed: tuple[Swept, Swept],
) -> None:
    (resumed[1].root / "quick" / "result.json").unlink()
    again = command(resumed[1], "resume")
    assert again.returncode == 0, again.stderr
    untimed = [
        {**json.loads(out.splitlines()[-1]), "wall_seconds": 0}
        for out in (again.stdout, resumed[1].out)
    ]
    assert untimed[0] == untimed[1]


def _number(text: str) -> float | int | str:
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value == int(value) and "." not in text else value


def _fixed(prepared: object) -> dict[str, object]:
    from foldrace.search.spec.distributions import Fixed

    return {
        name: entry.value
        for name, entry in prepared.space.entries.items()
        if isinstance(entry, Fixed)
    }  # type: ignore[attr-defined]
