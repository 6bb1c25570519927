"""The sweep report: who leads and how surely, how the search went, what mattered, what it cost,
what failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from foldrace.analysis.records.sweep import SearchedParameter, SweepRecord, read_sweep_record
from foldrace.analysis.records.tables import number
from foldrace.analysis.reports.page import Block, Code, Picture, Report, Section, Table, Text
from foldrace.analysis.reports.style import BLUE, GREY, INK
from foldrace.analysis.reports.sweep.figures import (
    cost,
    incumbent,
    leaders,
    learning_curves,
    rung_correlations,
    rungs,
)
from foldrace.analysis.reports.sweep.space_figures import importances, parallel_coordinates, slices
from foldrace.analysis.reports.text import figure, listed, plural
from foldrace.analysis.statistics.importance import FEWEST, Importance, importance
from foldrace.search.tune.progress import clock, params_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build"]

_ENDS = {
    "completed": "evaluated to the end",
    "pruned": "given up",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "running",
}
_COLOURS = {"completed": BLUE, "failed": INK}
_SHOWN = 10
_SHOWN_FAILURES = 50


def build(client: MlflowClient, run: Run) -> Report:
    """The report of the sweep with this run, whatever there is of it."""
    record = read_sweep_record(client, run)
    sections = [
        Section("The leaders", _leaders(record)),
        Section("How the search went", _progress(record)),
        Section("What mattered", _space(record)),
        Section("What it cost", _cost(record)),
        Section("What failed", _failures(record)),
        Section("How it was set up", _setup(record)),
    ]
    shown = sections if len(record.trials) else sections[-1:]
    return Report("sweep", f"{record.name}: sweep", _lead(record), _facts(record), tuple(shown))


def _loss(mean: float, error: float) -> str:
    """``0.0235 ± 0.0046``: a mean and its standard error, both to the place of the error's second
    digit."""
    if not math.isfinite(error) or error <= 0:
        return figure(mean)
    places = 1 - math.floor(math.log10(error))
    if not 0 <= places <= 7:
        return f"{figure(mean)} ± {figure(error, 2)}"
    return f"{mean:.{places}f} ± {error:.{places}f}".replace("-", "−")


def _near(record: SweepRecord) -> int:
    """How many other completed trials have a mean within one standard error of the leader's."""
    best = record.ranking
    first = best.iloc[0]
    return int((best["val_loss"].iloc[1:] <= first["val_loss"] + first["val_loss_se"]).sum())


def _lead(record: SweepRecord) -> str:
    best = record.ranking
    if not len(record.trials):
        return {
            "running": "The sweep is running; no trial has begun yet.",
            "interrupted": (
                "The sweep was interrupted before a trial began, so there is nothing to report."
            ),
        }.get(record.state, "The sweep ended before a trial began, so there is nothing to report.")
    if not len(best):
        return f"No trial was evaluated to the end, so there is no winner: {_outcomes(record)}."
    first = best.iloc[0]
    folds = int(first["folds"])
    score = _loss(first["val_loss"], first["val_loss_se"])
    spread = (
        f"mean ± standard error over {folds} folds"
        if folds > 1
        else "a single fold, so it has no error bar"
    )
    now = "so far, " if record.state == "running" else ""
    leader = f"Trial {first['trial']} leads {now}with a validation loss of {score} ({spread})."
    return f"{leader} {_rivals(record)} {_price(record)}"


def _rivals(record: SweepRecord) -> str:
    others = len(record.ranking) - 1
    if not others:
        return (
            "It is the only trial that was evaluated to the end, so nothing is known of how good"
            " others would be."
        )
    if not math.isfinite(record.ranking.iloc[0]["val_loss_se"]):
        return "How many others are as good cannot be told without folds."
    near = _near(record)
    if not near:
        return (
            f"None of the {others} others evaluated to the end lies within one standard error"
            " of it."
        )
    verb = "lies" if near == 1 else "lie"
    return (
        f"{near} of the {others} others evaluated to the end {verb} within one standard error: a"
        " leader, not a proof."
    )


def _price(record: SweepRecord) -> str:
    full, spent, time = record.full_cost, record.fold_epochs, clock(record.seconds)
    # the clock counts a comparison's repeats, which this report leaves out
    took = f"It took {spent:,} fold-epochs" + ("" if record.repeats else f" in {time}")
    if full is None or not 0 < spent < full:
        return took + "."
    return (
        f"{took}; training every trial to the end would have taken {full:,}, {full / spent:.1f}"
        " times as many."
    )


def _outcomes(record: SweepRecord) -> str:
    return ", ".join(
        f"{record.count(status)} {text}" for status, text in _ENDS.items() if record.count(status)
    )


def _facts(record: SweepRecord) -> tuple[tuple[str, str], ...]:
    planned = record.spec.planned_trials - record.repeats if record.spec else len(record.trials)
    facts = [
        (
            "Trials",
            (
                f"{len(record.trials)} of {planned}"
                if planned > len(record.trials)
                else str(len(record.trials))
            ),
        )
    ]
    best = record.ranking
    if len(best):
        first = best.iloc[0]
        facts = [
            ("Leader", f"trial {first['trial']}"),
            ("Validation loss", _loss(first["val_loss"], first["val_loss_se"])),
            *(
                [("Within 1 standard error", plural(_near(record), "other"))]
                if math.isfinite(first["val_loss_se"])
                else []
            ),
            *facts,
        ]
    facts += [("Given up early", str(record.count("pruned")))] if record.count("pruned") else []
    facts += [("Failed", str(record.count("failed")))] if record.count("failed") else []
    full = (
        f" of {record.full_cost:,}"
        if record.full_cost and record.full_cost > record.fold_epochs
        else ""
    )
    facts += [("Fold-epochs", f"{record.fold_epochs:,}{full}")] if record.fold_epochs else []
    return (*facts, ("Time", clock(record.seconds)))


def _leaders(record: SweepRecord) -> tuple[Block, ...]:
    if record.winner is None:
        return (
            Text(
                "No trial was evaluated to the end. A trial that was given up or failed is never"
                " called best."
            ),
        )
    blocks: list[Block] = [leaders(record), _top_table(record)]
    if record.strip is not None:
        blocks.append(
            Picture(
                "reconstructions",
                "What the leader sees",
                "Validation images of fold 0 (above), and what the leader makes of them (below).",
                "Validation images above the leader's reconstructions of them.",
                record.strip,
            )
        )
    if record.repeats:
        blocks.append(
            Text(
                f"{plural(record.repeats, 'repeated trial')} of the comparison are left out: see"
                " its own report."
            )
        )
    return tuple(blocks)


def _top_table(record: SweepRecord) -> Table:
    best = record.ranking.head(_SHOWN)
    losses = record.folds.pivot_table(index="fold", columns="trial", values="val_loss")
    rows = []
    for place, (_, row) in enumerate(best.iterrows(), 1):
        values = (row.get(f"params.{parameter.name}") for parameter in record.parameters)
        params = (_shown(value) if isinstance(value, str) else "–" for value in values)
        score = _loss(row["val_loss"], row["val_loss_se"])
        rows.append(
            (
                str(place),
                str(row["trial"]),
                score,
                _paired(losses, row["trial"], record.winner),
                *params,
            )
        )
    return Table(
        f"The best {len(best)}" if len(best) > 1 else "The leader",
        (
            "#",
            "trial",
            "loss ± std. error",
            "behind, fold by fold",
            *(parameter.name for parameter in record.parameters),
        ),
        tuple(rows),
        "Behind, fold by fold: the mean difference to the leader on the same folds ± its standard"
        " error. It leaves out that some folds are harder than others. The leader was picked"
        " because it came out best, so the differences are somewhat too large.",
    )


def _shown(text: str) -> str:
    """A parameter's value: a number to three digits, unless it is a whole one."""
    value = number(text)
    return (
        f"{value:#.3g}".rstrip(".")
        if isinstance(value, float) and not text.lstrip("-").isdigit()
        else text
    )


def _paired(losses: pd.DataFrame, trial: int, winner: int | None) -> str:
    """The mean difference to the winner over common folds, with its standard error."""
    if trial == winner or trial not in losses or winner not in losses:
        return "–"
    differences = (losses[trial] - losses[winner]).dropna()
    if not len(differences):
        return "–"
    return _loss(
        float(differences.mean()), float(differences.sem()) if len(differences) > 1 else math.nan
    )


def _progress(record: SweepRecord) -> tuple[Block, ...]:
    if not record.curves:
        return (Text("No trial has reported a loss, so there is no curve to show."),)
    blocks: list[Block] = []
    if len(record.incumbents):
        blocks.append(incumbent(record))
    blocks.append(learning_curves(record))
    blocks += _ladder(record)
    found = rung_correlations(record)
    if found:
        given_up = record.trials[record.trials["status"] == "pruned"]["epoch"].dropna()
        blocks.append(rungs(record, found, sorted({int(epoch) for epoch in given_up})))
    else:
        blocks.append(
            Text(
                "Whether early epochs foretell the end takes six trials evaluated to the end to"
                " say."
            )
        )
    return tuple(blocks)


def _ladder(record: SweepRecord) -> tuple[Block, ...]:
    """How many trials have reached each rung."""
    ladder = record.spec.ladder if record.spec is not None else ()
    if len(ladder) < 2:
        return ()
    trials, done = record.trials, record.trials["status"] == "completed"
    reached = [
        int((done | ((trials["folds"] >= rung.folds) & (trials["epoch"] >= rung.epochs))).sum())
        for rung in ladder
    ]
    rows = [
        (
            str(rung.folds),
            str(rung.epochs),
            str(rung.cost),
            str(count),
            "–" if rung == ladder[-1] else str(above),
        )
        for rung, count, above in zip(ladder, reached, [*reached[1:], 0], strict=True)
    ]
    caption = "Trials are compared at equal rungs only: the same folds, for the same epochs."
    columns = (
        "folds",
        "epochs",
        "fold-epochs a trial",
        "trials that reached it",
        "and went further",
    )
    return (Table("The ladder", columns, tuple(rows), caption),)


def _space(record: SweepRecord) -> tuple[Block, ...]:
    parameters = [parameter for parameter in record.parameters if parameter.values]
    if not parameters:
        return (Text("Nothing varies in this sweep."),)
    if not record.curves:
        return (Text("No trial has reported a loss, so nothing can be said of the parameters."),)
    found = importance(record)
    blocks: list[Block] = [Text(_matters(found, parameters))]
    if found is not None:
        blocks.append(importances(found))
    blocks.append(slices(record, parameters))
    if len(parameters) > 1 and record.winner is not None and len(record.trials) > 1:
        blocks.append(parallel_coordinates(record, parameters))
    return tuple(blocks)


def _matters(found: Importance | None, parameters: Sequence[SearchedParameter]) -> str:
    if not any(len(parameter.entries) == 1 for parameter in parameters):
        return (
            "Importance is not shown: there is no one distribution that all trials were drawn"
            " from."
        )
    if found is None:
        return (
            f"Importance is not shown: it takes at least {FEWEST} trials that ended, one of them "
            "evaluated to the end. With fewer it is noise."
        )
    first = ""
    if found.overall:
        name = max(found.overall, key=lambda one: found.overall[one])
        share = f"{found.overall[name]:.0%}".replace("%", "\u00a0%")
        first = f"Over the whole space {name} explains {share} of the differences in loss. "
    if not found.telling:
        return (
            first + "None sets the best trials apart beyond chance: this many trials cannot tell"
            " which do."
        )
    verb = "sets" if len(found.telling) == 1 else "set"
    return (
        first
        + f"Beyond chance, {listed(found.telling)} {verb} the best trials apart from the others"
        " tried."
    )


def _cost(record: SweepRecord) -> tuple[Block, ...]:
    if not record.fold_epochs:
        return (Text("No epoch was trained to its end."),)
    seconds = (
        record.trials["train_seconds"]
        if "train_seconds" in record.trials
        else pd.Series(math.nan, record.trials.index)
    )
    rows, spent = [], []
    for status, text in _ENDS.items():
        chosen = record.trials["status"] == status
        if chosen.any():
            epochs = sum(
                record.spent.get(int(trial), 0) for trial in record.trials["trial"][chosen]
            )
            trained = float(seconds[chosen].sum())
            share = f"{epochs / record.fold_epochs:.0%}".replace("%", " %")
            rows.append((text, str(int(chosen.sum())), f"{epochs:,}", share, f"{trained:,.1f}"))
            spent.append((text, _COLOURS.get(status, GREY), epochs))
    table = Table(
        "By how trials ended",
        ("trials", "number", "fold-epochs", "share", "seconds of training"),
        tuple(rows),
        "Seconds are summed over trials that ran side by side; the sweep took"
        f" {clock(record.seconds)} in all.",
    )
    full = record.full_cost
    return (cost(record, spent, full), table) if full and len(rows) > 1 else (table,)


def _failures(record: SweepRecord) -> tuple[Block, ...]:
    failed = record.trials[record.trials["status"] == "failed"]
    if not len(failed):
        return (Text("Nothing: no trial failed."),)
    names = [parameter.name for parameter in record.parameters]
    rows = []
    for _, row in failed.head(_SHOWN_FAILURES).iterrows():
        given = {
            name: number(row[f"params.{name}"])
            for name in names
            if isinstance(row.get(f"params.{name}"), str)
        }
        rows.append(
            (str(row["trial"]), str(row["reason"]) or "no reason was recorded", params_text(given))
        )
    left = len(failed) - len(rows)
    caption = "Each trial's error.txt in MLflow has the traceback." + (
        f" {left} more are left out." if left else ""
    )
    return (
        Table(
            f"{plural(len(failed), 'failed trial')}",
            ("trial", "why", "parameters"),
            tuple(rows),
            caption,
        ),
    )


def _setup(record: SweepRecord) -> tuple[Block, ...]:
    blocks: list[Block] = []
    if record.spec_text:
        blocks.append(Code("The sweep file, with every default written out", record.spec_text))
    if record.environment:
        blocks.append(Code("What it ran on", record.environment))
    return tuple(blocks) or (Text("The sweep file and the environment were not recorded."),)
