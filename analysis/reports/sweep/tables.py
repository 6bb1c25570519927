"""Tables of the sweep report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foldrace.analysis.records.tables import parameter_texts
from foldrace.analysis.records.values import read_values
from foldrace.analysis.reports.page import Table
from foldrace.analysis.reports.style import BLUE, GREY, INK
from foldrace.analysis.text import digits, percent, plural
from foldrace.search.text import clock, params_text
from foldrace.trainables.tasks.parameters import Value

if TYPE_CHECKING:
    import pandas as pd

    from foldrace.analysis.records.sweep import SweepRecord

__all__ = [
    "STATUSES",
    "best_table",
    "cost_table",
    "failures_table",
    "ladder_table",
    "loss_text",
    "spent_by_status",
]

STATUSES = ("completed", "pruned", "failed", "interrupted", "running")
"""In the order of the cost's bar and table."""

_COLOURS = {"completed": BLUE, "failed": INK}
_NONE = "–"
_SHOWN_TRIALS = 10
_SHOWN_FAILURES = 50


def loss_text(mean: float, error: float) -> str:
    """A mean and its standard error, both to the place of the error's second digit.

    >>> loss_text(0.023471, 0.00461), loss_text(0.0235, math.nan)
    ('0.0235 ± 0.0046', '0.02350')
    """
    if not math.isfinite(error) or error <= 0:
        return digits(mean)
    places = 1 - math.floor(math.log10(error))
    if not 0 <= places <= 7:
        return f"{digits(mean)} ± {digits(error, 2)}"
    return f"{mean:.{places}f} ± {error:.{places}f}".replace("-", "−")


def best_table(record: SweepRecord) -> Table:
    """The best completed trials with their parameters, each compared with the best one."""
    best = record.ranking.head(_SHOWN_TRIALS)
    losses = record.folds.pivot_table(index="fold", columns="trial", values="val_loss")
    names = [parameter.name for parameter in record.parameters]
    rows = []
    for place, (_, row) in enumerate(best.iterrows(), 1):
        given = read_values(parameter_texts(row), record.spec)
        values = (_value_text(given[name]) if name in given else _NONE for name in names)
        score = loss_text(record.objective.score(row["val_loss"]), row["val_loss_se"])
        behind = _paired_difference(losses, row["trial"], record.best_trial)
        rows.append((str(place), str(row["trial"]), score, behind, *values))
    return Table(
        f"The best {len(best)}" if len(best) > 1 else "The best trial",
        ("#", "trial", f"{record.objective.name} ± std. error", "behind, fold by fold", *names),
        tuple(rows),
        "Behind, fold by fold: the mean difference to the best trial on the same folds ± its"
        " standard error, which does not contain that some folds are harder than others. The best"
        " trial was selected for its score, so the differences are somewhat too large.",
    )


def _value_text(value: Value) -> str:
    """A parameter's value; a number to three digits, unless it is a whole one."""
    return f"{value:#.3g}".rstrip(".") if isinstance(value, float) else str(value)


def _paired_difference(losses: pd.DataFrame, trial: int, best_trial: int | None) -> str:
    """The mean difference to the best_trial over their common folds, with its standard error."""
    if trial == best_trial or trial not in losses or best_trial not in losses:
        return _NONE
    differences = (losses[trial] - losses[best_trial]).dropna()
    return loss_text(float(differences.mean()), float(differences.sem()))


def ladder_table(record: SweepRecord) -> Table | None:
    """How many trials reached each rung; None for a ladder of one rung, or an unknown one."""
    ladder = record.spec.ladder if record.spec is not None else ()
    if len(ladder) < 2:
        return None
    trials, completed = record.trials, record.trials["status"] == "completed"
    reached = [
        int(
            (
                completed | ((trials["folds"] >= rung.folds) & (trials["epoch"] >= rung.epochs))
            ).sum()
        )
        for rung in ladder
    ]
    beyond = [*map(str, reached[1:]), _NONE]
    rows = tuple(
        (str(rung.folds), str(rung.epochs), str(rung.cost), str(count), further)
        for rung, count, further in zip(ladder, reached, beyond, strict=True)
    )
    columns = ("folds", "epochs", "fold-epochs per trial", "trials that reached it", "promoted")
    caption = "Trials are compared at the same rung only: on the same folds, after equal epochs."
    return Table("The ladder", columns, rows, caption)


def spent_by_status(record: SweepRecord) -> list[tuple[str, str, int]]:
    """Each status that occurs: its name, its colour and the fold-epochs of its trials."""
    spent = []
    for status in STATUSES:
        trials = record.trials["trial"][record.trials["status"] == status]
        if len(trials):
            epochs = sum(record.spent.get(int(trial), 0) for trial in trials)
            spent.append((status, _COLOURS.get(status, GREY), epochs))
    return spent


def cost_table(record: SweepRecord) -> Table:
    """Trials, fold-epochs and training time by status."""
    rows = []
    for status, _, epochs in spent_by_status(record):
        chosen = record.trials[record.trials["status"] == status]
        seconds = float(chosen["train_seconds"].sum()) if "train_seconds" in chosen else 0.0
        share = percent(epochs / record.fold_epochs)
        rows.append((status, str(len(chosen)), f"{epochs:,}", share, f"{seconds:,.1f}"))
    return Table(
        "By status",
        ("trials", "number", "fold-epochs", "share", "seconds of training"),
        tuple(rows),
        "The seconds are added up over trials that ran at the same time; the whole sweep took"
        f" {clock(record.seconds)}.",
    )


def failures_table(record: SweepRecord) -> Table | None:
    """The failed trials with their reasons and parameters; None without any."""
    failed = record.trials[record.trials["status"] == "failed"]
    if not len(failed):
        return None
    varying = {parameter.name for parameter in record.parameters}
    rows = []
    for _, row in failed.head(_SHOWN_FAILURES).iterrows():
        texts = {name: text for name, text in parameter_texts(row).items() if name in varying}
        given = read_values(texts, record.spec)
        reason = str(row["reason"]) or "no reason was recorded"
        rows.append((str(row["trial"]), reason, params_text(given)))
    hidden = len(failed) - len(rows)
    raised = [reason for reason in failed["reason"].astype(str) if "diverged" not in reason]
    parts = ["What was raised is in each trial's error.txt in MLflow."] if raised else []
    parts += [f"{hidden} more are not shown."] if hidden else []
    return Table(
        plural(len(failed), "failed trial"),
        ("trial", "reason", "parameters"),
        tuple(rows),
        " ".join(parts),
    )
