"""Policies replayed over curves: figures that can be checked by hand, and the command line."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrace.analysis.records.recorded_curves import Curves
from foldrace.analysis.simulate.policies import POLICIES, STANDARD
from foldrace.analysis.simulate.scaling import scale, scaling_json
from foldrace.analysis.simulate.simulator import rank_correlations, simulate
from foldrace.cli import messages
from foldrace.cli.app import main
from foldrace.errors import InputError
from foldrace.trainables.training.ladder import Rung

ROOT = Path(__file__).parents[3]
QUARTILES = {"q1", "median", "q3"}


def power_laws(count: int = 12, folds: int = 3, epochs: int = 9, seed: int = 0) -> Curves:
    """Curves that fall to a level of their own, with a little noise."""
    random = np.random.default_rng(seed)
    level, height, speed = random.uniform((0.1, 0.1, 0.4), (0.5, 1.0, 1.5), (count, 3)).T[
        :, :, None, None
    ]
    loss = (
        level
        + height * np.arange(1, epochs + 1) ** -speed
        + random.normal(0, 0.005, (count, folds, epochs))
    )
    return Curves(loss, random.uniform(0.5, 2.0, loss.shape))


def constant(scores: list[float], folds: int = 1, epochs: int = 1) -> Curves:
    loss = np.broadcast_to(np.array(scores)[:, None, None], (len(scores), folds, epochs)).copy()
    return Curves(loss, np.full(loss.shape, 2.0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    power_laws().save(tmp_path / "curves.npz")
    return tmp_path / "curves.npz"


def test_fifo_by_hand() -> None:
    """Four configurations of 6 fold-epochs; any but the worst is a top-3 one: it is the first, or
    the second."""
    curves = constant([0.1, 0.2, 0.3, 0.5], folds=2, epochs=3)
    result = simulate(curves, ["fifo"], orders=400).policies["fifo"]
    assert set(result.fold_epochs_to_top) == {6.0, 12.0}
    assert set(result.seconds_to_top) == {12.0, 24.0}
    assert (
        0.18 < (result.fold_epochs_to_top == 12).mean() < 0.32
    )  # one order in four begins with the worst
    assert result.total_fold_epochs.tolist() == [24.0] * 400
    assert result.total_seconds.tolist() == [48.0] * 400
    assert (result.final_regret == 0).all() and result.best_kept == 1.0
    # 40 % of 24 are 9.6: one is in. Regrets of 0, 1, 2, 4 times the best
    assert set(np.round(result.regret[0.4], 9)) == {0.0, 1.0, 2.0, 4.0}


def test_before_anything_is_evaluated_in_full_the_regret_is_that_of_any_configuration() -> None:
    curves = constant([0.1, 0.2, 0.3, 0.4, 0.9], folds=2, epochs=3)
    result = simulate(curves, ["fifo"], orders=20).policies["fifo"]
    np.testing.assert_allclose(result.regret[0.05], 2.0)  # 1.5 fold-epochs; the median is 0.3
    assert result.without_winner == {0.05: 1.0, 0.1: 1.0, 0.2: 0.0, 0.4: 0.0}
    assert (
        result.regret_curve.mean[0] == pytest.approx(2.0) and result.regret_curve.mean[-1] == 0.0
    )
    assert result.regret_curve.fold_epochs[-1] == pytest.approx(30.0)


def test_what_is_never_found_is_infinite_and_null_in_json() -> None:
    """ASHA gives way to one that diverges later: every other is stopped, and no top-3 one is
    evaluated in full."""
    curves = constant([0.0, 0.5, 0.6, 0.7], epochs=3)
    curves.loss[0, 0, 2] = math.nan
    scheduler = simulate(curves, ["stopping-lockstep"], orders=64)
    result = scheduler.policies["stopping-lockstep"]
    lost = np.isinf(result.fold_epochs_to_top)
    assert 0 < lost.mean() < 1  # those in which the treacherous one came first
    told = scheduler.to_json()["policies"]["stopping-lockstep"]
    shown = [told["fold_epochs_to_top3"][name] for name in ("q1", "median", "q3")]
    expected = np.quantile(result.fold_epochs_to_top, (0.25, 0.5, 0.75), method="lower")
    assert shown == [value if math.isfinite(value) else None for value in expected]
    assert "Infinity" not in json.dumps(told) and "NaN" not in json.dumps(told)


def test_losses_below_zero_and_a_best_of_zero_have_a_regret() -> None:
    below = simulate(constant([-4.0, -2.0]), ["fifo"], orders=50).policies["fifo"]
    assert set(below.regret[0.4]) == {
        0.25
    }  # 0.8 of 2 fold-epochs: nothing yet; the median is −3, of −4
    zero = simulate(constant([0.0, 3.0, 3.0]), ["fifo"], orders=50).policies["fifo"]
    assert set(zero.regret[0.4]) == {0.0, 3.0}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_finds_a_winner_within_the_cost_of_all(name: str) -> None:
    curves = power_laws(18)
    result = simulate(curves, [name], orders=5, workers=3).policies[name]
    assert np.isfinite(result.seconds_to_top).any()
    assert (result.total_fold_epochs <= curves.loss.size).all()
    assert result.best_kept > 0 and result.regret_curve.mean[-1] < result.regret_curve.mean[0]
    assert (result.final_regret >= 0).all()


def test_the_default_reaches_a_good_configuration_sooner_than_full_cross_validation() -> None:
    found = simulate(power_laws(60, seed=3), ["fifo", "default"], orders=20).policies
    default, fifo = (np.median(found[name].fold_epochs_to_top) for name in ("default", "fifo"))
    assert default < fifo / 2


def test_rank_correlations_by_hand() -> None:
    curves = constant([0.1, 0.2, 0.3, 0.4], folds=2, epochs=2)
    curves.loss[:, 0, 0] = [4, 3, 2, 1]
    curves.loss[:, 1, 0] = 7
    found = rank_correlations(curves, [Rung(1, 1), Rung(1, 2), Rung(2, 2)])
    assert [round(value, 9) for value in found.values()] == [-1.0, 1.0, 1.0]
    curves.loss[:, 0, 0] = 7
    assert math.isnan(rank_correlations(curves, [Rung(1, 1)])[Rung(1, 1)])


def test_more_workers_take_less_time_and_beyond_one_each_nothing_changes() -> None:
    curves = power_laws(12)
    found = scale(curves, ["fifo", "default"], workers=(1, 4, 12, 16, 512), orders=5)
    fifo = [
        float(np.median(simulation.policies["fifo"].total_seconds))
        for simulation in found.values()
    ]
    assert fifo[0] > 2 * fifo[1] > fifo[2] == fifo[3] == fifo[4]
    direct = simulate(curves, ["default"], workers=512, orders=5).to_json()
    assert direct["policies"]["default"] == found[512].to_json()["policies"]["default"]
    told = scaling_json(found)
    assert list(told) == ["fifo", "default"] and list(told["fifo"]) == [
        "1",
        "4",
        "12",
        "16",
        "512",
    ]


# --- the command line ----------------------------------------------------------------------------


def asked(file: Path, *options: str, seed_of_hashes: str = "0") -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "foldrace",
            "simulate",
            str(file),
            "--orders",
            "6",
            "--json",
            *options,
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed_of_hashes},
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def test_the_same_seed_gives_the_same_json_in_any_process(file: Path) -> None:
    one, two = (asked(file, "--workers", "3", seed_of_hashes=hashes) for hashes in ("1", "2"))
    assert one == two
    assert one.count("\n") == 1


def test_json_has_these_keys(
    file: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "foldrace")
    assert main(["simulate", str(file), "--orders", "4", "--json"]) == 0
    captured = capsys.readouterr()
    told: Mapping[str, Any] = json.loads(captured.out.splitlines()[-1])
    assert list(told) == ["configurations", "folds", "epochs", "orders", "workers", "policies"]
    assert [told[key] for key in list(told)[:5]] == [12, 3, 9, 4, 1]
    assert tuple(told["policies"]) == STANDARD
    for result in told["policies"].values():
        required = {
            "fold_epochs_to_top3",
            "regret",
            "final_regret",
            "best_kept",
            "total_fold_epochs",
        }
        assert required | {"seconds_to_top3", "without_winner", "total_seconds"} == set(result)
        assert set(result["fold_epochs_to_top3"]) == QUARTILES
        assert list(result["regret"]) == ["0.05", "0.1", "0.2", "0.4"]
    assert "default: promotion" in caplog.text and "Rank correlation" in captured.err


def test_the_tables_fit_100_columns(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(messages.out, "_width", 100)
    assert main(["simulate", str(file), "--orders", "4", "--policies", "all", "--scaling"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100 and "…" not in printed
    assert all(f"│ {name} " in printed for name in POLICIES)


def test_figures_are_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = file.parent / "figures"
    options = [
        "--orders",
        "4",
        "--scaling",
        "-o",
        str(folder),
        "--json",
        "--policies",
        "fifo,default",
    ]
    assert main(["simulate", str(file), *options]) == 0
    assert {path.name for path in folder.iterdir()} == {
        "regret.png",
        "regret.svg",
        "scaling.png",
        "scaling.svg",
    }
    assert all(path.stat().st_size > 5_000 for path in folder.iterdir())
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(told["scaling"]["default"]) == {str(2**power) for power in range(10)}


def test_figures_of_the_smallest_table(tmp_path: Path) -> None:
    constant([0.1, 0.1]).save(tmp_path / "c.npz")
    assert (
        main(["simulate", str(tmp_path / "c.npz"), "--orders", "1", "-o", str(tmp_path / "f")])
        == 0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--policies", "fifo,defalt"],
            "--policies: defalt: is not a policy; did you mean 'default'?",
        ),
        (["--workers", "0"], "--workers: 0: must be a whole number at least 1"),
        (["--orders", "0"], "--orders: 0: must be a whole number at least 1"),
        (["--output", "curves.npz"], "--output: curves.npz: is a file"),
        (["--seed", "-1"], "--seed"),
        (["--workers", "two"], "--workers"),
    ],
)
def test_wrong_options_are_refused(
    file: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(file.parent)
    assert main(["simulate", str(file), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err
    assert list(file.parent.iterdir()) == [file]


def test_simulate_itself_checks_its_numbers() -> None:
    for wrong in ({"workers": 0}, {"orders": -1}, {"policies": ["asha"]}):
        with pytest.raises(InputError):
            simulate(power_laws(), **wrong)  # type: ignore[arg-type]
