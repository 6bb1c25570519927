"""The report on a sweep of variational autoencoders: what the code costs, what it keeps, what the
model dreams up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from foldrace.analysis.records.vae import VaeRecord, is_variational, read_vae_record
from foldrace.analysis.reports.page import Block, Figure, Paragraph, Report, Section, Table
from foldrace.analysis.reports.vae import figures as vae_figures
from foldrace.analysis.reports.vae import pictures as vae_pictures

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build"]

KIND = "vae"
_STILL_FALLING = 0.003
_NO_REFIT = (
    "It needs the refitted model: `foldrace refit` trains the winner on all training data and"
    " tests it once."
)


def build(client: MlflowClient, run: Run) -> Report:
    """The report on the sweep with this run."""
    record = read_vae_record(client, run)
    if not is_variational(run, record.trials):
        task = run.data.tags.get("foldrace.task", "its task")
        lead = f"{record.name} is no sweep of variational autoencoders: {task} has no KL term."
        return Report(KIND, f"{record.name}: variational autoencoder", lead, (), ())
    return Report(
        KIND,
        f"{record.name}: variational autoencoder",
        _lead(record),
        _facts(record),
        _sections(record),
    )


def _sections(record: VaeRecord) -> tuple[Section, ...]:
    evidence, figures = record.evidence, vae_figures
    return (
        Section(
            "What the code costs, and what it keeps",
            (
                _or(
                    figures.rate_distortion(record),
                    "No trial has recorded its KL and its squared error yet.",
                ),
                _or(
                    figures.bound_over_epochs(record),
                    "There is no winner to follow: no trial was evaluated to the end.",
                ),
                _or(
                    figures.kl_per_dimension(record),
                    "The KL of each code dimension was not recorded.",
                ),
            ),
        ),
        Section(
            "What the model imagines",
            tuple(
                _or(figure, sentence)
                for figure, sentence in (
                    (vae_pictures.prior_samples(evidence), f"Samples from the prior. {_NO_REFIT}"),
                    (vae_pictures.traversals(evidence), ""),
                    (vae_pictures.manifold(evidence), ""),
                    (vae_pictures.interpolations(evidence), ""),
                )
                if figure or sentence
            ),
        ),
        Section(
            "What it does to the test images",
            (
                _or(_test_table(record), f"The test figures. {_NO_REFIT}"),
                *((worst,) if (worst := vae_pictures.best_and_worst(evidence)) else ()),
            ),
        ),
    )


def _or(block: Figure | Table | None, sentence: str) -> Block:
    return block if block is not None else Paragraph(sentence)


def _score(record: VaeRecord) -> tuple[str, dict[str, float]]:
    """Where the winner's figures come from, and they: the test set after a refit, else the folds'
    means."""
    if record.test:
        return "test", dict(record.test)
    assert record.winner is not None
    names = ("elbo", "reconstruction", "kl", "squared_error", "mse", "active_units")
    given = {name: record.winner.get(f"val_{name}", math.nan) for name in names}
    return "validation", {name: float(value) for name, value in given.items()}


def _dimensions(record: VaeRecord) -> int | None:
    given = record.params.get("latent_dim", "")
    return int(given) if given.isdigit() else None


def _facts(record: VaeRecord) -> tuple[tuple[str, str], ...]:
    if record.winner is None:
        return ()
    where, score = _score(record)
    label, loss = _loss(record, score)
    facts = [
        (f"{label}, {where}", loss),
        (f"KL, {where} (nats)", score.get("kl", math.nan)),
        (f"MSE a pixel, {where}", score.get("mse", math.nan)),
    ]
    shown = [(label, _number(value)) for label, value in facts if math.isfinite(value)]
    dimensions, active = _dimensions(record), score.get("active_units", math.nan)
    if dimensions and math.isfinite(active):
        shown.append(("active units", f"{active:.3g} of {dimensions}"))
    return tuple(shown)


def _loss(record: VaeRecord, score: Mapping[str, float]) -> tuple[str, float]:
    """The objective by the name that people know it by: at σ² = ½ it is a sum of squares + KL, and
    a constant."""
    if record.variance == 0.5:
        return "squared error + KL", score.get("squared_error", math.nan) + score.get(
            "kl", math.nan
        )
    return "negative ELBO", -score.get("elbo", math.nan)


def _lead(record: VaeRecord) -> str:
    if not len(record.trials):
        return "No trial has started yet."
    if record.winner is None:
        failed = int((record.trials["status"] == "failed").sum())
        why = f"; {failed} of {len(record.trials)} failed" if failed else ""
        return f"No trial was evaluated to the end, so there is no winner{why}."
    where, score = _score(record)
    dimensions, active = _dimensions(record), score.get("active_units", math.nan)
    label, loss = _loss(record, score)
    first = (
        f"On the {where} images the winner pays {score.get('kl', math.nan):.1f} nats for a code"
        f" and is left with a squared error of {score.get('squared_error', math.nan):.1f} an"
        f" image; {label}: {loss:.2f}."
    )
    return " ".join([first, *_advice(record, dimensions, active)])


def _advice(record: VaeRecord, dimensions: int | None, active: float) -> list[str]:
    """What a reader would do next."""
    advice = []
    if dimensions and math.isfinite(active):
        off = dimensions - round(active)
        if off == dimensions:
            advice.append(
                "The code carries nothing (posterior collapse): lower beta, warm it up, or set"
                " free_bits."
            )
        elif off:
            advice.append(
                f"{off} of {dimensions} code dimensions carry nothing: a latent_dim of"
                f" {dimensions - off} does as well, and a smaller beta or free_bits would use"
                " them."
            )
        else:
            advice.append(
                f"All {dimensions} code dimensions are in use, so a larger latent_dim may help."
            )
    slope = _last_step(record)
    if slope is not None and slope > _STILL_FALLING:
        advice.append(
            f"The last epoch still lowered the loss by {100 * slope:.1f} %: train longer before"
            " judging it."
        )
    return advice


def _last_step(record: VaeRecord) -> float | None:
    """By what share the last epoch lowered the winner's negative ELBO, less the likelihood's
    constant."""
    curves = record.curves
    if not {"val_reconstruction", "val_kl"} <= set(curves.columns):
        return None
    total = curves["val_reconstruction"] + curves["val_kl"] - record.constant
    means = total.groupby(curves["epoch"]).mean()
    if len(means) < 2 or not means.iloc[-2]:
        return None
    return float((means.iloc[-2] - means.iloc[-1]) / abs(means.iloc[-2]))


_MEANINGS = {
    "negative_elbo": "reconstruction + KL at β = 1: what trials are compared by, nats an image",
    "reconstruction": (
        "negative log-likelihood of the image, its code drawn from the posterior, nats"
    ),
    "kl": "from the posterior to the prior: what the code costs, nats",
    "squared_error": "summed over an image, its code drawn from the posterior",
    "sum": "the negative ELBO at σ² = ½ without the likelihood's constant",
    "mse": "a mean over pixels, from the posterior's mean",
    "active_units": "code dimensions whose posterior mean varies by more than 0.01",
}


def _test_table(record: VaeRecord) -> Table | None:
    if not record.test or record.winner is None:
        return None
    test = {**record.test, "negative_elbo": -record.test.get("elbo", math.nan)}
    if record.variance == 0.5:
        test["sum"] = _loss(record, test)[1]
    labels = {
        "sum": "squared error + KL",
        "negative_elbo": "negative ELBO",
        "kl": "KL",
        "mse": "MSE",
    }
    rows = []
    for name, meaning in _MEANINGS.items():
        if math.isfinite(test.get(name, math.nan)):
            label = labels.get(name, name.replace("_", " "))
            rows.append((label, _number(test[name]), _cross_validated(record, name), meaning))
    if record.bound:
        codes, bound = record.bound
        gap = (
            f"; above the ELBO by {bound - record.test['elbo']:.2f} nats"
            if "elbo" in record.test
            else ""
        )
        meaning = (
            f"a tighter bound on log p(x), from {codes} codes an image (Burda et al., 2016){gap}"
        )
        rows.append((f"IWAE bound, k = {codes}", _number(bound), "–", meaning))
    caption = (
        "Test: the winner, trained on all training images and tested once. Cross-validation: its"
        " mean over the folds ± the standard error, each fold's model trained on the other folds"
        " only."
    )
    return Table(
        "Test figures", ("figure", "test", "cross-validation", "what it is"), tuple(rows), caption
    )


def _cross_validated(record: VaeRecord, name: str) -> str:
    parts = {"sum": ("squared_error", "kl"), "negative_elbo": ("reconstruction", "kl")}.get(
        name, (name,)
    )
    folds = np.array([record.folds(f"val_{part}") for part in parts]).sum(0)
    if not folds.size:
        return "–"
    if len(folds) == 1:
        return _number(float(folds[0]))
    digits = _digits(float(folds.mean()))
    return f"{folds.mean():.{digits}f} ± {folds.std(ddof=1) / math.sqrt(len(folds)):.{digits}f}"


def _number(value: float) -> str:
    return f"{value:.{_digits(value)}f}".replace("-", "−")


def _digits(value: float) -> int:
    return 5 if abs(value) < 1 else 2
