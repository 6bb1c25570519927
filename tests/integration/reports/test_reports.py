"""Reports of a real sweep: what is made without a refit, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from foldrace.cli.app import main
from tests.helpers.sweeps import Swept


def call(
    swept: Swept, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    places = ["--dir", str(swept.root), "--data-dir", str(swept.root / "data")]
    status = main(["report", *arguments, *places])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_before_a_refit_the_sweep_s_own_report_is_made_and_logged(
    stopping: Swept, capsys: Any
) -> None:
    status, out, _ = call(stopping, capsys, "--json")
    assert status == 0
    made = json.loads(out.splitlines()[-1])
    assert set(made["reports"]) == {"sweep"}
    record = stopping.record
    logged = {
        item.path for item in record.client.list_artifacts(record.sweep.info.run_id, "reports")
    }
    assert {"reports/sweep.html", "reports/figures"} <= logged


def test_the_latent_space_of_any_trial_that_left_a_checkpoint(
    stopping: Swept, capsys: Any
) -> None:
    trial = next(
        number for number, run in stopping.record.trials.items() if run.info.status == "FINISHED"
    )
    status, out, err = call(stopping, capsys, "--trial", str(trial), "--json")
    assert status == 0, err
    [(kind, page)] = json.loads(out.splitlines()[-1])["reports"].items()
    assert kind == f"latent-trial-{trial}"
    assert f"trial {trial}, fold 0" in Path(page).read_text(encoding="utf-8")
    left = stopping.record.client.list_artifacts(stopping.record.trials[trial].info.run_id)
    assert "evidence.npz" in {item.path for item in left}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--trial", "99"), "no checkpoint of trial 99 here; trials with one: 0"),
        (("--trial", "0", "--kind", "vae"), "--trial"),
        (("--kind", "latents"), "did you mean 'latent'?"),
        (("--kind", "latent"), "refit quick"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_way_out(
    stopping: Swept, capsys: Any, arguments: tuple[str, ...], said: str
) -> None:
    status, _, err = call(stopping, capsys, *arguments)
    assert status == 2
    assert said in err
