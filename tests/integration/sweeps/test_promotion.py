"""A race on a real Ray: it goes as the simulator says that it would, and changes no number."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.analysis.simulate.virtual_tune import RecordedSteps, VirtualTune
from foldrace.search.scheduling.asha import Race
from foldrace.search.scheduling.bracket import Rule
from foldrace.search.scheduling.promotion import PromotionScheduler
from foldrace.trainables.training.ladder import Rung
from tests.helpers.sweeps import QUICK, SMALL_DIGITS, Swept, environment, run_here
from tests.integration.conftest import interrupt

TRIALS, EPOCHS, FOLDS = 12, 4, 3
LADDER = (Rung(1, 1), Rung(1, 3), Rung(1, 4), Rung(3, 4))
SWEEP = [
    SMALL_DIGITS,
    f"epochs={EPOCHS}",
    "space.lr={log: [1e-5, 2e-2]}",
    f"search={{sampler: random, trials: {TRIALS}, seed: 3, max_concurrent_trials: 1}}",
]


@pytest.fixture(scope="module")
def full(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Every configuration on all folds to the last epoch."""
    overrides = [*SWEEP, "scheduler.kind=fifo", "search.max_concurrent_trials=2"]
    return run_here(QUICK, tmp_path_factory.mktemp("full"), overrides, cluster.address)


@pytest.fixture(scope="module")
def race(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The same configurations in a race, one at a time."""
    overrides = [*SWEEP, "scheduler={kind: promotion}"]
    return run_here(QUICK, tmp_path_factory.mktemp("race"), overrides, cluster.address)


@pytest.fixture(scope="module")
def curves(full: Swept) -> Curves:
    loss = np.full((TRIALS, FOLDS, EPOCHS), np.nan)
    for (trial, fold), run in full.record.folds.items():
        for epoch, value in full.record.history(run, "val_loss").items():
            loss[trial, fold, epoch - 1] = value
    return Curves(loss, np.ones(loss.shape))


def costs(swept: Swept) -> dict[int, int]:
    return {
        number: max(swept.record.history(run, "epoch"))
        for number, run in swept.record.trials.items()
    }


@pytest.mark.slow
def test_a_race_on_ray_goes_as_the_simulator_predicts(race: Swept, curves: Curves) -> None:
    assert race.status == 0, race.err
    scheduler = PromotionScheduler("predicted", Race(LADDER, Rule(), trials=TRIALS))
    predicted = VirtualTune(scheduler, RecordedSteps(curves, LADDER), range(TRIALS), 1)
    completions = predicted.run()
    reached = {number: len(runner.losses) for number, runner in scheduler.race.runners.items()}
    spent = {number: LADDER[rungs - 1].cost for number, rungs in reached.items()}
    assert costs(race) == spent
    assert race.result["fold_epochs"] == predicted.fold_epochs == sum(spent.values())
    assert race.result["trials"]["completed"] == len(completions)
    best = min(completions, key=lambda completion: float(curves.final[completion.configuration]))
    assert race.result["best"]["trial"] == best.configuration


@pytest.mark.slow
def test_a_race_changes_no_number_of_any_fold(full: Swept, race: Swept) -> None:
    assert race.record.params == full.record.params

    def folds(swept: Swept) -> dict[tuple[object, ...], float]:
        return {key: value for key, value in swept.record.numbers.items() if "fold" in str(key[0])}

    ours, whole = folds(race), folds(full)
    assert 0 < len(ours) < len(whole)
    assert ours == {key: whole[key] for key in ours}


def test_the_winner_has_all_folds_and_the_others_say_where_they_were_given_up(race: Swept) -> None:
    record, best = race.record, race.result["best"]
    assert len(best["val_loss"]["folds"]) == FOLDS
    assert record.trials[best["trial"]].info.status == "FINISHED"
    given_up = {
        number: run for number, run in record.trials.items() if run.info.status == "KILLED"
    }
    assert len(given_up) == race.result["trials"]["pruned"] >= TRIALS / 2
    for number, run in given_up.items():
        at = {1: "epoch 1 of 1 fold", 3: "epoch 3 of 1 fold", 4: "epoch 4 of 1 fold"}[
            costs(race)[number]
        ]
        assert run.data.tags["foldrace.pruned_at"] == f"pruned at {at}"
        assert [fold for trial, fold in record.folds if trial == number] == [0]


def test_optunas_study_in_the_sweeps_folder_tells_every_trial_as_it_was(race: Swept) -> None:
    [journal] = Path(race.root).glob("*/optuna.log")
    storage = JournalStorage(JournalFileBackend(str(journal)))
    [summary] = optuna.study.get_all_study_summaries(storage)
    study = optuna.load_study(study_name=summary.study_name, storage=storage)
    assert len(study.trials) == TRIALS
    for trial in study.trials:
        run = race.record.trials[trial.user_attrs["trial"]]
        losses = race.record.history(run, "val_loss")
        told = (
            trial.intermediate_values
        )  # what was reported: every rung, and between two of them what took long
        assert told.items() <= losses.items()
        assert {rung.cost for rung in LADDER} & losses.keys() <= told.keys()
        if run.info.status == "FINISHED":
            assert (trial.state.name, trial.value) == ("COMPLETE", losses[FOLDS * EPOCHS])
        else:
            assert (trial.state.name, run.info.status) == ("PRUNED", "KILLED")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "least", "most"),
    [("fold_epochs=30", 12, 30), ("target=0.5", 12, 60), ("time_budget=0.1s", 12, 40)],
)
def test_a_budget_ends_a_race_with_a_winner_that_has_all_folds(
    limit: str, least: int, most: int, cluster: Any, tmp_path: Path
) -> None:
    swept = run_here(
        QUICK,
        tmp_path,
        [*SWEEP, "search.max_concurrent_trials=2", f"search.{limit}"],
        cluster.address,
    )
    assert swept.status == 0, swept.err
    assert len(swept.result["best"]["val_loss"]["folds"]) == FOLDS
    assert least <= swept.result["fold_epochs"] <= most
    assert swept.result["trials"]["completed"] >= 1
    assert {run.info.status for run in swept.record.runs} <= {"FINISHED", "KILLED"}


@pytest.mark.slow
@pytest.mark.parametrize("when", [r"trial \d+ completed"])
def test_a_race_that_was_interrupted_ends_as_if_it_had_not_been(
    race: Swept, when: str, tmp_path: Path
) -> None:
    before, _ = interrupt(tmp_path, [*SWEEP, "scheduler={kind: promotion}"], when)
    assert before.status == 130 and len(before.record.trials) < TRIALS + 1
    line = [
        sys.executable,
        "-m",
        "foldrace",
        "resume",
        "--dir",
        str(tmp_path),
        "--data-dir",
        str(tmp_path / "data"),
    ]
    done = subprocess.run(
        [*line, "--json"], env=environment(), capture_output=True, text=True, timeout=150
    )
    after = Swept(done.returncode, done.stdout, done.stderr, tmp_path)
    assert after.status == 0, after.err
    assert after.record.params == race.record.params
    assert costs(after) == costs(race)
    assert after.record.numbers == race.record.numbers
    statuses = {
        run.info.run_name: run.info.status
        for run in race.record.runs
        if "trial" in run.info.run_name
    }
    assert {name: status_of(after, name) for name in statuses} == statuses
    unlike = {"run_id", "tracking_uri", "wall_seconds"}
    assert {k: v for k, v in after.result.items() if k not in unlike} == {
        k: v for k, v in race.result.items() if k not in unlike
    }


def status_of(swept: Swept, name: str) -> str:
    [run] = [run for run in swept.record.runs if run.info.run_name == name]
    return str(run.info.status)
