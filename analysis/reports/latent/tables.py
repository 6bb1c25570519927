"""The figures of merit as tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foldrace.analysis.records.latent import Latent
from foldrace.analysis.reports.latent.merits import NEAREST, Kept, Merits, chance
from foldrace.analysis.reports.page import Table

__all__ = ["class_table", "kept_tables", "share", "stability_table"]


def share(value: float) -> str:
    """``81.4 %``; ``–`` for what is missing."""
    return f"{100 * value:.1f} %" if np.isfinite(value) else "–"


def space_names(latent: Latent) -> dict[str, str]:
    """What the tables call each space and map."""
    numbers = "number" if latent.dimension == 1 else "numbers"
    count = min(latent.dimension, *latent.pixels.shape)
    return {
        "pixels": f"raw pixels ({latent.pixels.shape[1]:,} numbers)",
        "components": f"PCA of the pixels ({count} {'number' if count == 1 else 'numbers'})",
        "code": f"code ({latent.dimension} {numbers})",
        "pca": "PCA map of the code (2 numbers)",
        "tsne": "t-SNE map of the code (2 numbers)",
    }


def class_table(latent: Latent, merits: Merits) -> Table | None:
    """What each space knows of the classes, though no model has seen them; None without labels."""
    if latent.labels is None:
        return None
    n, names = len(latent.labels), space_names(latent)
    rows = [
        (
            names[name],
            share(merits.knn[name]),
            share(merits.probe[name]) if name in merits.probe else "–",
        )
        for name in merits.knn
    ]
    most = float(np.bincount(latent.labels).max()) / n
    rows.append(("always the most frequent class", share(most), share(most)))
    caption = (
        f"kNN: the class that most of the {merits.k} nearest other images have (leave-one-out)."
        " Linear probe: logistic regression on standardised coordinates, each half of the images"
        f" predicted from the other half, the penalty chosen within a half. Of {n:,} test images,"
        f" so that a difference of less than {share(_noise(latent))} is within chance (95 %). PCA"
        " and both maps were fitted to these same images, without their classes; a map cannot"
        " place new ones, so no probe is trained on it."
    )
    return Table(
        "What each space knows of the classes",
        ("space", "kNN accuracy", "linear probe"),
        tuple(rows),
        caption,
    )


def _noise(latent: Latent) -> float:
    """How far two accuracies near 80 % may lie apart by chance, at most: as if they were of
    different images."""
    return float(1.96 * np.sqrt(2 * 0.8 * 0.2 / len(latent.codes)))


def kept_tables(latent: Latent, merits: Merits) -> tuple[Table, ...]:
    """What the maps keep of the code's neighbourhoods, and what each space keeps of the
    pixels'."""
    counts = [k for k in NEAREST if k in next(iter(merits.of_pixels.values())).recall] or [
        merits.k
    ]
    n, names = len(latent.codes), space_names(latent)
    by_chance = chance(n, counts)
    columns = ("space", "trustworthiness", "continuity", *(f"kNN kept, k = {k}" for k in counts))
    drawn = f"{merits.queries:,} of {n:,}" if merits.queries < n else f"all {n:,}"
    explained = (
        f"Trustworthiness: whether the {merits.k} nearest were near before too; continuity:"
        " whether those that were nearest before are still near (Venna and Kaski, 2001; averages"
        f" over {drawn} images, ranks among all). kNN kept: the share of the k nearest neighbours"
        " that stay, over all images."
    )
    tables = []
    for title, kept, caption in (
        ("What the maps keep of the code's neighbourhoods", merits.of_code, explained),
        (
            "What is kept of the pixels' neighbourhoods",
            merits.of_pixels,
            (
                "As above, against distances between raw pixels. A code that leaves them may well"
                " have gained by it: two shirts a pixel apart are neighbours for us and not for"
                " pixels."
                if merits.of_code
                else explained
            ),
        ),
    ):
        rows = [_kept_row(names[name], values) for name, values in kept.items()]
        if rows:
            tables.append(
                Table(title, columns, (*rows, _kept_row("by chance", by_chance)), caption)
            )
    return tuple(tables)


def _kept_row(name: str, kept: Kept) -> tuple[str, ...]:
    recall = [share(kept.recall[k]) for k in kept.recall]
    return (name, f"{kept.trustworthiness:.3f}", f"{kept.continuity:.3f}", *recall)


def stability_table(latent: Latent, merits: Merits) -> Table | None:
    """How alike the codes of the fold models are; None for fewer than two."""
    found = merits.stability
    if found is None:
        return None
    rows = (
        _spread("linear CKA (1: the same)", found.cka, f"{found.shuffled_cka:.3f}"),
        _spread(
            "Procrustes distance (0: the same)",
            found.procrustes,
            f"{found.shuffled_procrustes:.3f}",
        ),
        _spread(
            f"neighbours in common, k = {merits.k}", found.shared, f"{found.shuffled_shared:.3f}"
        ),
        _spread(
            "linear CKA with PCA of the pixels", found.components, f"{found.shuffled_cka:.3f}"
        ),
    )
    folds = len(latent.fold_codes)
    caption = (
        f"The {folds} fold models, each trained on its own part of the data, encode the same"
        f" {len(latent.codes):,} test images; every pair is compared ({len(found.cka)}). CKA and"
        " Procrustes do not see a shift, rotation or scale, which a code is free to choose."
        " Shuffled: the images of one of the two in another order. The last row tells how much of"
        " the agreement is what a linear code of the pixels has."
    )
    return Table(
        "How alike the fold models' codes are", ("", "mean", "range", "shuffled"), rows, caption
    )


def _spread(name: str, values: Sequence[float], shuffled: str) -> tuple[str, ...]:
    return (name, f"{np.mean(values):.3f}", f"{min(values):.3f} to {max(values):.3f}", shuffled)
