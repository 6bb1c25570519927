"""The scores of a code as tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from foldrace.analysis.records.latent import Latent
from foldrace.analysis.reports.latent.scores import (
    NEAREST,
    CodeScores,
    FoldAgreement,
    NeighbourhoodScores,
    chance_scores,
)
from foldrace.analysis.reports.page import Table
from foldrace.analysis.text import plural

__all__ = ["agreement_table", "class_table", "neighbourhood_tables", "percent"]


def percent(value: float) -> str:
    """A share in per cent; ``–`` if it is not finite.

    >>> percent(0.8137), percent(float("nan"))
    ('81.4 %', '–')
    """
    return f"{100 * value:.1f} %" if np.isfinite(value) else "–"


def _space_names(latent: Latent) -> dict[str, str]:
    components = min(latent.dimension, *latent.pixels.shape)
    return {
        "pixels": f"raw pixels ({latent.pixels.shape[1]:,} numbers)",
        "components": f"PCA of the pixels ({plural(components, 'number')})",
        "code": f"code ({plural(latent.dimension, 'number')})",
        "pca": "PCA map of the code (2 numbers)",
        "tsne": "t-SNE map of the code (2 numbers)",
    }


def class_table(latent: Latent, scores: CodeScores) -> Table | None:
    """How well the classes are predicted from each space; None without labels."""
    if latent.labels is None:
        return None
    n, names = len(latent.labels), _space_names(latent)
    rows = [
        (names[name], percent(accuracy), percent(scores.probe.get(name, np.nan)))
        for name, accuracy in scores.knn.items()
    ]
    most = percent(float(np.bincount(latent.labels).max()) / n)
    rows.append(("always the most frequent class", most, most))
    # how far two accuracies near 80 % of different images can be apart by chance
    noise = float(1.96 * np.sqrt(2 * 0.8 * 0.2 / n))
    caption = (
        f"kNN: the most frequent class among the {scores.k} nearest other images (leave-one-out)."
        " Linear probe: logistic regression on standardised coordinates, each half of the images"
        " predicted from the other half, with the penalty chosen within a half. There are"
        f" {n:,} test images: a difference of less than {percent(noise)} is within chance (95 %)."
        " PCA and both maps were fitted to the same images without their classes. A map cannot"
        " place new images, so no probe is trained on it."
    )
    return Table(
        "What each space knows of the classes",
        ("space", "kNN accuracy", "linear probe"),
        tuple(rows),
        caption,
    )


def neighbourhood_tables(latent: Latent, scores: CodeScores) -> tuple[Table, ...]:
    """What the maps keep of the code's neighbourhoods, and each space of the pixels'."""
    any_scores = next(iter(scores.pixel_neighbourhoods.values()))
    counts = [k for k in NEAREST if k in any_scores.recall] or [scores.k]
    n = len(latent.codes)
    queries = f"{scores.queries:,} of {n:,}" if scores.queries < n else f"all {n:,}"
    explained = (
        f"Trustworthiness: whether the {scores.k} nearest were near before; continuity: whether"
        " those that were nearest before are still near (Venna and Kaski, 2001; averages over"
        f" {queries} images, ranks among all). kNN kept: the share of the k nearest neighbours"
        " that are kept, over all images."
    )
    against_pixels = (
        "As above, against distances between raw pixels. Low values need not be a fault of the"
        " code: two shirts shifted by a pixel are similar to us and far apart in pixels."
    )
    tables = (
        ("What the maps keep of the code's neighbourhoods", scores.code_neighbourhoods, explained),
        (
            "What is kept of the pixels' neighbourhoods",
            scores.pixel_neighbourhoods,
            against_pixels if scores.code_neighbourhoods else explained,
        ),
    )
    columns = ("space", "trustworthiness", "continuity", *(f"kNN kept, k = {k}" for k in counts))
    by_chance = _row("by chance", chance_scores(n, counts))
    return tuple(
        Table(title, columns, (*_rows(latent, kept), by_chance), caption)
        for title, kept, caption in tables
        if kept
    )


def _rows(latent: Latent, kept: Mapping[str, NeighbourhoodScores]) -> list[tuple[str, ...]]:
    names = _space_names(latent)
    return [_row(names[name], scores) for name, scores in kept.items()]


def _row(name: str, scores: NeighbourhoodScores) -> tuple[str, ...]:
    recall = map(percent, scores.recall.values())
    return (name, f"{scores.trustworthiness:.3f}", f"{scores.continuity:.3f}", *recall)


def agreement_table(latent: Latent, scores: CodeScores) -> Table | None:
    """How similar the codes of the fold models are; None for fewer than two."""
    if not scores.agreement:
        return None
    names = {
        "cka": "linear CKA (1: the same)",
        "procrustes": "Procrustes distance (0: the same)",
        "neighbours": f"neighbours in common, k = {scores.k}",
        "components": "linear CKA with PCA of the pixels",
    }
    pairs = len(scores.agreement["cka"].values)
    caption = (
        f"The {len(latent.fold_codes)} fold models, each trained on its own part of the data,"
        f" encode the same {len(latent.codes):,} test images; every pair is compared ({pairs})."
        " CKA and Procrustes ignore shift, rotation and scale, which a code is free to choose."
        " Shuffled: the images of one of the two in random order. The last row shows how much of"
        " the agreement a linear code of the pixels explains."
    )
    return Table(
        "How similar the fold models' codes are",
        ("", "mean", "range", "shuffled"),
        tuple(_agreement_row(name, scores.agreement[measure]) for measure, name in names.items()),
        caption,
    )


def _agreement_row(name: str, found: FoldAgreement) -> tuple[str, ...]:
    low, high = min(found.values), max(found.values)
    return (name, f"{found.mean:.3f}", f"{low:.3f} to {high:.3f}", f"{found.shuffled:.3f}")
