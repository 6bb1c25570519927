"""The sweep report: the best trials, how the search went, what mattered, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from foldrace.analysis.records.sweep import SearchedParameter, SweepRecord, read_sweep_record
from foldrace.analysis.reports.page import Block, Code, Paragraph, Picture, Report, Section
from foldrace.analysis.reports.sweep.figures import best_trials, cost, incumbent, learning_curves
from foldrace.analysis.reports.sweep.rank_correlation import (
    FEWEST_TRIALS,
    rank_correlation,
    rung_correlations,
)
from foldrace.analysis.reports.sweep.space_figures import importances, parallel_coordinates, slices
from foldrace.analysis.reports.sweep.tables import (
    STATUSES,
    best_table,
    cost_table,
    failures_table,
    ladder_table,
    loss_text,
    spent_by_status,
)
from foldrace.analysis.statistics.importance import FEWEST, Importance, importance
from foldrace.analysis.text import listed, percent, plural
from foldrace.search.text import clock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build"]

_NOTHING = "The sweep ended before a trial began, so there is nothing to report."
_NOTHING_YET = {
    "running": "The sweep is running; no trial has begun yet.",
    "interrupted": (
        "The sweep was interrupted before a trial began, so there is nothing to report."
    ),
}


def build(client: MlflowClient, run: Run) -> Report:
    """The report of the sweep with this run, however far the sweep has come."""
    record = read_sweep_record(client, run)
    setup = Section("Configuration", _setup(record))
    sections = (
        Section("The best trials", _best(record)),
        Section("How the search went", _progress(record)),
        Section("What mattered", _space(record)),
        Section("What it cost", _cost(record)),
        Section("Failed trials", _failures(record)),
        setup,
    )
    shown = sections if len(record.trials) else (setup,)
    return Report("sweep", f"{record.name}: sweep", _lead(record), _facts(record), shown)


# --- lead and facts ------------------------------------------------------------------------------


def _lead(record: SweepRecord) -> str:
    best = record.ranking
    if not len(record.trials):
        return _NOTHING_YET.get(record.state, _NOTHING)
    if not len(best):
        counts = [
            f"{record.count(status)} {status}" for status in STATUSES if record.count(status)
        ]
        return f"No trial has completed, so there is no best trial: {', '.join(counts)}."
    first = best.iloc[0]
    folds = int(first["folds"])
    spread = (
        f"mean ± standard error over {folds} folds"
        if folds > 1
        else "a single fold, so there is no standard error"
    )
    so_far = " so far" if record.state == "running" else ""
    score = loss_text(record.objective.score(first["val_loss"]), first["val_loss_se"])
    name = record.objective.name
    return (
        f"Trial {first['trial']} is best{so_far}, with a validation {name} of {score} ({spread})."
        f" {_rivals(record)} {_price(record)}"
    )


def _rivals(record: SweepRecord) -> str:
    others = len(record.ranking) - 1
    if not others:
        return "It is the only completed trial, so there is nothing to compare it with."
    if not math.isfinite(record.ranking.iloc[0]["val_loss_se"]):
        return "With one fold it cannot be said how many others are as good."
    near = _near(record)
    if not near:
        return f"None of the {others} other completed trials is within one standard error of it."
    return (
        f"{near} of the {others} other completed trials {'is' if near == 1 else 'are'} within one"
        " standard error of it, and may be just as good."
    )


def _near(record: SweepRecord) -> int:
    """How many other completed trials have a mean within one standard error of the best one's."""
    best = record.ranking
    limit = best.iloc[0]["val_loss"] + best.iloc[0]["val_loss_se"]
    return int((best["val_loss"].iloc[1:] <= limit).sum())


def _price(record: SweepRecord) -> str:
    full, spent = record.full_cost, record.fold_epochs
    # the time includes a comparison's repeats, which this report leaves out
    time = "" if record.repeats else f" in {clock(record.seconds)}"
    text = f"The sweep took {spent:,} fold-epochs{time}"
    if full is None or not 0 < spent < full:
        return text + "."
    return (
        f"{text}; training every trial to the end would have taken {full:,}, {full / spent:.1f}"
        " times as many."
    )


def _facts(record: SweepRecord) -> tuple[tuple[str, str], ...]:
    facts: list[tuple[str, str]] = []
    if record.best_trial is not None:
        first = record.ranking.iloc[0]
        facts.append(("Best trial", f"trial {first['trial']}"))
        score = loss_text(record.objective.score(first["val_loss"]), first["val_loss_se"])
        facts.append((f"Validation {record.objective.name}", score))
        if math.isfinite(first["val_loss_se"]):
            facts.append(("Within 1 standard error", plural(_near(record), "other")))
    begun = len(record.trials)
    planned = record.spec.planned_trials - record.repeats if record.spec else begun
    facts.append(("Trials", f"{begun} of {planned}" if planned > begun else str(begun)))
    for status in ("pruned", "failed"):
        if record.count(status):
            facts.append((status.capitalize(), str(record.count(status))))
    full, spent = record.full_cost, record.fold_epochs
    if spent:
        of_full = f" of {full:,}" if full and full > spent else ""
        facts.append(("Fold-epochs", f"{spent:,}{of_full}"))
    return (*facts, ("Time", clock(record.seconds)))


# --- sections ------------------------------------------------------------------------------------


def _best(record: SweepRecord) -> tuple[Block, ...]:
    if record.best_trial is None:
        text = "No trial has completed. A pruned or failed trial is never called best."
        return (Paragraph(text),)
    blocks: list[Block] = [best_trials(record), best_table(record)]
    if record.strip is not None:
        blocks.append(
            Picture(
                "reconstructions",
                "Reconstructions by the best trial",
                "Validation images of fold 0 (above), and their reconstructions (below).",
                "Validation images above the best trial's reconstructions of them.",
                record.strip,
            )
        )
    if record.repeats:
        repeats = plural(record.repeats, "repeated trial")
        text = f"{repeats} of the comparison are left out: the comparison has a report of its own."
        blocks.append(Paragraph(text))
    return tuple(blocks)


def _progress(record: SweepRecord) -> tuple[Block, ...]:
    if not record.curves:
        name = record.objective.name
        text = f"No trial has reported a validation {name}, so there is no curve to show."
        return (Paragraph(text),)
    blocks: list[Block] = [incumbent(record)] if len(record.incumbents) else []
    blocks.append(learning_curves(record))
    if (ladder := ladder_table(record)) is not None:
        blocks.append(ladder)
    if found := rung_correlations(record):
        pruned = record.trials[record.trials["status"] == "pruned"]["epoch"].dropna()
        blocks.append(rank_correlation(record, found, sorted(set(pruned.astype(int).tolist()))))
    else:
        name = record.objective.name
        fewest = f"needs at least {FEWEST_TRIALS} completed trials that differ in {name}."
        blocks.append(Paragraph(f"Rank correlation between rungs {fewest}"))
    return tuple(blocks)


def _space(record: SweepRecord) -> tuple[Block, ...]:
    parameters = [parameter for parameter in record.parameters if parameter.values]
    if not parameters:
        return (Paragraph("Nothing varies in this sweep."),)
    if not record.curves:
        name = record.objective.name
        text = f"No trial has reported a validation {name}: nothing is known of the parameters."
        return (Paragraph(text),)
    found = importance(record)
    blocks: list[Block] = [Paragraph(_what_mattered(found, parameters, record.objective.name))]
    if found is not None:
        blocks.append(importances(found, record.objective.name))
    blocks.append(slices(record, parameters))
    if len(parameters) > 1 and record.best_trial is not None and len(record.trials) > 1:
        blocks.append(parallel_coordinates(record, parameters))
    return tuple(blocks)


def _what_mattered(
    found: Importance | None, parameters: Sequence[SearchedParameter], metric: str
) -> str:
    if not any(len(parameter.entries) == 1 for parameter in parameters):
        return (
            "Importance is not shown: there is no single distribution that all trials were drawn"
            " from."
        )
    if found is None:
        return (
            f"Importance is not shown: it needs at least {FEWEST} ended trials, one of them"
            " completed. With fewer it is noise."
        )
    text = ""
    if found.overall:
        name = max(found.overall, key=lambda one: found.overall[one])
        share = percent(found.overall[name])
        text = f"Over the whole space {name} explains {share} of the differences in {metric}. "
    if not found.telling:
        return text + "No parameter sets the best trials apart by more than chance would."
    verb = "sets" if len(found.telling) == 1 else "set"
    return (
        text + f"{listed(found.telling)} {verb} the best trials apart by more than chance would."
    )


def _cost(record: SweepRecord) -> tuple[Block, ...]:
    if not record.fold_epochs:
        return (Paragraph("No epoch was completed."),)
    spent, full, table = spent_by_status(record), record.full_cost, cost_table(record)
    return (cost(record, spent, full), table) if full and len(spent) > 1 else (table,)


def _failures(record: SweepRecord) -> tuple[Block, ...]:
    return (failures_table(record) or Paragraph("No trial failed."),)


def _setup(record: SweepRecord) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if record.spec_text:
        blocks.append(Code("The sweep file, with every default", record.spec_text))
    if record.environment:
        blocks.append(Code("The environment", record.environment))
    missing = Paragraph("The sweep file and the environment were not recorded.")
    return tuple(blocks) or (missing,)
