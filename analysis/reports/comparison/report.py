"""The report on an optimizer comparison: who wins, if anyone may be said to, by how much, and at
what cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrace.analysis.records.comparison import PHASES, Comparison, read_comparison
from foldrace.analysis.reports.comparison.curves import best_of_n, learning_curves, standings
from foldrace.analysis.reports.comparison.pictures import learning_rates, reconstructions
from foldrace.analysis.reports.page import Block, Code, Paragraph, Report, Section, Table
from foldrace.analysis.statistics.intervals import plus_minus
from foldrace.analysis.statistics.verdict import LEVEL, Verdict, judge
from foldrace.analysis.text import digits, p_text, plural
from foldrace.search.text import clock, params_text

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["build", "compose"]

_TARGET = 0.1
_NONE = "–"
_FAILURES = 12


def build(client: MlflowClient, run: Run) -> Report:
    """The report on the comparison with this sweep run."""
    return compose(read_comparison(client, run))


def compose(comparison: Comparison) -> Report:
    """The report on what is recorded of a comparison."""
    verdict = judge(comparison)
    target = _target(verdict)
    sections = (
        Section("The tuned optimizers", _tuned(comparison, verdict)),
        Section("Two by two", _pairwise(comparison, verdict)),
        Section("What a search finds", _found(comparison)),
        Section("Learning curves", _curves(comparison, verdict, target)),
        Section("Sensitivity to the learning rate", _rates(comparison)),
        Section("Reconstructions", _pictures(comparison)),
        Section("Budget and failures", _budget(comparison)),
    )
    return Report(
        "optimizers",
        f"{comparison.name}: optimizers compared",
        verdict.lead,
        _facts(comparison, verdict),
        sections,
    )


def _facts(comparison: Comparison, verdict: Verdict) -> tuple[tuple[str, str], ...]:
    trials = comparison.trials
    searched = [len(comparison.phase(arm, "search")) for arm in comparison.arms]
    each = str(searched[0]) if len(set(searched)) == 1 else f"{min(searched)} to {max(searched)}"
    failed = int((trials["status"] == "failed").sum())
    return (
        ("Winner", verdict.winner or "none declared"),
        ("Optimizers", str(len(comparison.arms))),
        ("Search trials each", each),
        ("Repeats × folds", f"{comparison.repeats} × {comparison.splits}"),
        ("Failed trials", f"{failed} of {len(trials)}"),
        ("Time in training", clock(float(trials["train_seconds"].sum()))),
    )


# --- the tuned optimizers ------------------------------------------------------------------------


def _tuned(comparison: Comparison, verdict: Verdict) -> tuple[Block, ...]:
    columns = (
        "optimizer",
        "tuned CV loss ± 95\u00a0%",
        "default",
        "gain",
        "failed trials",
        "seconds a fold-epoch",
        "tuned parameters",
    )
    arms = [*verdict.standings, *(arm for arm in comparison.arms if arm not in verdict.standings)]
    count = comparison.repeats * comparison.splits
    caption = (
        f"Tuned: the mean over {plural(comparison.repeats, 'repeat')} ×"
        f" {plural(comparison.splits, 'fold')} = {count} losses, trained anew with fresh seeds on"
        " fresh folds, and its 95\u00a0% interval with the variance corrected for overlapping"
        " training sets (Nadeau and Bengio, 2003). Gain: by how much the tuned mean is below the"
        " default's."
        + (
            ""
            if comparison.complete
            else " The comparison is not complete; this is how far it has come."
        )
    )
    table = Table(
        "Tuned and untuned",
        columns,
        tuple(_row(comparison, verdict, arm) for arm in arms),
        caption,
    )
    drawn = standings(comparison, verdict)
    missing = Paragraph(
        "No tuned optimizer has been trained to the end on fresh folds, so there are no intervals"
        " to show."
    )
    return (drawn or missing, table)


def _row(comparison: Comparison, verdict: Verdict, arm: str) -> tuple[str, ...]:
    interval, default = verdict.standings.get(arm), comparison.default_loss(arm)
    gain = _NONE
    if interval is not None and default:
        gain = f"{(default - interval.mean) / abs(default):.0%}".replace("%", "\u00a0%").replace(
            "-", "−"
        )
    rows = comparison.trials[comparison.trials["arm"] == arm]
    failed = int((rows["status"] == "failed").sum())
    tuned = params_text(comparison.tuned(arm))
    return (
        arm,
        plus_minus(interval) if interval else _NONE,
        digits(default),
        gain,
        f"{failed} of {len(rows)}",
        digits(_seconds(comparison, arm), 2),
        tuned or _NONE,
    )


def _seconds(comparison: Comparison, arm: str) -> float | None:
    """Of one epoch of one fold: of the repeats, where there are any that ended, else of all
    trials."""
    rows = comparison.trials[comparison.trials["arm"] == arm]
    rows = rows[(rows["fold_epochs"] > 0) & rows["train_seconds"].notna()]
    repeats = rows[(rows["phase"] == "repeat") & (rows["status"] == "completed")]
    rows = repeats if len(repeats) else rows
    return float(rows["train_seconds"].sum() / rows["fold_epochs"].sum()) if len(rows) else None


# --- pairs ---------------------------------------------------------------------------------------


def _pairwise(comparison: Comparison, verdict: Verdict) -> tuple[Block, ...]:
    if not verdict.pairs:
        return (Paragraph("There are no two optimizers with repeats to compare."),)
    rows = tuple(
        (
            f"{pair.worse} − {pair.better}",
            plus_minus(pair.test.difference),
            str(pair.test.count),
            p_text(pair.test.p),
            p_text(pair.p),
            pair.sentence(),
        )
        for pair in verdict.pairs
    )
    caption = (
        "Differences of the losses on the same repeat, fold and seed; their mean with the"
        " 95\u00a0% interval, and p of the corrected resampled t-test (Nadeau and Bengio, 2003;"
        f" n_test/n_train = {digits(comparison.test_share, 2)}), then Holm-corrected for"
        f" {plural(len(rows), 'pair')}. Two optimizers are declared different where the corrected"
        f" p is below {LEVEL} and the intervals of their means do not overlap. The test covers"
        " folds and seeds, not the luck of the search: for that see what a search finds."
        + (
            ""
            if comparison.complete
            else " The comparison is not complete, so none of this is final."
        )
    )
    columns = ("pair", "mean difference ± 95\u00a0%", "pairs", "p", "Holm p", "verdict")
    return (Table("Paired differences", columns, rows, caption),)


# --- search, curves, rates, pictures -------------------------------------------------------------


def _found(comparison: Comparison) -> tuple[Block, ...]:
    return (
        best_of_n(comparison) or Paragraph("No search trial has been evaluated to the end yet."),
    )


def _rates(comparison: Comparison) -> tuple[Block, ...]:
    drawn = learning_rates(comparison)
    return (drawn or Paragraph("No trial with a learning rate has been evaluated to the end."),)


def _pictures(comparison: Comparison) -> tuple[Block, ...]:
    drawn = reconstructions(comparison)
    return (
        drawn
        or Paragraph(
            "No reconstructions are recorded: the task makes none, or no tuned model is there yet."
        ),
    )


def _curves(comparison: Comparison, verdict: Verdict, target: float | None) -> tuple[Block, ...]:
    drawn = learning_curves(comparison, target)
    if drawn is None or target is None:
        return (
            Paragraph(
                "No tuned optimizer has been trained to the end yet, so there are no curves."
            ),
        )
    reached = {arm: _time_to(comparison, arm, target) for arm in verdict.standings}
    rows = tuple(
        (
            (arm, str(time.epoch), f"{time.fold_epochs:.0f}", digits(time.seconds, 3))
            if time
            else (arm, "not reached", "not reached", "not reached")
        )
        for arm, time in reached.items()
    )
    best = next(iter(verdict.standings))
    caption = (
        f"The target, {digits(target)}, is {_TARGET * 100:.0f}\u00a0% above the best final mean,"
        f" {best}'s {digits(verdict.standings[best].mean)}. An optimizer reaches it at the"
        " first epoch at which the mean over its repeats is no higher. Costs are those of one"
        " cross-validation: the epochs of all folds together, and the seconds in training and"
        " validation, one fold after another."
    )
    return (
        drawn,
        Table("Time to target", ("optimizer", "epoch", "fold-epochs", "seconds"), rows, caption),
    )


def _target(verdict: Verdict) -> float | None:
    """10 % above the lowest final mean; also where that is negative, as a log-likelihood's can
    be."""
    means = [interval.mean for interval in verdict.standings.values()]
    return min(means) + _TARGET * abs(min(means)) if means else None


@dataclass(frozen=True)
class _Reached:
    epoch: int
    fold_epochs: float
    seconds: float


def _time_to(comparison: Comparison, arm: str, target: float) -> _Reached | None:
    """When the mean over an arm's repeats is first at the target; None if never."""
    means = _means(comparison.progress[comparison.progress["arm"] == arm])
    there = means[means["val_loss"] <= target]
    if not len(there):
        return None
    first = there.iloc[0]
    return _Reached(int(there.index[0]), float(first["fold_epochs"]), float(first["seconds"]))


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over repeats by epoch; a repeat whose folds have all stopped early keeps its last
    numbers."""
    import pandas as pd

    names = ["val_loss", "fold_epochs", "seconds"]
    wide = rows.pivot_table(index="epoch", columns="repeat", values=names).sort_index().ffill()
    return pd.DataFrame({name: wide[name].mean(axis=1) for name in names if name in wide})


# --- budget and failures -------------------------------------------------------------------------


def _budget(comparison: Comparison) -> tuple[Block, ...]:
    rows, spent = [], []
    for arm in comparison.arms:
        default, search, repeats = (comparison.phase(arm, phase) for phase in PHASES)
        every = comparison.trials[comparison.trials["arm"] == arm]
        spent.append((len(search), int(search["fold_epochs"].sum())))
        counts = (
            len(default),
            len(search),
            len(repeats),
            spent[-1][1],
            int(every["fold_epochs"].sum()),
        )
        rows.append(
            (arm, *(f"{count:,}" for count in counts), clock(float(every["train_seconds"].sum())))
        )
    columns = (
        "optimizer",
        "default",
        "search",
        "repeats",
        "search fold-epochs",
        "all fold-epochs",
        "time in training",
    )
    table = Table(
        "Trials and fold-epochs of each optimizer", columns, tuple(rows), _fairness(spent)
    )
    blocks: list[Block] = [table]
    failed = comparison.trials[comparison.trials["status"] == "failed"]
    if len(failed):
        shown = failed.head(_FAILURES)
        lines = tuple(
            (str(row.trial), row.arm, row.phase, row.reason or _NONE) for row in shown.itertuples()
        )
        more = f"And {len(failed) - len(shown)} more." if len(failed) > len(shown) else ""
        blocks.append(
            Table("Failed trials", ("trial", "optimizer", "phase", "reason"), lines, more)
        )
    else:
        blocks.append(Paragraph("No trial failed."))
    return (*blocks, Code("The comparison's file", comparison.spec))


def _fairness(spent: list[tuple[int, int]]) -> str:
    trials, epochs = ({pair[at] for pair in spent} for at in (0, 1))
    if len(trials) > 1:
        return "The optimizers have not had the same number of search trials (yet)."
    start = f"Every optimizer had the same search budget: {plural(next(iter(trials), 0), 'trial')}"
    if len(epochs) == 1:
        return f"{start}, {plural(epochs.pop(), 'fold-epoch')}."
    return f"{start}; fold-epochs differ where trials diverged."
