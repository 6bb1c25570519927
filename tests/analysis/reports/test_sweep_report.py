"""The sweep report: what it says of a sweep, that it says something of any, and how the command
makes it."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path

import pytest
from mlflow.entities import Run

from foldrace.analysis.records.sweep import read_sweep_record
from foldrace.analysis.reports.make import make_reports, report_sweep
from foldrace.analysis.reports.page import Code, Figure, Paragraph, Report, Table, write_report
from foldrace.analysis.reports.sweep.rank_correlation import rung_correlations
from foldrace.analysis.reports.sweep.report import build
from foldrace.analysis.statistics.importance import importance
from foldrace.cli.app import main
from foldrace.errors import InputError, StateError
from foldrace.search.recording.schema import Outcome
from tests.analysis.reports.test_page import Reader, asked_for
from tests.helpers.recorded_sweeps import Store, Trial, failed, many, plain


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("runs"))
    store.record("many", [*many(), failed()])
    store.record("empty", [], Outcome.PRUNED)
    store.record("running", [], None)
    store.record("one", [plain(0.2)])
    store.record("fails", [failed("out of memory"), failed()])
    store.record("negative", [plain(-3.0), plain(-1.0), plain(-2.99)])
    store.record("one-fold", [plain(0.2, folds=1), plain(0.3, folds=1)])
    store.record(
        "given-up", [Trial({"lr": 0.1}, [[0.3, 0.4]], Outcome.PRUNED, "given up at epoch 1")]
    )
    return store


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@cache
def of(store: Store, name: str) -> Report:
    """The report of a sweep of the store, built once."""
    return build(store.client, run_of(store, name))


def run_of(store: Store, name: str) -> Run:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    [run] = store.client.search_runs(experiments, f"tags.`foldrace.key` = '{name}'")
    return run


def blocks(report: Report, kind: type) -> list:
    return [
        block for section in report.sections for block in section.blocks if isinstance(block, kind)
    ]


def named(report: Report) -> set[str]:
    return {figure.name for figure in blocks(report, Figure)}


# --- what it says --------------------------------------------------------------------------------


def test_the_lead_names_the_best_trial_its_error_its_rivals_and_the_price(store: Store) -> None:
    report = of(store, "one")
    assert (
        report.lead
        == "Trial 0 is best, with a validation loss of 0.2050 ± 0.0050 (mean ± standard error over"
        " 2 folds). It is the only completed trial, so there is nothing to compare it with. The"
        " sweep took 4 fold-epochs in 0:12; training every trial to the end would have taken 6,"
        " 1.5 times as many."
    )
    assert "other completed trials is within one standard error" in of(store, "many").lead


def test_a_trial_within_one_standard_error_is_counted_and_one_outside_is_not(store: Store) -> None:
    # means −2.995, −0.995 and −2.985, standard errors 0.005: the third is two errors behind
    lead = of(store, "negative").lead
    assert "None of the 2 other completed trials is within one standard error" in lead
    record = store.record("close", [plain(0.2), plain(0.204), plain(0.3)])
    lead = build(store.client, record).lead
    assert "1 of the 2 other completed trials is within one standard error" in lead


def test_a_full_sweep_has_every_picture(store: Store) -> None:
    assert named(of(store, "many")) == {
        "best-trials",
        "incumbent",
        "learning-curves",
        "rank-correlation",
        "importance",
        "slices",
        "parallel-coordinates",
        "cost",
    }


def test_costs_add_up(store: Store) -> None:
    [table] = [table for table in blocks(of(store, "many"), Table) if table.title == "By status"]
    record = read_sweep_record(store.client, run_of(store, "many"))
    completed, pruned = record.count("completed"), record.count("pruned")
    assert completed and pruned
    spent = {row[0]: row[2] for row in table.rows}
    assert spent == {
        "completed": str(6 * completed),
        "pruned": str(2 * pruned),
        "failed": "0",
    }
    assert record.fold_epochs == 6 * completed + 2 * pruned
    assert record.full_cost == 25 * 6


def test_the_table_compares_fold_by_fold(store: Store) -> None:
    run = store.record(
        "paired", [Trial({"lr": 0.1}, [[0.1, 0.5]]), Trial({"lr": 0.2}, [[0.12, 0.54]])]
    )
    [table] = [
        table for table in blocks(build(store.client, run), Table) if table.title == "The best 2"
    ]
    behind = table.columns.index("behind, fold by fold")
    assert [row[behind] for row in table.rows] == ["–", "0.030 ± 0.010"]


def test_failures_are_listed_with_their_reasons(store: Store) -> None:
    [table] = [table for table in blocks(of(store, "fails"), Table) if "failed" in table.title]
    assert [row[1] for row in table.rows] == [
        "out of memory",
        "diverged: fold 0, epoch 1: val_loss is inf",
    ]


def test_the_spec_and_the_environment_are_kept(store: Store) -> None:
    texts = [code.text for code in blocks(of(store, "one"), Code)]
    assert "latent_dim: 16" in texts[0] and '"python": "3.11"' in texts[1]


# --- what mattered -------------------------------------------------------------------------------


def test_the_parameter_that_alone_matters_is_found_and_the_others_are_not(store: Store) -> None:
    record = read_sweep_record(store.client, run_of(store, "many"))
    found = importance(record)
    assert found is not None
    assert found.telling == ("lr",)
    assert max(found.overall, key=lambda name: found.overall[name]) == "lr"
    assert (
        "momentum" in found.best and "momentum" not in found.overall
    )  # it exists in some trials only
    assert math.fsum(found.best.values()) == pytest.approx(1)
    assert importance(record) == found


def test_too_few_trials_have_no_importance(store: Store) -> None:
    report = of(store, "negative")
    assert "importance" not in named(report)
    assert any("Importance is not shown" in text.text for text in blocks(report, Paragraph))


def test_rank_correlation_is_one_where_no_curves_cross_and_minus_one_where_all_do(
    store: Store,
) -> None:
    losses = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    trials = [
        Trial({"lr": 0.1}, [[loss, loss], [0.7 - loss, 0.7 - loss], [loss, loss]])
        for loss in losses
    ]
    run = store.record("crossing", trials)
    first, second = rung_correlations(read_sweep_record(store.client, run))
    assert (first.epoch, first.rho, first.n) == (1, pytest.approx(1), 6)
    assert (second.epoch, second.rho) == (2, pytest.approx(-1))
    assert first.low < 1 and second.high > -1
    assert (
        rung_correlations(read_sweep_record(store.client, store.record("five", trials[:5]))) == []
    )


# --- whatever there is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "interrupted before a trial began"),
        ("running", "no trial has begun yet"),
        ("one", "the only completed trial"),
        ("fails", "no best trial: 2 failed"),
        ("negative", "is best, with a validation loss of −2.995"),
        ("one-fold", "a single fold, so there is no standard error"),
        ("given-up", "no best trial: 1 pruned"),
        ("many", "Trial "),
    ],
)
def test_any_sweep_has_a_report_that_asks_nothing_of_anybody(
    store: Store, tmp_path: Path, name: str, said: str
) -> None:
    report = of(store, name)
    assert said in report.lead
    assert "nan" not in report.lead and not any("nan" in value for _, value in report.facts)
    for table in blocks(report, Table):
        assert not any(cell in ("nan", "NaN", "inf") for row in table.rows for cell in row)
    page = write_report(report, tmp_path)
    text = page.read_text(encoding="utf-8")
    assert asked_for(text) == [] and Reader(text).open == []
    assert page.stat().st_size < 8 * 2**20


def test_what_another_version_recorded_is_still_reported(store: Store) -> None:
    run = store.record("old", [plain(0.2), plain(0.3)])
    store.client.log_text(run.info.run_id, "name: old\nfuture: yes\n", "sweep.yaml")
    report = build(store.client, run)
    assert "Trial 0 is best" in report.lead and "future: yes" in blocks(report, Code)[0].text


# --- the command ---------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_logs_it_to_the_run(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "one", "--dir", str(store.root), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    page = store.root / "one" / "report" / "sweep.html"
    assert said["reports"] == {"sweep": str(page)} and page.is_file()
    assert "Sweep one of" in page.read_text(encoding="utf-8")
    logged = {
        item.path
        for item in store.client.list_artifacts(run_of(store, "one").info.run_id, "reports")
    }
    assert logged == {"reports/sweep.html", "reports/figures"}


def test_a_server_is_enough(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", "one", "--tracking-uri", store.uri]) == 0
    assert (tmp_path / "one-report" / "sweep.html").is_file()
    assert main(["report", "none", "--tracking-uri", store.uri]) == 2
    assert "is named none" in capsys.readouterr().err


def test_an_unknown_kind_is_refused_with_the_nearest(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "one", "--kind", "swep", "--dir", str(store.root)]) == 2
    assert "did you mean 'sweep'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("latent", "`foldrace refit one` first"),
        ("vae", "`foldrace refit one` first"),
        ("optimizers", "for a sweep with kind: comparison"),
    ],
)
def test_a_kind_that_does_not_apply_says_what_to_do(
    store: Store, tmp_path: Path, kind: str, said: str
) -> None:
    with pytest.raises(StateError, match=said):
        report_sweep(store.root, "one", kinds=[kind], out=tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_all_kinds_that_apply_are_made_if_none_is_named(store: Store, tmp_path: Path) -> None:
    run = run_of(store, "one")
    assert [page.name for page in make_reports(store.client, run, None, tmp_path)] == [
        "sweep.html"
    ]


def test_a_folder_that_cannot_be_made_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output: .*file.*cannot be made"):
        report_sweep(store.root, "one", out=tmp_path / "file" / "below")
