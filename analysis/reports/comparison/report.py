"""The report on an optimizer comparison: which is better, by how much, and at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foldrace.analysis.records.comparison import Comparison, read_comparison
from foldrace.analysis.reports.comparison.curves import best_of_n, learning_curves
from foldrace.analysis.reports.comparison.learning_rates import learning_rates
from foldrace.analysis.reports.comparison.reconstructions import reconstructions
from foldrace.analysis.reports.comparison.standings import standings
from foldrace.analysis.reports.comparison.tables import (
    budget_table,
    failures_table,
    pairs_table,
    target_loss,
    target_table,
    tuned_table,
)
from foldrace.analysis.reports.page import Block, Code, Paragraph, Report, Section
from foldrace.analysis.statistics.verdict import Verdict, judge
from foldrace.search.text import clock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build", "compose"]


def build(client: MlflowClient, run: Run) -> Report:
    """The report on the comparison with this sweep run."""
    return compose(read_comparison(client, run))


def compose(comparison: Comparison) -> Report:
    """The report on a comparison, however far it has come."""
    verdict = judge(comparison)
    target = target_loss(verdict)
    failures = failures_table(comparison) or Paragraph("No trial failed.")
    spec = Code("The comparison's file", comparison.spec)
    sections = (
        Section("The tuned optimizers", _tuned(comparison, verdict)),
        Section("Pairwise comparisons", (_pairs(comparison, verdict),)),
        Section("The search", (_search(comparison),)),
        Section("Learning curves", _curves(comparison, verdict, target)),
        Section("Sensitivity to the learning rate", (_rates(comparison),)),
        Section("Reconstructions", (_reconstructions(comparison),)),
        Section("Budget and failures", (budget_table(comparison), failures, spec)),
    )
    title = f"{comparison.name}: optimizers compared"
    return Report("optimizers", title, verdict.lead, _facts(comparison, verdict), sections)


def _facts(comparison: Comparison, verdict: Verdict) -> tuple[tuple[str, str], ...]:
    trials = comparison.trials
    searched = {len(comparison.phase(arm, "search")) for arm in comparison.arms}
    each = str(*searched) if len(searched) == 1 else f"{min(searched)} to {max(searched)}"
    failed = int((trials["status"] == "failed").sum())
    return (
        ("Winner", verdict.winner or "none declared"),
        ("Optimizers", str(len(comparison.arms))),
        ("Search trials each", each),
        ("Repeats × folds", f"{comparison.repeats} × {comparison.splits}"),
        ("Failed trials", f"{failed} of {len(trials)}"),
        ("Time in training", clock(float(trials["train_seconds"].sum()))),
    )


def _tuned(comparison: Comparison, verdict: Verdict) -> tuple[Block, ...]:
    missing = "No tuned optimizer has completed on fresh folds, so there are no intervals to show."
    drawn = standings(comparison, verdict) or Paragraph(missing)
    return drawn, tuned_table(comparison, verdict)


def _pairs(comparison: Comparison, verdict: Verdict) -> Block:
    if not verdict.pairs:
        return Paragraph("There are no two optimizers with repeats to compare.")
    return pairs_table(comparison, verdict)


def _search(comparison: Comparison) -> Block:
    return best_of_n(comparison) or Paragraph("No search trial has completed yet.")


def _curves(comparison: Comparison, verdict: Verdict, target: float | None) -> tuple[Block, ...]:
    drawn = learning_curves(comparison, target)
    if drawn is None or target is None:
        return (Paragraph("No tuned optimizer has completed yet, so there are no curves."),)
    return drawn, target_table(comparison, verdict, target)


def _rates(comparison: Comparison) -> Block:
    missing = Paragraph("No trial with a learning rate has completed.")
    return learning_rates(comparison) or missing


def _reconstructions(comparison: Comparison) -> Block:
    missing = "No reconstructions are recorded: the task makes none, or no model is tuned yet."
    return reconstructions(comparison) or Paragraph(missing)
