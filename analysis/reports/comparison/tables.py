"""Tables of the report on an optimizer comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foldrace.analysis.records.comparison import PHASES, Comparison
from foldrace.analysis.reports.page import Table
from foldrace.analysis.statistics.intervals import plus_minus
from foldrace.analysis.statistics.verdict import LEVEL, Verdict
from foldrace.analysis.text import digits, p_text, percent, plural
from foldrace.search.text import clock, params_text

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "budget_table",
    "failures_table",
    "pairs_table",
    "target_loss",
    "target_table",
    "tuned_table",
]

_TARGET = 0.1
_NONE = "–"
_SHOWN_FAILURES = 12


# --- tuned optimizers and pairs ------------------------------------------------------------------


def tuned_table(comparison: Comparison, verdict: Verdict) -> Table:
    """Each arm's tuned and untuned loss, failures, training time and parameters."""
    arms = [*verdict.standings, *(arm for arm in comparison.arms if arm not in verdict.standings)]
    repeats, folds = comparison.repeats, comparison.splits
    objective = comparison.objective
    unfinished = "" if comparison.complete else " The comparison is not complete yet."
    return Table(
        "Tuned and untuned",
        (
            "optimizer",
            f"tuned CV {objective.name} ± 95\u00a0%",
            "default",
            "gain",
            "failed trials",
            "seconds per fold-epoch",
            "tuned parameters",
        ),
        tuple(_tuned_row(comparison, verdict, arm) for arm in arms),
        f"Tuned: the mean of {plural(repeats, 'repeat')} × {plural(folds, 'fold')} ="
        f" {repeats * folds} values, each trained with a fresh seed on fresh folds. Its 95\u00a0%"
        " interval has the variance corrected for overlapping training sets (Nadeau and Bengio,"
        f" 2003). Gain: how far the tuned mean is {objective.better_word} the default's."
        f"{unfinished}",
    )


def _tuned_row(comparison: Comparison, verdict: Verdict, arm: str) -> tuple[str, ...]:
    interval, default = verdict.standings.get(arm), comparison.default_loss(arm)
    gain = (default - interval.mean) / abs(default) if interval and default else None
    trials = comparison.trials[comparison.trials["arm"] == arm]
    failed = int((trials["status"] == "failed").sum())
    return (
        arm,
        plus_minus(interval.of(comparison.objective)) if interval else _NONE,
        digits(None if default is None else comparison.objective.score(default)),
        _NONE if gain is None else percent(gain),
        f"{failed} of {len(trials)}",
        digits(_seconds_per_fold_epoch(trials), 2),
        params_text(comparison.tuned(arm)) or _NONE,
    )


def _seconds_per_fold_epoch(trials: pd.DataFrame) -> float | None:
    """Of the completed repeats, or of all trials if no repeat has completed."""
    trials = trials[(trials["fold_epochs"] > 0) & trials["train_seconds"].notna()]
    repeats = trials[(trials["phase"] == "repeat") & (trials["status"] == "completed")]
    chosen = repeats if len(repeats) else trials
    if not len(chosen):
        return None
    return float(chosen["train_seconds"].sum() / chosen["fold_epochs"].sum())


def pairs_table(comparison: Comparison, verdict: Verdict) -> Table:
    """The paired differences between the arms, with their corrected tests."""
    rows = tuple(
        (
            f"{pair.worse} − {pair.better}",
            plus_minus(pair.test.difference.of(comparison.objective)),
            str(pair.test.count),
            p_text(pair.test.p),
            p_text(pair.p),
            pair.sentence(),
        )
        for pair in verdict.pairs
    )
    unfinished = (
        "" if comparison.complete else " The comparison is not complete, so none of this is final."
    )
    return Table(
        "Paired differences",
        ("pair", "mean difference ± 95\u00a0%", "pairs", "p", "Holm p", "verdict"),
        rows,
        f"Differences of the {comparison.objective.name} on the same repeat, fold and seed: their"
        " mean with its 95\u00a0% interval, and p of the corrected resampled t-test (Nadeau and"
        f" Bengio, 2003; n_test/n_train = {digits(comparison.test_share, 2)}), then Holm-corrected"
        f" for {plural(len(rows), 'pair')}. Two optimizers are declared different if the"
        f" corrected p is below {LEVEL} and the intervals of their means do not overlap. The test"
        " covers folds and seeds, but not the luck of the search; for that, see the section on the"
        " search."
        f"{unfinished}",
    )


# --- time to target ------------------------------------------------------------------------------


def target_loss(verdict: Verdict) -> float | None:
    """10 % above the lowest final mean, which may be negative; None without any."""
    means = [interval.mean for interval in verdict.standings.values()]
    return min(means) + _TARGET * abs(min(means)) if means else None


def target_table(comparison: Comparison, verdict: Verdict, target: float) -> Table:
    """When each arm's mean first reaches the target."""
    best, interval = next(iter(verdict.standings.items()))
    objective = comparison.objective
    rows = []
    for arm in verdict.standings:
        reached = _reached(comparison, arm, target)
        if reached is None:
            rows.append((arm, *["not reached"] * 3))
        else:
            spent, seconds = f"{reached.fold_epochs:.0f}", digits(reached.seconds, 3)
            rows.append((arm, str(reached.epoch), spent, seconds))
    return Table(
        "Time to target",
        ("optimizer", "epoch", "fold-epochs", "seconds"),
        tuple(rows),
        f"The target, {objective.name} {digits(objective.score(target))}, is"
        f" {percent(_TARGET)} {objective.worse_word} the best final mean, {best}'s"
        f" {digits(objective.score(interval.mean))}. An optimizer reaches it at the first epoch at"
        " which the mean over its repeats is no worse. The costs are those of one"
        " cross-validation: the epochs of all folds, and the seconds of training and validating"
        " them one after another.",
    )


@dataclass(frozen=True)
class _Reached:
    epoch: int
    fold_epochs: float
    seconds: float


def _reached(comparison: Comparison, arm: str, target: float) -> _Reached | None:
    """When the mean over an arm's repeats is first at or below the target; None if never.

    A repeat whose folds have all stopped early keeps its last numbers.
    """
    rows = comparison.progress[comparison.progress["arm"] == arm]
    names = ["val_loss", "fold_epochs", "seconds"]
    wide = rows.pivot_table(index="epoch", columns="repeat", values=names).sort_index().ffill()
    means = {name: wide[name].mean(axis=1) for name in names if name in wide}
    below = means["val_loss"] <= target
    if not below.any():
        return None
    epoch = below.idxmax()
    return _Reached(int(epoch), *(float(means[name][epoch]) for name in names[1:]))


# --- budget and failures -------------------------------------------------------------------------


def budget_table(comparison: Comparison) -> Table:
    """Each arm's trials by phase, fold-epochs and training time."""
    rows, budgets = [], []
    for arm in comparison.arms:
        default, search, repeats = (comparison.phase(arm, phase) for phase in PHASES)
        trials = comparison.trials[comparison.trials["arm"] == arm]
        spent = int(search["fold_epochs"].sum())
        budgets.append((len(search), spent))
        counts = (len(default), len(search), len(repeats), spent, int(trials["fold_epochs"].sum()))
        seconds = clock(float(trials["train_seconds"].sum()))
        rows.append((arm, *(f"{count:,}" for count in counts), seconds))
    return Table(
        "Trials and fold-epochs of each optimizer",
        (
            "optimizer",
            "default",
            "search",
            "repeats",
            "search fold-epochs",
            "all fold-epochs",
            "time in training",
        ),
        tuple(rows),
        _fairness(budgets),
    )


def _fairness(budgets: list[tuple[int, int]]) -> str:
    trials, epochs = ({budget[at] for budget in budgets} for at in (0, 1))
    if len(trials) > 1:
        return "The optimizers have not had the same number of search trials (yet)."
    start = f"Every optimizer had the same search budget: {plural(next(iter(trials), 0), 'trial')}"
    if len(epochs) == 1:
        return f"{start}, {plural(epochs.pop(), 'fold-epoch')}."
    return f"{start}; fold-epochs differ where trials diverged."


def failures_table(comparison: Comparison) -> Table | None:
    """The first failed trials with their reasons; None without any."""
    failed = comparison.trials[comparison.trials["status"] == "failed"]
    if not len(failed):
        return None
    rows = tuple(
        (str(row.trial), row.arm, row.phase, row.reason or _NONE)
        for row in failed.head(_SHOWN_FAILURES).itertuples()
    )
    hidden = f"{len(failed) - len(rows)} more are not shown." if len(failed) > len(rows) else ""
    return Table("Failed trials", ("trial", "optimizer", "phase", "reason"), rows, hidden)
