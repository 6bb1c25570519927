"""The results of the reference study beside those of the original one."""

from __future__ import annotations

import math

from foldrace.analysis.statistics.intervals import plus_minus
from foldrace.analysis.study.record import PartRecord, StudyRecord
from foldrace.analysis.text import digits, plural
from foldrace.search.text import clock
from foldrace.trainables.training.reports import mean_and_standard_error

__all__ = ["REFERENCE_MSE", "flaw_rows", "study_results", "vae_fold_losses", "vae_test_terms"]

REFERENCE_MSE = 0.021467
"""The original study's test MSE; it does not say how large its code was."""

_NONE = "–"
_FLAWS = (
    (
        "The VAE's validation loss was the same number in every epoch and fold: the wrong model"
        " was evaluated.",
        "A trial's metrics come from the model that it trained; tests check that training and the"
        " fold change them.",
    ),
    (
        "One learning-rate range served Adam and SGD, with no numbers and no repeats.",
        "Each has its own range and the same budget; the best of each is repeated on fresh folds"
        " and seeds.",
    ),
    (
        "Weak configurations trained every fold to the end.",
        "The scheduler prunes them early.",
    ),
    (
        "Training losses were sums, validation losses means.",
        "Both are means over images, computed by the same code.",
    ),
    (
        "Nothing outlived the notebook; no run could be resumed or repeated.",
        "Every trial and fold is recorded with its seed, file, data digest and environment, and"
        " can be resumed.",
    ),
)


def study_results(record: StudyRecord) -> list[tuple[str, str, str]]:
    """Rows of (what was measured, in the original study, here)."""
    cpus = record.environment.get("cpus")
    where = f" on {plural(cpus, 'core')}" if cpus else ""
    time = ("time", "50 to 60 minutes", clock(record.progress.total) + where)
    return [*_autoencoder(record), *_optimizers(record), *_vae(record), time]


def _autoencoder(record: StudyRecord) -> list[tuple[str, str, str]]:
    rows = []
    part = record.parts.get("ae")
    if part is not None and part.folds:
        mean = _mean_text(part.folds)
        rows.append(("autoencoder: validation MSE over 3 folds", "about 0.0256", mean))
        reference = "about 0.0128, searched from 0.01 to 0.03"
        rate = digits(part.param("lr"), 3) + _range(part)
        rows.append(("its learning rate", reference, rate))
    for size, refitted in reversed(record.autoencoders):
        reference, mse = f"{REFERENCE_MSE} (code size not stated)", f"{refitted.test['mse']:.5f}"
        rows.append((f"autoencoder: test MSE, code of {size}", reference, mse))
        if size in record.linear:
            mse = f"{record.linear[size].mse:.5f}"
            rows.append((f"PCA: test MSE, {size} components", _NONE, mse))
    return rows


def _optimizers(record: StudyRecord) -> list[tuple[str, str, str]]:
    if record.verdict is None or not record.verdict.standings:
        return []
    means = [f"{arm} {plus_minus(found)}" for arm, found in record.verdict.standings.items()]
    reference, here = "Adam visibly better; no number", f"{'; '.join(means)} (95 % intervals)"
    return [("optimizers: validation MSE", reference, here)]


def _vae(record: StudyRecord) -> list[tuple[str, str, str]]:
    rows = []
    if folds := vae_fold_losses(record):
        each = ", ".join(f"{loss:.2f}" for loss in folds)
        reference = "0.0214060 in each, and in each epoch"
        rows.append(("VAE: validation loss, fold by fold", reference, f"{each} nats per image"))
    if terms := vae_test_terms(record):
        error, kl = terms
        sum_text = f"{error:.2f} + {kl:.2f} = {error + kl:.2f}"
        rows.append(("VAE: test loss, squared error + KL", _NONE, sum_text))
    return rows


def _mean_text(losses: tuple[float, ...]) -> str:
    mean, error = mean_and_standard_error(list(losses))
    return f"{mean:.5f} ± {error:.5f}" if math.isfinite(error) else f"{mean:.5f}"


def _range(part: PartRecord) -> str:
    bounds = getattr(part.spec.space.get("lr"), "bounds", None)
    return f", searched from {bounds[0]:g} to {bounds[1]:g}" if bounds else ""


def vae_fold_losses(record: StudyRecord) -> list[float]:
    """The best VAE's validation loss in each fold, in nats per image; empty without one."""
    vae = record.vae
    if vae is None:
        return []
    pairs = zip(vae.folds("val_reconstruction"), vae.folds("val_kl"), strict=False)
    return [reconstruction + kl - vae.constant for reconstruction, kl in pairs]


def vae_test_terms(record: StudyRecord) -> tuple[float, float] | None:
    """The refitted VAE's squared error and KL term on the test images; None without them."""
    part = record.parts.get("vae")
    if part is None or not {"squared_error", "kl"} <= set(part.test):
        return None
    return part.test["squared_error"], part.test["kl"]


def flaw_rows(record: StudyRecord) -> list[tuple[str, str, str]]:
    """Rows of (a flaw of the original study, what is done here, what that gave in this run)."""
    ae = record.parts.get("ae")
    folds = ", ".join(f"{loss:.2f}" for loss in vae_fold_losses(record)) or _NONE
    pruned = scales = arms = _NONE
    if ae is not None:
        spent, full = ae.fold_epochs
        trials = plural(len(ae.trials), "trial")
        pruned = f"{ae.pruned} of {trials} pruned: {spent} fold-epochs instead of {full}"
        training, validation = (digits(ae.metric(f"{part}_mse")) for part in ("train", "val"))
        scales = f"best trial's MSE: {training} in training, {validation} in validation"
    if record.comparison is not None:
        repeats = plural(record.comparison.repeats, "repeat")
        paired = f"{repeats} × {plural(record.comparison.splits, 'fold')}, paired"
        arms = f"{len(record.comparison.arms)} ranges, {paired}"
    runs = sum(len(part.trials) * (1 + part.spec.folds.splits) for part in record.parts.values())
    revision = str(record.environment.get("git_revision") or "")[:12]
    kept = f"about {runs} runs in MLflow" + (f", of revision {revision}" if revision else "")
    here = (f"folds: {folds}", arms, pruned, scales, kept)
    return [(*flaw, found) for flaw, found in zip(_FLAWS, here, strict=True)]
