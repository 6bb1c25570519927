"""The report on a code: its maps, what it keeps of neighbourhoods and classes, and whether the
folds agree on it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foldrace.analysis.records.evidence import load_evidence, refit_run
from foldrace.analysis.records.latent import Latent, latent_of, why_no_codes
from foldrace.analysis.reports.latent.figures import (
    code_figure,
    image_map,
    line_figure,
    map_figure,
    panels_figure,
)
from foldrace.analysis.reports.latent.maps import Maps, make_maps
from foldrace.analysis.reports.latent.merits import Merits, measure
from foldrace.analysis.reports.latent.scatter import scatter
from foldrace.analysis.reports.latent.tables import (
    class_table,
    kept_tables,
    share,
    stability_table,
)
from foldrace.analysis.reports.page import Block, Paragraph, Report, Section
from foldrace.analysis.text import plural

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build", "build_trial", "latent_report"]

KIND = "latent"
_FEWEST = 3
_AGREE = 0.8
_TELLING = 0.05  # differences below this can be told from chance


def build(client: MlflowClient, run: Run) -> Report:
    """The report on the code of the refitted winner of the sweep with this run."""
    name = run.data.tags["foldrace.sweep"]
    refit = refit_run(client, run)
    evidence = load_evidence(client, refit)
    missing = why_no_codes(evidence, refit is not None)
    if missing is not None:
        return Report(KIND, _title(name), missing, (), ())
    return latent_report(name, latent_of(evidence))


def build_trial(client: MlflowClient, trial: Run) -> Report:
    """The report on the code of a trial's fold models, from the evidence in the trial's run."""
    tags = trial.data.tags
    number = int(tags["foldrace.trial"])
    evidence = load_evidence(client, trial)
    name = f"{tags['foldrace.sweep']}, trial {number}, fold 0"
    missing = why_no_codes(evidence, True)
    report = (
        Report(KIND, _title(name), missing, (), ())
        if missing
        else latent_report(name, latent_of(evidence))
    )
    return replace(report, kind=f"{KIND}-trial-{number}")


def latent_report(name: str, latent: Latent) -> Report:
    """The report on a code by itself."""
    size = ("test images × code", f"{len(latent.codes):,} × {latent.dimension}")
    if latent.constant or len(latent.codes) < _FEWEST:
        lead = (
            "The model gives every test image the same code: it carries nothing, and there is"
            " nothing to map."
            if len(latent.codes) >= _FEWEST
            else f"There are only {len(latent.codes)} test images with a code; a map needs more."
        )
        return Report(KIND, _title(name), lead, (size,), ())
    maps = make_maps(latent.codes)
    merits = measure(latent, maps)
    return Report(
        KIND,
        _title(name),
        _lead(latent, merits),
        (size, *_facts(merits)),
        _sections(latent, maps, merits),
    )


def _title(name: str) -> str:
    return f"{name}: latent space"


def _facts(merits: Merits) -> tuple[tuple[str, str], ...]:
    facts = []
    if merits.knn:
        facts.append(
            (f"class from {plural(merits.k, 'nearest neighbour')}", share(merits.knn["code"]))
        )
        facts.append(("class from a linear probe", share(merits.probe["code"])))
    if "tsne" in merits.of_code:
        kept = merits.of_code["tsne"]
        facts.append(("t-SNE: trustworthiness", f"{kept.trustworthiness:.3f}"))
        facts.append((f"t-SNE: {merits.k} nearest kept", share(kept.recall[merits.k])))
    if merits.stability:
        facts.append(("CKA between folds", f"{np.mean(merits.stability.cka):.3f}"))
    return tuple(facts)


def _lead(latent: Latent, merits: Merits) -> str:
    sentences = [
        _about_classes(latent, merits) if merits.knn else _about_neighbours(latent, merits)
    ]
    if "tsne" in merits.of_code:
        kept = share(merits.of_code["tsne"].recall[merits.k])
        sentences.append(
            f"The t-SNE map keeps {kept} of the code's neighbours: use it to find things, not to"
            " measure."
        )
    if merits.stability:
        agreement = float(np.mean(merits.stability.cka))
        sentences.append(
            f"The fold models agree on the code (CKA {agreement:.2f})."
            if agreement >= _AGREE
            else (
                f"The fold models disagree on the code (CKA {agreement:.2f}): what you see may be"
                " this model's own."
            )
        )
    return " ".join(sentences)


def _about_classes(latent: Latent, merits: Merits) -> str:
    """Whether the code knows more of the classes than a linear code of its size, and what
    follows."""
    code, linear, pixels = (merits.knn[name] for name in ("code", "components", "pixels"))
    noise = 1.96 * float(np.sqrt((code * (1 - code) + linear * (1 - linear)) / len(latent.codes)))
    enough = noise <= _TELLING
    verdict = "no better or worse than"
    advice = (
        " For telling classes apart a linear code would do."
        if enough
        else " More images would tell more."
    )
    if code > linear + noise:
        verdict, advice = "more than", ""
    elif code < linear - noise:
        verdict, advice = (
            "less than",
            " A linear code would serve better: train longer or on more data.",
        )
    return (
        f"In the code, an image's {plural(merits.k, 'nearest neighbour')} tell the class of"
        f" {share(code)} of {len(latent.codes):,} test images: {verdict} PCA of the same size"
        f" ({share(linear)}), with {share(pixels)} for the raw pixels.{advice}"
    )


def _about_neighbours(latent: Latent, merits: Merits) -> str:
    code, linear = (
        share(merits.of_pixels[name].recall[merits.k]) for name in ("code", "components")
    )
    return (
        f"The code keeps {code} of an image's {plural(merits.k, 'nearest neighbour')} among"
        f" {len(latent.codes):,} test images, PCA of the same size {linear}."
    )


def _sections(latent: Latent, maps: Maps, merits: Merits) -> tuple[Section, ...]:
    sections = [
        Section("The map", _map_blocks(latent, maps)),
        Section("What the code keeps", _merit_blocks(latent, merits)),
        (
            Section("How far to trust a t-SNE map", (panels_figure(latent, maps),))
            if maps.panels
            else None
        ),
        Section(
            "Whether the folds agree",
            (
                stability_table(latent, merits)
                or Paragraph(
                    "It takes the codes of two fold models or more to tell whether they agree;"
                    f" there is {'one' if len(latent.fold_codes) else 'none'}."
                ),
            ),
        ),
        Section("For paper and slides", stills) if (stills := _stills(latent, maps)) else None,
    ]
    return tuple(section for section in sections if section is not None)


def _map_blocks(latent: Latent, maps: Maps) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if latent.left_out:
        blocks.append(
            Paragraph(f"{latent.left_out:,} test images are left out: their codes are not finite.")
        )
    if latent.labels is None:
        blocks.append(
            Paragraph(
                "The data have no labels of two classes or more, so the maps are in one colour."
            )
        )
    elif len(latent.names) > 10:
        blocks.append(
            Paragraph(f"Of the {len(latent.names)} classes every tenth has the same colour.")
        )
    main = maps.of("tsne")
    if main is None and latent.dimension > 1:
        blocks.append(Paragraph(f"{len(latent.codes)} images are too few for t-SNE."))
    blocks += [scatter(latent, maps.full)] if maps.full else []
    blocks += [image_map(latent, main)] if main else []
    return tuple(blocks)


def _stills(latent: Latent, maps: Maps) -> tuple[Block, ...]:
    """The maps as figures."""
    main, code = maps.of("tsne"), maps.of("code")
    plain = code or maps.of("pca")
    blocks = [map_figure(latent, main)] if main else []
    if plain:
        blocks.append(
            line_figure(latent, plain) if latent.dimension == 1 else code_figure(latent, plain)
        )
    return tuple(blocks)


def _merit_blocks(latent: Latent, merits: Merits) -> tuple[Block, ...]:
    classes = class_table(latent, merits)
    sentence = Paragraph("Without labels there are no accuracies, only neighbourhoods.")
    return (classes or sentence, *kept_tables(latent, merits))
