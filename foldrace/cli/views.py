"""What a person sees while a sweep runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foldrace.search.text import clock, params_text, score_text
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable

__all__ = ["LiveView", "PlainView", "top_table"]


def _states(ledger: TrialTable) -> str:
    counts = [
        f"{count} {status.value}" for status in TrialStatus if (count := ledger.count(status))
    ]
    return f"{len(ledger.trials)} of {ledger.total} trials: " + (", ".join(counts) or "none yet")


def reached(trial: TrialRecord, folds: int, epochs: int) -> str:
    """``to the end``, ``3/9 epochs``, or ``1/3 folds, 3/9 epochs``."""
    if trial.status is TrialStatus.COMPLETED or trial.report is None:
        return "to the end"
    part = f"{trial.report.epoch}/{epochs} epochs"
    return (
        part
        if len(trial.report.folds) == folds
        else f"{len(trial.report.folds)}/{folds} folds, {part}"
    )


def top_table(
    ledger: TrialTable, varying: Sequence[str], folds: int, epochs: int, count: int = 5
) -> Table:
    """The best trials: CV mean ± standard error, and the parameters that vary.

    Trials evaluated to the end come first; those given up follow, with what they reached, and
    never lead.
    """
    table = Table(
        title="Best configurations by cross-validation", title_justify="left", header_style="bold"
    )
    table.add_column("#", justify="right")
    table.add_column("trial", justify="right")
    arms = any(trial.part for trial in ledger.trials.values())
    if arms:
        table.add_column("arm", no_wrap=True)
        varying = [name for name in varying if name != "optimizer"]  # the arm says it
    table.add_column("CV loss ± std. error", justify="right", no_wrap=True)
    table.add_column("evaluated", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    best = ledger.ranking()
    for place, trial in enumerate([*best, *ledger.given_up()][:count], 1):
        done = trial.status is TrialStatus.COMPLETED
        score = score_text(trial.val_loss, trial.standard_error)
        row = (*([str(trial.part)] if arms else []), score, reached(trial, folds, epochs))
        style = "bold green" if done and place == 1 else "" if done else "dim"
        cells = (
            str(place) if done else "·",
            str(trial.number),
            *row,
            params_text(trial.params, varying),
        )
        table.add_row(*cells, style=style)
    return table


_QUIET = 30.0  # seconds


def _change(trial: TrialRecord) -> str:
    """``trial 3 pruned 0.07899 (given up at epoch 1 of 1 fold)``."""
    score = (
        score_text(trial.val_loss, trial.standard_error) if math.isfinite(trial.val_loss) else ""
    )
    reason = f"({trial.reason})" if trial.reason else ""
    return " ".join(part for part in (f"{trial.name} {trial.status.value}", score, reason) if part)


class PlainView:
    """One line for each trial that ends or pauses, for logs and CI; and a sign of life when the
    first one begins, and whenever there has been none for half a minute."""

    def __init__(
        self, console: Console, varying: Sequence[str] = (), time_budget: float | None = None
    ) -> None:
        self._console, self._varying, self._budget = console, varying, time_budget
        self._shown = -math.inf

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def update(self, ledger: TrialTable, changed: TrialRecord | None = None) -> None:
        if changed is None and time.monotonic() - self._shown < _QUIET:
            return
        self._shown = time.monotonic()
        what = f"{_change(changed)} | " if changed else ""
        best = ledger.best
        incumbent = (
            f"best {score_text(best.val_loss, best.standard_error)} ({best.name})"
            if best
            else "no best yet"
        )
        eta = clock(ledger.remaining(self._budget))
        self.say(
            f"[{clock(ledger.elapsed)}] {what}{_states(ledger)} | {incumbent}"
            f" | {ledger.fold_epochs} fold-epochs | ETA {eta}"
        )

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


class LiveView:
    """A bar, the counts, the incumbent with its error bar, and the trials that run, redrawn in
    place."""

    def __init__(
        self, console: Console, varying: Sequence[str] = (), time_budget: float | None = None
    ) -> None:
        self._varying, self._budget = varying, time_budget
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._drawn = 0.0

    def say(self, line: str) -> None:
        self._live.console.print(line, highlight=False, markup=False)

    def update(self, ledger: TrialTable, changed: TrialRecord | None = None) -> None:
        if changed is None and time.monotonic() - self._drawn < 0.2:
            return
        self._drawn = time.monotonic()
        self._live.update(self._draw(ledger))

    def _draw(self, ledger: TrialTable) -> Group:
        settled = min(ledger.settled, ledger.total)
        head = Table.grid(padding=(0, 1))
        eta = clock(ledger.remaining(self._budget))
        head.add_row(
            ProgressBar(total=ledger.total, completed=settled, width=30),
            f"{settled}/{ledger.total}",
            f"{clock(ledger.elapsed)} elapsed, {eta} left, {ledger.fold_epochs} fold-epochs",
        )
        best = ledger.best
        lines = [Text(_states(ledger), style="dim")]
        if best:
            score = score_text(best.val_loss, best.standard_error)
            text = f"best  {best.name}: {score}  {params_text(best.params, self._varying)}"
            lines.append(Text(text, style="bold green", overflow="ellipsis", no_wrap=True))
        running = [t for t in ledger.trials.values() if t.status is TrialStatus.RUNNING]
        for trial in running[-8:]:
            at = "…"
            if trial.report:
                folds = (
                    f"{len(trial.report.folds)} fold{'s' if len(trial.report.folds) > 1 else ''}"
                )
                score = score_text(trial.val_loss, trial.standard_error)
                at = f"{folds}, epoch {trial.report.epoch}: {score}"
            text = f"      {trial.name}, {at}  {params_text(trial.params, self._varying)}"
            lines.append(Text(text, overflow="ellipsis", no_wrap=True))
        return Group(head, *lines)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        self._live.update(Text("starting Ray and its workers …", style="dim"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, e, tb)
