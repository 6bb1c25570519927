"""A comparison in real Tune and MLflow: equal cost, paired repeats, and an end in every case."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from foldrace.cli.app import main
from foldrace.cli.messages import FAILED_TRIALS
from foldrace.cli.views import PlainView
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.work import make_work
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.sweeps.run import run_sweep
from foldrace.search.tune.comparison_search import make_comparison_search
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable
from tests.helpers.sweeps import Swept, run_here

pytestmark = pytest.mark.slow

ARMS = ("adam", "adam-again", "sgd")
TRIALS, REPEATS, FOLDS, EPOCHS = 3, 2, 3, 2
CANDIDATES = len(ARMS) * (1 + TRIALS)
TOTAL = CANDIDATES + len(ARMS) * REPEATS


def tags(swept: Swept, number: int) -> dict[str, str]:
    found = swept.record.trials[number].data.tags
    return {
        name.removeprefix("foldrace."): value
        for name, value in found.items()
        if name.startswith("foldrace.")
    }


def test_it_says_what_it_is_and_ends_well(comparison_sweep: Swept) -> None:
    assert comparison_sweep.status == 0, comparison_sweep.err
    first = comparison_sweep.err.splitlines()[0]
    assert first.startswith(
        "3 arms × (1 default + 3 random trials + 2 repeats) of autoencoder on digits (480 samples)"
    )
    assert comparison_sweep.result["trials"] == {"completed": TOTAL, "pruned": 0, "failed": 0}
    assert comparison_sweep.result["fold_epochs"] == TOTAL * FOLDS * EPOCHS
    assert comparison_sweep.record.sweep.data.tags["foldrace.kind"] == "comparison"


def test_every_trial_is_tagged_with_its_part(comparison_sweep: Swept) -> None:
    assert sorted(comparison_sweep.record.trials) == list(range(TOTAL))
    for number in range(TOTAL):
        found = tags(comparison_sweep, number)
        if number < CANDIDATES:
            expected = (ARMS[number % 3], "default" if number < 3 else "search", None)
        else:
            arm, repeat = divmod(number - CANDIDATES, REPEATS)
            expected = (ARMS[arm], "repeat", str(repeat + 1))
        assert (found["arm"], found["phase"], found.get("repeat")) == expected
        for fold in range(FOLDS):
            assert (
                comparison_sweep.record.folds[number, fold].data.tags["foldrace.arm"]
                == expected[0]
            )


def test_every_arm_gets_the_same_fold_epochs(comparison_sweep: Swept) -> None:
    spent: Counter[str] = Counter()
    for run in comparison_sweep.record.level("fold"):
        spent[run.data.tags["foldrace.arm"]] += int(run.data.tags["foldrace.epochs"])
    assert spent == dict.fromkeys(ARMS, (1 + TRIALS + REPEATS) * FOLDS * EPOCHS)


def test_an_arms_best_is_repeated_and_the_answer_says_so(comparison_sweep: Swept) -> None:
    record, answer = comparison_sweep.record, comparison_sweep.result["arms"]
    assert tuple(answer) == ARMS
    for place, (arm, said) in enumerate(answer.items()):
        numbers = range(place, CANDIDATES, len(ARMS))
        losses = {number: record.trials[number].data.metrics["val_loss"] for number in numbers}
        best = min(losses, key=lambda number: losses[number])
        assert (said["best_trial"], said["val_loss"], said["default"]) == (
            best,
            losses[best],
            losses[place],
        )
        repeats = [CANDIDATES + place * REPEATS + repeat for repeat in range(REPEATS)]
        assert all(record.params[number] == record.params[best] for number in repeats), arm
        folds = [
            [record.folds[n, k].data.metrics["val_loss"] for k in range(FOLDS)] for n in repeats
        ]
        assert said["repeats"]["losses"] == folds
        assert said["repeats"]["mean"] == pytest.approx(np.mean(folds))
    assert answer["sgd"]["repeats"]["mean"] > 2 * answer["adam"]["repeats"]["mean"]


def test_the_best_of_all_is_no_repeat(comparison_sweep: Swept) -> None:
    best = comparison_sweep.result["best"]
    arms = comparison_sweep.result["arms"]
    assert best["trial"] < CANDIDATES
    assert best["val_loss"]["mean"] == min(arm["val_loss"] for arm in arms.values())
    assert comparison_sweep.record.sweep.data.tags["foldrace.best_trial"] == str(best["trial"])


def test_repeats_are_paired_across_arms_and_new_each_time(comparison_sweep: Swept) -> None:
    """Repeat s of any arm is what training its configuration on the folds of s with the seed of s
    gives."""
    folder = comparison_sweep.root / "comparison"
    prepared = prepare(load_spec(folder / "sweep.yaml"), comparison_sweep.root / "data")
    work = make_work(prepared)
    splits = [work.splits, *work.repeat_splits]
    assert len({tuple(split[0].validation.tolist()) for split in splits}) == 1 + REPEATS
    for arm in ("adam", "adam-again"):
        params = comparison_sweep.result["arms"][arm]["params"]
        for repeat in range(1, REPEATS + 1):
            cv = work.cross_validation(params, work.samples_on(), repeat)
            while not cv.finished:
                cv.advance()
            expected = comparison_sweep.result["arms"][arm]["repeats"]["losses"][repeat - 1]
            assert [fold.val_loss for fold in cv.report().folds] == expected
    repeats = {
        arm: np.array(said["repeats"]["losses"])
        for arm, said in comparison_sweep.result["arms"].items()
    }
    assert len(np.unique(repeats["adam"])) == REPEATS * FOLDS
    # what one fold has that another has not moves both arms alike
    assert np.corrcoef(repeats["adam"].ravel(), repeats["adam-again"].ravel())[0, 1] > 0


def test_the_arms_show_the_same_test_images(comparison_sweep: Swept, tmp_path: Path) -> None:
    path = comparison_sweep.record.artifacts(
        comparison_sweep.record.sweep, "comparison.npz", tmp_path
    )
    prepared = prepare(load_spec(comparison_sweep.root / "comparison" / "sweep.yaml"), tmp_path)
    with np.load(path, allow_pickle=False) as kept:
        assert tuple(kept["arms"]) == ARMS
        images, made = kept["images"], kept["reconstructions"]
    assert (images.dtype, made.dtype) == (np.uint8, np.uint8)
    assert made.shape == (3, 12, 1, 12, 12)
    assert np.array_equal(images, prepared.dataset.test_images[:12])
    errors = ((made.astype(float) - images) ** 2).mean((1, 2, 3, 4))
    assert max(errors[:2]) < errors[2] / 2


def test_the_best_of_all_can_be_refitted(
    comparison_sweep: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [
        "--dir",
        str(comparison_sweep.root),
        "--data-dir",
        str(comparison_sweep.root / "data"),
        "--json",
    ]
    assert main(["refit", "comparison", *places]) == 0
    refitted = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert refitted["test"]["mse"] < 2 * comparison_sweep.result["best"]["val_loss"]["mean"]


# --- ends other than the good one ----------------------------------------------------------------

SMALL = """
kind: comparison
name: small
dataset: {name: digits, limit: 120, size: [12, 12]}
epochs: 1
space: {latent_dim: 4, width: 4, hidden: 32, batch_size: 32}
comparison:
  arms: {adam: {space: {lr: {log: [1.0e-3, 1.0e-2]}}}, sgd: {space: {lr: {log: [1.0e-3, 1.0]}}}}
  repeats: 2
search: {trials: 1, sampler: qmc}
"""
HOPELESS = "comparison.arms.sgd={space: {lr: {log: [1.0e+8, 1.0e+9]}}, defaults: {lr: 1.0e+9}}"


def written(folder: Path) -> Path:
    spec = folder / "small.yaml"
    spec.write_text(SMALL)
    return spec


def test_an_arm_that_fails_altogether_has_no_repeats_and_the_sweep_ends(
    cluster: Any, tmp_path: Path
) -> None:
    swept = run_here(
        written(tmp_path), tmp_path, [HOPELESS, "divergence.patience=1"], cluster.address
    )
    assert swept.status == FAILED_TRIALS, swept.err
    assert swept.result["trials"] == {"completed": 4, "pruned": 0, "failed": 2}
    assert sorted(swept.record.trials) == [0, 1, 2, 3, 4, 5]
    assert (swept.record.trials[1].info.status, swept.record.trials[3].info.status) == (
        "FAILED",
        "FAILED",
    )
    sgd = swept.result["arms"]["sgd"]
    assert (sgd["best_trial"], sgd["default"], sgd["repeats"]["losses"]) == (None, None, [])
    with np.load(swept.root / "small" / "comparison.npz") as kept:
        assert list(kept["arms"]) == ["adam"]


class Impatient(PlainView):
    """Interrupts the sweep once a first repeat has ended."""

    asked = False

    def update(self, ledger: TrialTable, changed: TrialRecord | None = None) -> None:
        super().update(ledger, changed)
        if not self.asked and any(
            not t.competes and t.status is TrialStatus.COMPLETED for t in ledger.records.values()
        ):
            self.asked = True
            os.kill(os.getpid(), signal.SIGINT)


def planned_losses(prepared: Prepared) -> dict[int, list[float]]:
    """Every trial's fold losses, by training the plan without Tune."""
    work, search = make_work(prepared), make_comparison_search(prepared)
    torch.set_num_threads(work.threads)
    losses: dict[int, list[float]] = {}
    while isinstance(config := search.suggest(str(len(losses))), dict):
        cv = work.cross_validation(config["params"], work.samples_on(), config["repeat"])
        while not cv.finished:
            cv.advance()
        search.on_trial_complete(
            str(len(losses)), {"finished": True, "val_loss": cv.report().metrics["val_loss"]}
        )
        losses[config["trial"]] = [fold.val_loss for fold in cv.report().folds]
    return losses


def test_an_interrupted_comparison_goes_on_with_the_trials_of_its_plan(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare(load_spec(written(tmp_path)), tmp_path)
    expected = planned_losses(prepared)
    assert sorted(expected) == list(range(8))
    with (tmp_path / "log").open("w") as log:
        result, _ = run_sweep(
            prepared,
            tmp_path,
            make_view=lambda: Impatient(Console(file=log)),
            address=cluster.address,
        )
    assert result.interrupted and sum(result.trials.values()) < 8
    places = [
        "--dir",
        str(tmp_path),
        "--data-dir",
        str(tmp_path),
        "--address",
        cluster.address,
        "--json",
    ]
    assert main(["resume", *places]) == 0
    resumed = Swept(0, capsys.readouterr().out, "", tmp_path)
    assert {run.info.status for run in resumed.record.runs} == {"FINISHED"}
    found = {key: run.data.metrics["val_loss"] for key, run in resumed.record.folds.items()}
    assert found == {
        (n, fold): loss for n, losses in expected.items() for fold, loss in enumerate(losses)
    }
    repeats = [arm["repeats"]["losses"] for arm in resumed.result["arms"].values()]
    assert repeats == [[expected[4], expected[5]], [expected[6], expected[7]]]
