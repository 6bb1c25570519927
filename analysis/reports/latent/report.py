"""The report on a code: maps, neighbourhoods, classes, and the agreement between folds."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foldrace.analysis.records.evidence import Evidence, load_evidence, refit_run
from foldrace.analysis.records.latent import Latent, latent_of, why_no_codes
from foldrace.analysis.reports.latent.figures import (
    code_figure,
    line_figure,
    map_figure,
    panels_figure,
)
from foldrace.analysis.reports.latent.images import image_map
from foldrace.analysis.reports.latent.maps import Maps, make_maps
from foldrace.analysis.reports.latent.scatter import scatter
from foldrace.analysis.reports.latent.scores import CodeScores, score_code
from foldrace.analysis.reports.latent.tables import (
    agreement_table,
    class_table,
    neighbourhood_tables,
    percent,
)
from foldrace.analysis.reports.page import Block, Paragraph, Report, Section
from foldrace.analysis.reports.style import PALETTE
from foldrace.analysis.text import plural

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build", "build_trial", "latent_report"]

KIND = "latent"
_FEWEST_IMAGES = 3
# CKA from which on the fold models are said to agree
_AGREE = 0.8
# with enough images, chance explains differences in accuracy up to this only
_SMALL_DIFFERENCE = 0.05


def build(client: MlflowClient, run: Run) -> Report:
    """The report on the code of the sweep's refitted best trial."""
    refit = refit_run(client, run)
    return _from_evidence(
        run.data.tags["foldrace.sweep"], load_evidence(client, refit), refit is not None
    )


def build_trial(client: MlflowClient, trial: Run) -> Report:
    """The report on the codes of a trial's fold models, from the evidence in the trial's run."""
    tags = trial.data.tags
    number = int(tags["foldrace.trial"])
    name = f"{tags['foldrace.sweep']}, trial {number}, fold 0"
    report = _from_evidence(name, load_evidence(client, trial), True)
    return replace(report, kind=f"{KIND}-trial-{number}")


def _from_evidence(name: str, evidence: Evidence, refitted: bool) -> Report:
    missing = why_no_codes(evidence, refitted)
    if missing is not None:
        return Report(KIND, _title(name), missing, (), ())
    return latent_report(name, latent_of(evidence))


def latent_report(name: str, latent: Latent) -> Report:
    """The report on a code.

    Args:
        name: of the sweep or the trial, for the title.
        latent: the code.
    """
    size = ("test images × code", f"{len(latent.codes):,} × {latent.dimension}")
    if len(latent.codes) < _FEWEST_IMAGES:
        lead = f"There are only {len(latent.codes)} test images with a code; a map needs more."
        return Report(KIND, _title(name), lead, (size,), ())
    if latent.constant:
        lead = (
            "The model gives every test image the same code: it carries no information, and there"
            " is nothing to map."
        )
        return Report(KIND, _title(name), lead, (size,), ())
    maps = make_maps(latent.codes)
    scores = score_code(latent, maps)
    return Report(
        KIND,
        _title(name),
        _lead(latent, scores),
        (size, *_facts(scores)),
        _sections(latent, maps, scores),
    )


def _title(name: str) -> str:
    return f"{name}: latent space"


def _facts(scores: CodeScores) -> tuple[tuple[str, str], ...]:
    facts = []
    if scores.knn:
        facts += [
            (f"class from {plural(scores.k, 'nearest neighbour')}", percent(scores.knn["code"])),
            ("class from a linear probe", percent(scores.probe["code"])),
        ]
    if kept := scores.code_neighbourhoods.get("tsne"):
        facts += [
            ("t-SNE: trustworthiness", f"{kept.trustworthiness:.3f}"),
            (f"t-SNE: {scores.k} nearest kept", percent(kept.recall[scores.k])),
        ]
    if scores.agreement:
        facts.append(("CKA between folds", f"{scores.agreement['cka'].mean:.3f}"))
    return tuple(facts)


def _lead(latent: Latent, scores: CodeScores) -> str:
    sentences = [
        _about_classes(latent, scores) if scores.knn else _about_neighbours(latent, scores)
    ]
    if kept := scores.code_neighbourhoods.get("tsne"):
        sentences.append(
            f"The t-SNE map keeps {percent(kept.recall[scores.k])} of the code's neighbours: use"
            " it to find things, not to measure."
        )
    if scores.agreement:
        cka = scores.agreement["cka"].mean
        sentences.append(
            f"The fold models agree on the code (CKA {cka:.2f})."
            if cka >= _AGREE
            else f"The fold models disagree on the code (CKA {cka:.2f}): what you see may be"
            " specific to this model."
        )
    return " ".join(sentences)


def _about_classes(latent: Latent, scores: CodeScores) -> str:
    """Whether the code separates the classes better than a linear code, and what to do."""
    code, linear, pixels = (scores.knn[name] for name in ("code", "components", "pixels"))
    noise = 1.96 * float(np.sqrt((code * (1 - code) + linear * (1 - linear)) / len(latent.codes)))
    if code > linear + noise:
        verdict, advice = "more than", ""
    elif code < linear - noise:
        verdict = "less than"
        advice = " A linear code would be better: train longer or on more data."
    else:
        verdict = "no better or worse than"
        advice = (
            " To separate the classes, a linear code is enough."
            if noise <= _SMALL_DIFFERENCE
            else " More images are needed to tell."
        )
    return (
        f"In the code, an image's {plural(scores.k, 'nearest neighbour')} tell the class of"
        f" {percent(code)} of {len(latent.codes):,} test images: {verdict} PCA of the same size"
        f" ({percent(linear)}), with {percent(pixels)} for the raw pixels.{advice}"
    )


def _about_neighbours(latent: Latent, scores: CodeScores) -> str:
    code, linear = (
        percent(scores.pixel_neighbourhoods[name].recall[scores.k])
        for name in ("code", "components")
    )
    return (
        f"The code keeps {code} of an image's {plural(scores.k, 'nearest neighbour')} among"
        f" {len(latent.codes):,} test images, PCA of the same size {linear}."
    )


def _sections(latent: Latent, maps: Maps, scores: CodeScores) -> tuple[Section, ...]:
    folds = "one" if len(latent.fold_codes) else "none"
    agreement = agreement_table(latent, scores) or Paragraph(
        f"It takes the codes of two fold models or more to compare them; there is {folds}."
    )
    classes = class_table(latent, scores) or Paragraph(
        "Without labels there are no accuracies, only neighbourhoods."
    )
    sections = (
        Section("The map", _map_blocks(latent, maps)),
        Section("What the code keeps", (classes, *neighbourhood_tables(latent, scores))),
        Section(
            "How far to trust a t-SNE map", (panels_figure(latent, maps),) if maps.panels else ()
        ),
        Section("Whether the folds agree", (agreement,)),
        Section("For paper and slides", _stills(latent, maps)),
    )
    return tuple(section for section in sections if section.blocks)


def _map_blocks(latent: Latent, maps: Maps) -> tuple[Block, ...]:
    notes = []
    if latent.left_out:
        notes.append(f"{latent.left_out:,} test images are left out: their codes are not finite.")
    if latent.labels is None:
        notes.append("The data have no labels of two classes or more: the maps are in one colour.")
    elif len(latent.names) > len(PALETTE):
        notes.append(f"There are {len(latent.names)} classes; every tenth has the same colour.")
    main = maps.first("tsne")
    if main is None and latent.dimension > 1:
        notes.append(f"{len(latent.codes)} images are too few for t-SNE.")
    return (
        *map(Paragraph, notes),
        *((scatter(latent, maps.full),) if maps.full else ()),
        *((image_map(latent, main),) if main else ()),
    )


def _stills(latent: Latent, maps: Maps) -> tuple[Block, ...]:
    """The maps as figures."""
    main, plain = maps.first("tsne"), maps.first("code") or maps.first("pca")
    flat = line_figure if latent.dimension == 1 else code_figure
    return (
        *((map_figure(latent, main),) if main else ()),
        *((flat(latent, plain),) if plain else ()),
    )
