"""How a running sweep is shown: a live display on a terminal, plain lines elsewhere."""

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

from foldrace.search.text import clock, params_text, reached
from foldrace.search.tune.state import TrialRecord, TrialStatus, TrialTable

__all__ = ["LiveView", "PlainView", "top_table"]


def _states(trials: TrialTable) -> str:
    counts = [
        f"{count} {status.value}" for status in TrialStatus if (count := trials.count(status))
    ]
    return f"{len(trials.records)} of {trials.total} trials: " + (", ".join(counts) or "none yet")


def _evaluated(trial: TrialRecord, folds: int, epochs: int) -> str:
    """``completed``, ``3/9 epochs``, or ``1/3 folds, 3/9 epochs``."""
    if trial.status is TrialStatus.COMPLETED or trial.report is None:
        return trial.status.value
    return reached(len(trial.report.folds), trial.report.epoch, folds, epochs)


def top_table(
    trials: TrialTable, varying: Sequence[str], folds: int, epochs: int, count: int = 5
) -> Table:
    """The best trials: their CV mean ± standard error, and the parameters that vary.

    Completed trials come first. Pruned ones follow, with the folds and epochs that they reached;
    they have no rank.

    Args:
        varying: the parameters to show; empty: all.
        folds: of the sweep.
        epochs: of the sweep.
        count: how many trials are shown.
    """
    table = Table(
        title="Best configurations by cross-validation", title_justify="left", header_style="bold"
    )
    table.add_column("#", justify="right")
    table.add_column("trial", justify="right")
    arms = any(trial.part for trial in trials.records.values())
    if arms:
        table.add_column("arm", no_wrap=True)
        varying = [name for name in varying if name != "optimizer"]  # the arm says it
    header = f"CV {trials.objective.name} ± std. error"
    table.add_column(header, justify="right", no_wrap=True)
    table.add_column("evaluated", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    best = trials.ranking()
    for place, trial in enumerate([*best, *trials.pruned()][:count], 1):
        done = trial.status is TrialStatus.COMPLETED
        score = trials.score(trial)
        row = (*([str(trial.part)] if arms else []), score, _evaluated(trial, folds, epochs))
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
_STARTING = "starting Ray and its workers …"


def _change(trial: TrialRecord, trials: TrialTable) -> str:
    """``trial 3 pruned 0.07899 (at epoch 1 of 1 fold)``."""
    score = trials.score(trial) if math.isfinite(trial.val_loss) else ""
    reason = f"({trial.reason.removeprefix('pruned ')})" if trial.reason else ""
    return " ".join(part for part in (f"{trial.name} {trial.status.value}", score, reason) if part)


class PlainView:
    """Prints a line for each trial that ends or pauses, for logs and CI.

    It also prints one before Ray starts, one when the first trial begins, and one whenever half a
    minute has passed without.
    """

    def __init__(
        self, console: Console, varying: Sequence[str] = (), time_budget: float | None = None
    ) -> None:
        self._console, self._varying, self._budget = console, varying, time_budget
        self._shown = -math.inf

    def update(self, trials: TrialTable, changed: TrialRecord | None = None) -> None:
        if changed is None and time.monotonic() - self._shown < _QUIET:
            return
        self._shown = time.monotonic()
        what = f"{_change(changed, trials)} | " if changed else ""
        best = trials.best
        incumbent = (
            f"best {trials.objective.name} {trials.score(best)} ({best.name})"
            if best
            else "no best yet"
        )
        eta = clock(trials.remaining(self._budget))
        line = (
            f"[{clock(trials.elapsed)}] {what}{_states(trials)} | {incumbent}"
            f" | {trials.fold_epochs} fold-epochs | ETA {eta}"
        )
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> PlainView:
        self._console.print(_STARTING)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


class LiveView:
    """Redraws in place: a progress bar, the counts, the incumbent, and the trials that run."""

    def __init__(
        self, console: Console, varying: Sequence[str] = (), time_budget: float | None = None
    ) -> None:
        self._varying, self._budget = varying, time_budget
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._drawn = 0.0

    def update(self, trials: TrialTable, changed: TrialRecord | None = None) -> None:
        if changed is None and time.monotonic() - self._drawn < 0.2:
            return
        self._drawn = time.monotonic()
        self._live.update(self._draw(trials))

    def _draw(self, trials: TrialTable) -> Group:
        settled = min(trials.settled, trials.total)
        head = Table.grid(padding=(0, 1))
        eta = clock(trials.remaining(self._budget))
        head.add_row(
            ProgressBar(total=trials.total, completed=settled, width=30),
            f"{settled}/{trials.total}",
            f"{clock(trials.elapsed)} elapsed, {eta} left, {trials.fold_epochs} fold-epochs",
        )
        best = trials.best
        lines = [Text(_states(trials), style="dim")]
        if best:
            score = f"{trials.objective.name} {trials.score(best)}"
            text = f"best  {best.name}: {score}  {params_text(best.params, self._varying)}"
            lines.append(Text(text, style="bold green", overflow="ellipsis", no_wrap=True))
        running = [t for t in trials.records.values() if t.status is TrialStatus.RUNNING]
        for trial in running[-8:]:
            at = "…"
            if trial.report:
                folds = (
                    f"{len(trial.report.folds)} fold{'s' if len(trial.report.folds) > 1 else ''}"
                )
                score = trials.score(trial)
                at = f"{folds}, epoch {trial.report.epoch}: {score}"
            text = f"      {trial.name}, {at}  {params_text(trial.params, self._varying)}"
            lines.append(Text(text, overflow="ellipsis", no_wrap=True))
        return Group(head, *lines)

    def __enter__(self) -> LiveView:
        self._live.__enter__()
        self._live.update(Text(_STARTING, style="dim"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, e, tb)
