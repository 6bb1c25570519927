"""The report on a code: what it says of codes that are known, and of what is missing."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from foldrace.analysis.records.latent import latent_of
from foldrace.analysis.reports.latent.figures import spread_boxes
from foldrace.analysis.reports.latent.images import sprite_sheet, thumbnails
from foldrace.analysis.reports.latent.report import build, latent_report
from foldrace.analysis.reports.page import (
    Figure,
    Paragraph,
    Picture,
    Raw,
    Report,
    Table,
    write_report,
)
from foldrace.search.recording.schema import Outcome
from tests.helpers.stores import new_store
from tests.helpers.vae_sweeps import record_refit, record_sweep

NAMES = np.array(["shirt", "coat", "bag"])
COUNT = 60


def evidence(count: int = COUNT, dimension: int = 4, **changes: Any) -> dict[str, Any]:
    """Images of noise, and codes in three groups, one a class; two folds whose codes are turned
    copies. A change to None leaves an array out."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    codes = (
        random.normal(size=(count, dimension))
        + 9 * np.eye(max(dimension, 3))[labels][:, :dimension]
    )
    turned = codes @ np.linalg.qr(random.normal(size=(dimension, dimension)))[0]
    found = {
        "images": random.integers(0, 256, (count, 1, 8, 8), dtype=np.uint8),
        "labels": labels,
        "class_names": NAMES,
        "codes": codes.astype(np.float32),
        "fold_codes": np.stack([codes, turned]).astype(np.float32),
        **changes,
    }
    return {name: values for name, values in found.items() if values is not None}


def made(**changes: Any) -> Report:
    return latent_report("ae", latent_of(evidence(**changes)))


def blocks(report: Report, kind: type) -> list[Any]:
    return [
        block for section in report.sections for block in section.blocks if isinstance(block, kind)
    ]


def names(report: Report, kind: type = Figure) -> list[str]:
    return [block.name for block in blocks(report, kind)]


def rows(report: Report, title: str) -> dict[str, tuple[str, ...]]:
    table = next(block for block in blocks(report, Table) if block.title.startswith(title))
    return {row[0]: row[1:] for row in table.rows}


def sentences(report: Report) -> str:
    return " ".join(text.text for text in blocks(report, Paragraph))


@pytest.fixture(scope="module")
def report() -> Report:
    return made()


@pytest.fixture(scope="module")
def data(report: Report) -> dict[str, Any]:
    """What the interactive scatter is given."""
    found = re.search(r'id="scatter-data">(.*?)</script>', blocks(report, Raw)[0].html, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


# --- what it says --------------------------------------------------------------------------------


def test_a_code_that_knows_the_classes_is_said_to_know_more_than_a_linear_one(
    report: Report,
) -> None:
    assert "the class of 100.0 % of 60 test images: more than PCA" in report.lead
    assert "The fold models agree on the code (CKA 1.00)." in report.lead
    facts = dict(report.facts)
    assert facts["test images × code"] == "60 × 4"
    assert facts["class from 10 nearest neighbours"] == "100.0 %"
    assert facts["CKA between folds"] == "1.000"


def test_a_code_of_noise_is_not_said_to_be_any_better(report: Report) -> None:
    noise = np.random.default_rng(1).normal(size=(COUNT, 4)).astype(np.float32)
    lead = made(codes=noise, fold_codes=np.stack([noise, noise[::-1]])).lead
    assert "no better or worse than PCA" in lead
    assert "The fold models disagree" in lead


def test_the_tables_hold_every_space_and_chance(report: Report) -> None:
    classes = rows(report, "What each space knows")
    assert [name.partition(" (")[0] for name in classes] == [
        "raw pixels",
        "PCA of the pixels",
        "code",
        "PCA map of the code",
        "t-SNE map of the code",
        "always the most frequent class",
    ]
    assert classes["code (4 numbers)"] == ("100.0 %", "100.0 %")
    assert classes["t-SNE map of the code (2 numbers)"] == ("100.0 %", "–")
    assert classes["always the most frequent class"] == ("33.3 %", "33.3 %")
    assert float(rows(report, "What the maps keep")["t-SNE map of the code (2 numbers)"][0]) > 0.9
    assert rows(report, "What is kept of the pixels")["by chance"][2] == f"{1000 / 59:.1f} %"
    assert rows(report, "How similar")["Procrustes distance (0: the same)"][0] == "0.000"


def test_every_figure_is_there_and_says_what_t_sne_does_not_show(
    report: Report, tmp_path: Path
) -> None:
    assert names(report) == ["panels", "tsne", "pca"]
    assert names(report, Picture) == ["image-map"]
    warned = [block.caption for block in blocks(report, Figure) if block.name == "tsne"]
    assert "sizes, densities and distances of groups say nothing" in warned[0]
    assert not sentences(report)
    assert all(block.alt for block in [*blocks(report, Figure), *blocks(report, Picture)])
    assert write_report(report, tmp_path).stat().st_size < 8_000_000


def test_classes_are_named_in_the_figures(report: Report) -> None:
    for figure in blocks(report, Figure):
        if figure.name != "panels":
            assert all(f">{name}<" in figure.svg for name in NAMES)


def test_the_same_evidence_gives_the_same_report(report: Report) -> None:
    again = made()
    assert again.lead == report.lead and blocks(again, Table) == blocks(report, Table)
    assert blocks(again, Raw) == blocks(report, Raw)


# --- the interactive scatter ---------------------------------------------------------------------


def test_the_thumbnail_of_each_point_is_its_image(data: dict[str, Any]) -> None:
    positions = np.frombuffer(base64.b64decode(data["positions"]), "<u4")
    labels = np.frombuffer(base64.b64decode(data["labels"]), "<u2")
    given = evidence()
    assert np.array_equal(labels, given["labels"][positions])
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["sheet"].partition(",")[2]))))[
        ..., 0
    ]
    across, down = data["pitch"]
    for at, position in enumerate(positions):
        top, left = down * (at // data["columns"]), across * (at % data["columns"])
        assert np.array_equal(sheet[top : top + 8, left : left + 8], given["images"][position, 0])


def test_the_maps_fill_their_square_and_start_with_the_main_one(data: dict[str, Any]) -> None:
    assert [shown["title"] for shown in data["maps"]] == [
        "t-SNE, perplexity 19",
        "t-SNE, perplexity 10",
        "PCA",
    ]
    for shown in data["maps"]:
        points = np.frombuffer(base64.b64decode(shown["points"]), "<u2").reshape(-1, 2)
        assert len(points) == COUNT
        assert np.ptp(points.astype(int), axis=0).max() >= 65_534


def test_names_cannot_break_out_of_the_page() -> None:
    names = np.array(["</script><b>", "coat", 'a"b'])
    html = blocks(made(class_names=names), Raw)[0].html
    assert "<b>" not in html.replace("&lt;b&gt;", "")


def test_colour_images_keep_their_colours_and_large_ones_are_made_small() -> None:
    images = np.zeros((5, 3, 64, 48), np.uint8)
    images[:, 1] = 200
    small = thumbnails(images)
    assert small.shape == (5, 3, 32, 24)
    sheet, columns, pitch = sprite_sheet(small)
    assert columns == 3 and pitch == (24, 32)
    pixels = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
    assert pixels[5, 5].tolist() == [0, 200, 0]


def test_a_sheet_that_would_be_too_large_loses_quality_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 28, 28), dtype=np.uint8)
    lossless = len(sprite_sheet(images)[0])
    monkeypatch.setattr("foldrace.analysis.reports.latent.images._LOSSLESS_PIXELS", 0)
    monkeypatch.setattr("foldrace.analysis.reports.latent.images._LARGEST_SHEET", lossless // 2)
    assert len(sprite_sheet(images)[0]) <= lossless // 2


def test_names_are_pushed_apart_and_no_further_than_they_must() -> None:
    centres = np.array([[0.0, 0.0], [1.0, 0.5], [0.5, 0.2], [50.0, 0.0]])
    sizes = np.full((4, 2), [8.0, 4.0])
    apart = spread_boxes(centres, sizes)
    assert np.array_equal(apart[3], centres[3]) and np.array_equal(apart[:, 0], centres[:, 0])
    assert (np.diff(np.sort(apart[:3, 1])) > 3.9).all()
    assert apart[:3, 1].mean() == pytest.approx(centres[:3, 1].mean())


# --- what is missing -----------------------------------------------------------------------------


def test_without_labels_there_are_maps_and_neighbours_but_no_accuracy() -> None:
    report = made(labels=None, class_names=None)
    assert "Without labels" in sentences(report) and "in one colour" in sentences(report)
    assert names(report) == ["panels", "tsne", "pca"]
    assert report.lead.startswith("The code keeps ")
    assert blocks(report, Table)[0].title.startswith("What the maps keep")


def test_classes_without_names_go_by_their_numbers() -> None:
    classes = made(class_names=None, labels=np.arange(COUNT) % 3 + 4)
    assert ">5<" in next(block.svg for block in blocks(classes, Figure) if block.name == "tsne")


def test_a_code_of_two_numbers_is_shown_as_it_is() -> None:
    report = made(dimension=2)
    assert names(report) == ["panels", "tsne", "code"]
    assert "first code number" in blocks(report, Figure)[-1].svg


def test_a_code_of_one_number_needs_no_map(tmp_path: Path) -> None:
    report = made(dimension=1)
    assert names(report) == ["code"] and blocks(report, Raw)
    write_report(report, tmp_path)


@pytest.mark.parametrize(
    "folds", [None, np.zeros((1, COUNT, 4), np.float32), np.full((3, COUNT, 4), np.nan)]
)
def test_fewer_than_two_folds_cannot_disagree(folds: Any) -> None:
    report = made(fold_codes=folds)
    assert "two fold models or more" in sentences(report)
    assert "fold models" not in report.lead


def test_codes_that_are_not_finite_are_left_out_and_counted() -> None:
    codes = evidence()["codes"].copy()
    codes[[3, 50], 1] = np.nan, np.inf
    report = made(codes=codes)
    assert dict(report.facts)["test images × code"] == "58 × 4"
    assert "2 test images are left out" in sentences(report)


@pytest.mark.parametrize("count", [3, 4, 10, 17, 40])
def test_a_handful_of_images_is_reported_as_far_as_it_goes(count: int, tmp_path: Path) -> None:
    report = made(count=count)
    assert ("too few for t-SNE" in sentences(report)) == (count < 16)
    write_report(report, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"codes": np.ones((COUNT, 4), np.float32)}, "the same code"),
        ({"count": 2}, "only 2 test images"),
    ],
)
def test_where_there_is_nothing_to_map_it_says_so(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    report = made(**changes)
    assert said in report.lead and not report.sections
    write_report(report, tmp_path)


# --- from MLflow ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MlflowClient:
    return new_store(tmp_path_factory.mktemp("store"))


TRIAL = {"outcome": Outcome.COMPLETED, "rate": 6.0, "distortion": 8.0}


def test_it_is_built_from_the_refits_evidence(client: MlflowClient, tmp_path: Path) -> None:
    recorder, run = record_sweep(client, tmp_path, [TRIAL], task="autoencoder")
    record_refit(client, recorder, evidence(), tmp_path)
    report = build(client, run)
    assert report.kind == "latent" and report.title == "vae: latent space"
    assert dict(report.facts)["test images × code"] == "60 × 4"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (evidence(codes=None), "no codes"),
        (None, "no codes"),
        (
            evidence(codes=np.full((COUNT, 4), np.nan, np.float32)),
            "None of the 60 codes is finite",
        ),
    ],
)
def test_without_codes_it_says_why(
    client: MlflowClient, tmp_path: Path, found: Any, said: str
) -> None:
    recorder, run = record_sweep(client, tmp_path, [TRIAL], task="autoencoder")
    record_refit(client, recorder, found, tmp_path)
    assert said in build(client, run).lead


def test_without_a_refit_it_says_what_to_do(client: MlflowClient, tmp_path: Path) -> None:
    _, run = record_sweep(client, tmp_path, [])
    assert "`foldrace refit`" in build(client, run).lead
