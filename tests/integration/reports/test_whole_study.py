"""The whole study on a few digits: all parts, a page whose links lead somewhere, and nothing done
twice."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from foldrace.cli.app import main
from foldrace.search.recording.tracking import connect
from tests.helpers.sweeps import SMALL_DIGITS, Record

pytestmark = pytest.mark.slow

SMALL = [
    SMALL_DIGITS,
    "epochs=1",
    "search.trials=1",
    "optimizers:search.trials=1",
    "optimizers:comparison.repeats=1",
]


def study(root: Path, overrides: list[str], address: str) -> tuple[int, dict[str, Any], str]:
    sets = [part for override in overrides for part in ("--set", override)]
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(["study", *sets, "--dir", str(root), "--json", "--address", address])
    return status, json.loads(out.getvalue().splitlines()[-1]), err.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def done(root: Path, cluster: Any) -> tuple[int, dict[str, Any], str]:
    return study(root, SMALL, cluster.address)


def test_every_part_is_recorded_and_the_page_has_its_figures(
    root: Path, done: tuple[int, dict[str, Any], str]
) -> None:
    status, result, _ = done
    assert status == 0
    record = Record(connect(f"sqlite:///{root}/mlflow.db"))
    sweeps = {run.data.tags["foldrace.sweep"] for run in record.level("sweep")}
    assert sweeps == {"study-ae", "study-ae4", "study-optimizers", "study-vae"}
    refits = {run.data.tags["foldrace.sweep"]: run.data.metrics for run in record.level("refit")}
    figures = {row["figure"]: row["here"] for row in result["figures"]}
    assert figures["autoencoder: test MSE, code of 16"] == f"{refits['study-ae']['test_mse']:.5f}"
    assert figures["autoencoder: test MSE, code of 4"] == f"{refits['study-ae4']['test_mse']:.5f}"
    losses = (
        figures["VAE: validation loss, fold by fold"].removesuffix(" nats an image").split(", ")
    )
    assert len(set(losses)) == 3, "folds differ"
    assert set(result["seconds"]) == {"ae", "ae4", "optimizers", "vae"}


def test_every_link_of_the_page_leads_to_a_report(
    root: Path, done: tuple[int, dict[str, Any], str]
) -> None:
    page = Path(done[1]["page"])
    links = re.findall(r'<a href="([^"#]+)"', page.read_text())
    assert len(links) >= 6
    assert all((page.parent / link).is_file() for link in links)
    assert {Path(link).stem for link in links} >= {"sweep", "optimizers", "latent", "vae"}


def test_a_second_call_trains_nothing_and_says_so(
    root: Path, done: tuple[int, dict[str, Any], str]
) -> None:
    before = len(Record(connect(f"sqlite:///{root}/mlflow.db")).runs)
    status, result, err = study(root, [], "no-such-address:1")
    assert status == 0
    assert err.count("already done") == 4
    assert result["figures"] == done[1]["figures"]
    assert len(Record(connect(f"sqlite:///{root}/mlflow.db")).runs) == before
