"""The report on variational autoencoders: what it says of a record whose figures are known, and of
what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from foldrace.analysis.records.vae import read_vae_record
from foldrace.analysis.reports.page import Figure, Paragraph, Report, Table, write_report
from foldrace.analysis.reports.vae.report import build
from foldrace.search.recording.schema import Outcome
from tests.helpers.stores import new_store
from tests.helpers.vae_sweeps import CONSTANT, evidence, record_refit, record_sweep

COMPLETED = {"outcome": Outcome.COMPLETED, "rate": 6.0, "distortion": 8.0}
TRIALS = [
    {"outcome": Outcome.COMPLETED, "rate": 4.0, "distortion": 14.0, "beta": 4.0},
    {**COMPLETED, "beta": 1.0},
    {"outcome": Outcome.PRUNED, "rate": 9.0, "distortion": 15.0, "beta": 0.5},
    {"outcome": Outcome.FAILED},
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return new_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def sweep(client: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("sweep")
    recorder, run = record_sweep(client, folder, TRIALS)
    record_refit(client, recorder, evidence(), folder)
    return run


@pytest.fixture(scope="module")
def report(client: MlflowClient, sweep: Run) -> Report:
    return build(client, sweep)


def blocks(report: Report, kind: type) -> dict[str, Any]:
    found = [
        block for section in report.sections for block in section.blocks if isinstance(block, kind)
    ]
    return {
        getattr(block, "name", getattr(block, "title", str(at))): block
        for at, block in enumerate(found)
    }


def sentences(report: Report) -> str:
    return " ".join([report.lead, *(text.text for text in blocks(report, Paragraph).values())])


# --- what it says --------------------------------------------------------------------------------


def test_the_facts_are_the_refits(report: Report) -> None:
    facts = dict(report.facts)
    assert facts["squared error + KL, test"] == f"{52.0 - CONSTANT:.2f}"
    assert facts["KL, test (nats)"] == "6.00"
    assert facts["active units"] == "2 of 3"


def test_the_lead_says_what_to_do(report: Report) -> None:
    assert "pays 6.0 nats" in report.lead
    assert "1 of 3 code dimensions carry no information: a latent_dim of 2" in report.lead
    assert "train longer" in report.lead


def test_cross_validated_and_test_figures_stand_side_by_side(report: Report) -> None:
    table = blocks(report, Table)["Test metrics"]
    rows = {row[0]: row[1:3] for row in table.rows}
    mean = 6.0 * 1.02  # folds of 1, 1.02 and 1.04 times the rate
    assert rows["KL"] == ("6.00", f"{mean:.2f} ± {6.0 * 0.02 / 3**0.5:.2f}")
    assert rows["squared error + KL"][1].startswith(f"{mean + 8.0 * 1.25 * 1.02:.2f} ± ")
    assert rows["IWAE bound, k = 64"][0] == "−50.50"
    assert any("above the ELBO by 1.50 nats" in row[3] for row in table.rows)


def test_every_picture_is_there_once(report: Report, tmp_path: Path) -> None:
    assert list(blocks(report, Figure)) == [
        "rate-distortion",
        "bound-over-epochs",
        "kl-per-dimension",
        "prior-samples",
        "traversals",
        "interpolations",
        "best-and-worst",
    ]
    assert not blocks(report, Paragraph)
    page = write_report(report, tmp_path)
    assert page.stat().st_size < 8_000_000


def test_points_know_their_beta_and_the_winner_is_named(report: Report) -> None:
    svg = blocks(report, Figure)["rate-distortion"].svg
    assert "best: trial 1" in svg and "β in training" in svg
    assert "for 3 trials" in blocks(report, Figure)["rate-distortion"].alt


def test_traversals_go_from_the_dimension_that_carries_most(report: Report) -> None:
    svg = blocks(report, Figure)["traversals"].svg
    labels = ["z2 · 2.00 nats", "z1 · 1.00 nats", "z0 · 0.00 nats · inactive"]
    assert sorted(labels, key=svg.index) == labels


def test_the_constant_of_the_likelihood_is_left_out_of_the_curves(report: Report) -> None:
    figure = blocks(report, Figure)["bound-over-epochs"]
    assert "36.6 nats per image, is left out" in figure.caption
    assert f"{8.0 * 1.25 * 1.02:.2f}" in figure.svg


def test_folds_are_told_apart(client: MlflowClient, sweep: Run) -> None:
    record = read_vae_record(client, sweep)
    assert record.fold_kl.shape == (3, 3)
    assert len(set(record.folds("val_kl"))) == 3


# --- what is missing -----------------------------------------------------------------------------


def test_two_dimensions_are_shown_as_a_map(client: MlflowClient, tmp_path: Path) -> None:
    recorder, run = record_sweep(client, tmp_path, [COMPLETED], dimensions=2)
    record_refit(client, recorder, evidence(2), tmp_path)
    assert "manifold" in blocks(build(client, run), Figure)


def test_one_dimension_one_fold_and_one_trial(client: MlflowClient, tmp_path: Path) -> None:
    recorder, run = record_sweep(client, tmp_path, [{**COMPLETED, "folds": 1}], dimensions=1)
    record_refit(client, recorder, evidence(1), tmp_path)
    report = build(client, run)
    write_report(report, tmp_path)
    assert len(blocks(report, Figure)) == 7
    assert {row[0]: row[2] for row in blocks(report, Table)["Test metrics"].rows}["KL"] == "6.00"


def test_without_labels_the_best_and_worst_of_all_are_shown(
    client: MlflowClient, tmp_path: Path
) -> None:
    recorder, run = record_sweep(client, tmp_path, [COMPLETED])
    record_refit(client, recorder, evidence(labels=False), tmp_path)
    report = build(client, run)
    assert "best-and-worst" in blocks(report, Figure)
    assert "at a class" not in blocks(report, Figure)["best-and-worst"].caption


def test_without_a_refit_it_says_so_and_shows_what_the_folds_know(
    client: MlflowClient, tmp_path: Path
) -> None:
    _, run = record_sweep(client, tmp_path, [COMPLETED])
    report = build(client, run)
    assert list(blocks(report, Figure)) == [
        "rate-distortion",
        "bound-over-epochs",
        "kl-per-dimension",
    ]
    assert "`foldrace refit`" in sentences(report)
    assert dict(report.facts)["KL, validation (nats)"] == "6.12"


def test_a_refit_without_evidence_still_has_its_figures(
    client: MlflowClient, tmp_path: Path
) -> None:
    recorder, run = record_sweep(client, tmp_path, [COMPLETED])
    record_refit(client, recorder, None, tmp_path)
    report = build(client, run)
    assert "Test metrics" in blocks(report, Table)
    assert dict(report.facts)["active units"] == "2 of 3"


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([], "No trial has started yet"),
        ([{"outcome": Outcome.FAILED}, {"outcome": Outcome.FAILED}], "2 of 2 failed"),
        ([{**COMPLETED, "outcome": Outcome.PRUNED}], "no best trial"),
    ],
)
def test_without_a_winner_it_says_why(
    client: MlflowClient, tmp_path: Path, trials: list[dict[str, Any]], said: str
) -> None:
    _, run = record_sweep(client, tmp_path, trials)
    report = build(client, run)
    assert said in report.lead
    assert not report.facts
    write_report(report, tmp_path)


def test_a_sweep_of_another_task_has_no_such_report(client: MlflowClient, tmp_path: Path) -> None:
    _, run = record_sweep(client, tmp_path, [], task="autoencoder")
    report = build(client, run)
    assert "autoencoder has no KL term" in report.lead
    assert not report.sections
