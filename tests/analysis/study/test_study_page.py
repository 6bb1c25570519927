"""The study's page: what it says of a record whose figures are known, and how it does with
less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foldrace.analysis.records.comparison import read_comparison
from foldrace.analysis.records.tables import trials_table
from foldrace.analysis.records.vae import read_vae_record
from foldrace.analysis.reports.page import Figure, Paragraph, Raw, Report, Table, write_report
from foldrace.analysis.statistics.pca import LinearCode
from foldrace.analysis.statistics.verdict import judge
from foldrace.analysis.study.page import build_page
from foldrace.analysis.study.plan import PARTS, StudyProgress
from foldrace.analysis.study.record import PartRecord, StudyRecord
from foldrace.analysis.study.results import study_results
from foldrace.search.recording.schema import Outcome
from tests.helpers.comparisons import Arm, Plan, record_comparison
from tests.helpers.vae_sweeps import evidence, record_refit, record_sweep

KEYS = {part.key: part for part in PARTS}


def autoencoder(key: str, size: int, mse: float, run: Any) -> PartRecord:
    row = {
        "trial": 0,
        "status": "completed",
        "phase": "",
        "val_loss": 0.02,
        "val_mse": 0.02,
        "train_mse": 0.021,
    }
    trials = pd.DataFrame(
        [
            {**row, "params.latent_dim": str(size), "params.lr": "0.003"},
            {"status": "pruned", "phase": ""},
        ]
    )
    images = np.full((16, 1, 8, 8), 90, np.uint8)
    kept = {"images": images, "first_reconstructions": images}
    pages = {"sweep": f"study-{key}/report/sweep.html"}
    return PartRecord(
        KEYS[key], KEYS[key].spec([]), run, trials, (0.019, 0.021), {"mse": mse}, kept, pages
    )


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    folder = tmp_path_factory.mktemp("study")
    plan = Plan(search=2, repeats=2, folds=2, epochs=1)
    client, compared = record_comparison(
        folder, {"adam": Arm(), "sgd": Arm(floor=0.04, own=1)}, plan
    )
    comparison = read_comparison(client, compared)
    recorder, vae = record_sweep(
        client, folder, [{"outcome": Outcome.COMPLETED, "rate": 6.0, "distortion": 8.0}]
    )
    record_refit(client, recorder, evidence(), folder)
    linear = {
        size: LinearCode(size, mse, np.zeros((16, 1, 8, 8), np.uint8))
        for size, mse in ((4, 0.03), (16, 0.018))
    }
    seconds = {"ae": {"sweep": 60.0, "refit": 20.0}, "vae": {"sweep": 20.0}}
    parts = {
        "ae": autoencoder("ae", 16, 0.0135, compared),
        "ae4": autoencoder("ae4", 4, 0.0225, compared),
        "optimizers": PartRecord(
            KEYS["optimizers"],
            KEYS["optimizers"].spec([]),
            compared,
            trials_table(client, compared),
        ),
        "vae": PartRecord(
            KEYS["vae"],
            KEYS["vae"].spec([]),
            vae,
            trials_table(client, vae),
            test={"squared_error": 18.0, "kl": 6.5},
            evidence=evidence(),
        ),
    }
    return StudyRecord(
        dataset="fashion-mnist",
        samples=60_000,
        test_samples=10_000,
        parts=parts,
        linear=linear,
        progress=StudyProgress(folder / "study.json", ("epochs=5",), seconds),
        environment={"cpus": 2, "git_revision": "abc", "packages": {"torch": "2"}},
        comparison=comparison,
        verdict=judge(comparison),
        vae=read_vae_record(client, vae),
    )


@pytest.fixture(scope="module")
def report(record: StudyRecord) -> Report:
    return build_page(record)


def blocks(report: Report, kind: type) -> list[Any]:
    return [
        block for section in report.sections for block in section.blocks if isinstance(block, kind)
    ]


def test_our_results_stand_beside_the_studys(record: StudyRecord) -> None:
    rows = {what: (study, here) for what, study, here in study_results(record)}
    assert rows["autoencoder: test MSE, code of 16"] == (
        "0.021467 (code size not stated)",
        "0.01350",
    )
    assert rows["PCA: test MSE, 4 components"] == ("–", "0.03000")
    assert rows["autoencoder: validation MSE over 3 folds"] == (
        "about 0.0256",
        "0.02000 ± 0.00100",
    )
    assert rows["its learning rate"][1] == "0.00300, searched from 0.0005 to 0.03"
    assert rows["VAE: validation loss, fold by fold"][1] == "16.00, 16.32, 16.64 nats per image"
    assert rows["VAE: test loss, squared error + KL"][1] == "18.00 + 6.50 = 24.50"
    assert rows["time"] == ("50 to 60 minutes", "1:40 on 2 cores")


def test_the_lead_compares_with_the_study_and_with_pca(report: Report) -> None:
    lead = report.lead
    assert "test MSE is 0.0135 (the study: 0.0215; 16 principal components: 0.0180)" in lead
    assert "adam" in lead


def test_it_has_a_picture_of_each_part_and_links_to_the_reports(
    report: Report, tmp_path: Path
) -> None:
    names = [figure.name for figure in blocks(report, Figure)]
    assert {
        "against-linear",
        "reconstructions",
        "standings",
        "vae-folds",
        "prior-samples",
        "wall-clock",
    } <= set(names)
    html = write_report(report, tmp_path).read_text()
    assert (
        'href="study-ae/report/sweep.html"' in html
        and 'href="study-ae4/report/sweep.html"' in html
    )
    assert html.count("<svg") == len(names)


def test_each_flaw_has_its_answer(report: Report) -> None:
    [flaws] = [
        table for table in blocks(report, Table) if table.title.startswith("What went wrong")
    ]
    assert len(flaws.rows) == 5
    assert flaws.rows[0][2] == "folds: 16.00, 16.32, 16.64"
    assert flaws.rows[2][2].startswith("1 of 2 trials pruned")
    assert flaws.rows[3][2] == "best trial's MSE: 0.02100 in training, 0.02000 in validation"


def test_the_shares_of_the_time_are_drawn(report: Report) -> None:
    [figure] = [figure for figure in blocks(report, Figure) if figure.name == "wall-clock"]
    assert "took 80\u00a0%" in figure.caption


def test_other_data_are_not_compared_with_the_studys(record: StudyRecord) -> None:
    report = build_page(replace(record, dataset="digits", samples=1617))
    assert "the study" not in report.lead.partition(".")[0]
    assert "for orientation only" in blocks(report, Table)[0].caption


def test_before_anything_has_run_it_says_so(record: StudyRecord, tmp_path: Path) -> None:
    report = build_page(
        replace(
            record,
            parts={},
            comparison=None,
            verdict=None,
            vae=None,
            progress=StudyProgress(tmp_path / "study.json"),
        )
    )
    assert "not come far enough" in report.lead
    assert not blocks(report, Figure) and not blocks(report, Raw)
    assert len(blocks(report, Paragraph)) >= 4
    write_report(report, tmp_path)


def test_without_a_winner_a_part_is_left_out(record: StudyRecord, tmp_path: Path) -> None:
    ae = record.parts["ae"]
    failed = pd.DataFrame([{"trial": 0, "status": "failed", "phase": "", "val_loss": np.nan}])
    parts = {**record.parts, "ae": replace(ae, trials=failed, folds=(), test={}, evidence={})}
    report = build_page(replace(record, parts=parts))
    assert "With a code of 4 numbers" in report.lead
    assert any("1 failed trial" in text.text for text in blocks(report, Paragraph))
    write_report(report, tmp_path)
