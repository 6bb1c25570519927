"""The report on a sweep of variational autoencoders: rate, distortion, samples, test metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from foldrace.analysis.records.vae import VaeRecord, is_variational, read_vae_record
from foldrace.analysis.reports.page import Paragraph, Report, Section, Table
from foldrace.analysis.reports.vae import figures as vae_figures
from foldrace.analysis.reports.vae import pictures as vae_pictures

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build"]

KIND = "vae"
# the share by which the last epoch must lower the loss for the advice to train longer
_STILL_FALLING = 0.003
_NO_REFIT = (
    "It needs the refitted model: `foldrace refit` trains the best configuration on all training"
    " data and tests it once."
)


def build(client: MlflowClient, run: Run) -> Report:
    """The report on the sweep with this run."""
    record = read_vae_record(client, run)
    title = f"{record.name}: variational autoencoder"
    if not is_variational(run, record.trials):
        task = run.data.tags.get("foldrace.task", "its task")
        lead = f"{record.name} is no sweep of variational autoencoders: {task} has no KL term."
        return Report(KIND, title, lead, (), ())
    return Report(KIND, title, _lead(record), _facts(record), _sections(record))


def _sections(record: VaeRecord) -> tuple[Section, ...]:
    evidence = record.evidence
    curves = (
        vae_figures.rate_distortion(record)
        or Paragraph("No trial has recorded its KL and its squared error yet."),
        vae_figures.bound_over_epochs(record)
        or Paragraph("There is no best trial to show: no trial was completed."),
        vae_figures.kl_per_dimension(record)
        or Paragraph("The KL of each code dimension was not recorded."),
    )
    samples = (
        vae_pictures.prior_samples(evidence) or Paragraph(f"Samples from the prior. {_NO_REFIT}"),
        vae_pictures.traversals(evidence),
        vae_pictures.manifold(evidence),
        vae_pictures.interpolations(evidence),
    )
    tested = (
        _test_table(record) or Paragraph(f"The test metrics. {_NO_REFIT}"),
        vae_pictures.best_and_worst(evidence),
    )
    return tuple(
        Section(title, tuple(block for block in blocks if block is not None))
        for title, blocks in (
            ("What the code costs, and what it keeps", curves),
            ("What the model generates", samples),
            ("How it reconstructs the test images", tested),
        )
    )


def _score(record: VaeRecord) -> tuple[str, dict[str, float]]:
    """The best trial's metrics and their source: the test set after a refit, else validation."""
    if record.test:
        return "test", dict(record.test)
    assert record.best_trial is not None
    names = ("elbo", "reconstruction", "kl", "squared_error", "mse", "active_units")
    given = {name: record.best_trial.get(f"val_{name}", math.nan) for name in names}
    return "validation", {name: float(value) for name, value in given.items()}


def _dimensions(record: VaeRecord) -> int | None:
    given = record.params.get("latent_dim", "")
    return int(given) if given.isdigit() else None


def _facts(record: VaeRecord) -> tuple[tuple[str, str], ...]:
    if record.best_trial is None:
        return ()
    where, score = _score(record)
    label, loss = _loss(record, score)
    facts = [
        (f"{label}, {where}", loss),
        (f"KL, {where} (nats)", score.get("kl", math.nan)),
        (f"MSE per pixel, {where}", score.get("mse", math.nan)),
    ]
    shown = [(label, _number(value)) for label, value in facts if math.isfinite(value)]
    dimensions, active = _dimensions(record), score.get("active_units", math.nan)
    if dimensions and math.isfinite(active):
        shown.append(("active units", f"{active:.3g} of {dimensions}"))
    return tuple(shown)


def _loss(record: VaeRecord, score: Mapping[str, float]) -> tuple[str, float]:
    """The objective with its common name: at σ² = ½ it is squared error + KL, up to a constant."""
    if record.variance == 0.5:
        return "squared error + KL", score.get("squared_error", math.nan) + score.get(
            "kl", math.nan
        )
    return "negative ELBO", -score.get("elbo", math.nan)


def _lead(record: VaeRecord) -> str:
    if not len(record.trials):
        return "No trial has started yet."
    if record.best_trial is None:
        failed = int((record.trials["status"] == "failed").sum())
        why = f"; {failed} of {len(record.trials)} failed" if failed else ""
        return f"No trial was completed, so there is no best trial{why}."
    where, score = _score(record)
    dimensions, active = _dimensions(record), score.get("active_units", math.nan)
    label, loss = _loss(record, score)
    first = (
        f"On the {where} images the best trial pays {score.get('kl', math.nan):.1f} nats for a"
        f" code and has a squared error of {score.get('squared_error', math.nan):.1f} per image;"
        f" {label}: {loss:.2f}."
    )
    return " ".join([first, *_advice(record, dimensions, active)])


def _advice(record: VaeRecord, dimensions: int | None, active: float) -> list[str]:
    """What to do next, in sentences."""
    advice = []
    if dimensions and math.isfinite(active):
        off = dimensions - round(active)
        if off == dimensions:
            advice.append(
                "The code carries no information (posterior collapse): lower beta, warm it up, or"
                " set free_bits."
            )
        elif off:
            advice.append(
                f"{off} of {dimensions} code dimensions carry no information: a latent_dim of"
                f" {dimensions - off} is enough, or a smaller beta or free_bits may use them."
            )
        else:
            advice.append(
                f"All {dimensions} code dimensions are in use, so a larger latent_dim may help."
            )
    slope = _last_step(record)
    if slope is not None and slope > _STILL_FALLING:
        advice.append(
            f"The last epoch still lowered the loss by {100 * slope:.1f} %: train longer before"
            " you judge it."
        )
    return advice


def _last_step(record: VaeRecord) -> float | None:
    """The share by which the last epoch lowered the best trial's negative ELBO.

    The likelihood's constant is left out; None if there are no two epochs.
    """
    curves = record.curves
    if not {"val_reconstruction", "val_kl"} <= set(curves.columns):
        return None
    total = curves["val_reconstruction"] + curves["val_kl"] - record.constant
    means = total.groupby(curves["epoch"]).mean()
    if len(means) < 2 or not means.iloc[-2]:
        return None
    return float((means.iloc[-2] - means.iloc[-1]) / abs(means.iloc[-2]))


_MEANINGS = {
    "negative_elbo": "reconstruction + KL at β = 1, the objective of the sweep, nats per image",
    "reconstruction": (
        "negative log-likelihood of the image, its code drawn from the posterior, nats per image"
    ),
    "kl": "of the posterior from the prior: the cost of the code, nats per image",
    "squared_error": "summed over an image, its code drawn from the posterior",
    "sum": "the negative ELBO at σ² = ½ without the likelihood's constant",
    "mse": "a mean over pixels, from the posterior's mean",
    "active_units": "code dimensions whose posterior mean varies by more than 0.01",
}


def _test_table(record: VaeRecord) -> Table | None:
    if not record.test or record.best_trial is None:
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
            f"a tighter bound on log p(x), from {codes} codes per image (Burda et al., 2016){gap}"
        )
        rows.append((f"IWAE bound, k = {codes}", _number(bound), "–", meaning))
    caption = (
        "Test: the best configuration, trained on all training images and tested once."
        " Cross-validation: its mean over the folds ± the standard error, each fold's model"
        " trained on the other folds only."
    )
    return Table(
        "Test metrics", ("metric", "test", "cross-validation", "what it is"), tuple(rows), caption
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
