"""The tables of sweeps, refits, the study, clusters' jobs, data sets and the doctor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from foldrace.search.text import clock, params_text, reached, score_text

if TYPE_CHECKING:
    from foldrace.analysis.records.status import Status
    from foldrace.analysis.study.run import StudyResult
    from foldrace.cli.doctor import Finding
    from foldrace.cluster.jobs import Job
    from foldrace.search.sweeps.comparison_result import ArmResult
    from foldrace.search.sweeps.pareto import ParetoPoint
    from foldrace.search.sweeps.refit import RefitResult
    from foldrace.trainables.data.datasets import DatasetInfo

__all__ = [
    "arms_table",
    "datasets_table",
    "findings_table",
    "jobs_table",
    "pareto_table",
    "refit_table",
    "status_table",
    "study_tables",
]

_MISSING = "–"
_OBJECTIVES = {"parameters": "weights", "seconds": "training time"}
_MARKS = {"good": ("✓", "green"), "note": ("·", "yellow"), "bad": ("✗", "red")}


def pareto_table(front: Sequence[ParetoPoint], varying: Sequence[str] = ()) -> Table:
    """The Pareto front, one trial per row.

    Args:
        front: the lowest ``val_loss`` first.
        varying: the parameters to show; all if empty.
    """
    title = "Pareto front: no other trial is better in all of these"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("trial", justify="right")
    name = front[0].objective.name if front else "loss"
    table.add_column(f"CV {name} ± std. error", justify="right", no_wrap=True)
    others = [name for name in front[0].values if name != "val_loss"] if front else []
    for name in others:
        table.add_column(_OBJECTIVES[name], justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    for point in front:
        values = [
            clock(value) if name == "seconds" else f"{value:,.0f}"
            for name, value in point.values.items()
            if name != "val_loss"
        ]
        mean = point.objective.score(point.values["val_loss"])
        score = score_text(mean, point.standard_error)
        table.add_row(str(point.trial), score, *values, params_text(point.params, varying))
    return table


def arms_table(arms: Mapping[str, ArmResult], varying: Sequence[str]) -> Table:
    """A comparison's arms: the loss by default, tuned and repeated, and the tuned parameters."""
    from foldrace.trainables.training.reports import mean_and_standard_error

    # An arm's name says its optimizer.
    varying = [name for name in varying if name != "optimizer"]
    metric = next(iter(arms.values())).objective.name if arms else "loss"
    table = Table(title=f"Arms, mean CV {metric}", title_justify="left", header_style="bold")
    table.add_column("arm", no_wrap=True)
    for column in ("default", "tuned", "repeated ± std. error"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("failed", justify="right")
    table.add_column("tuned parameters", overflow="fold")
    for name, arm in arms.items():
        default, tuned = (
            _MISSING if value is None else f"{arm.objective.score(value):.5f}"
            for value in (arm.default, arm.val_loss)
        )
        losses = [arm.objective.score(loss) for loss in arm.fold_losses]
        repeated = score_text(*mean_and_standard_error(losses)) if losses else _MISSING
        failed = str(arm.trials["failed"])
        table.add_row(name, default, tuned, repeated, failed, params_text(arm.params, varying))
    return table


def status_table(status: Status, count: int = 5) -> Table:
    """The best completed trials of a sweep, and below them the best of those that are open."""
    from foldrace.analysis.records.tables import parameter_texts
    from foldrace.analysis.records.values import read_values

    table = Table("#", "trial", header_style="bold")
    table.add_column(f"CV {status.objective.name} ± std. error", no_wrap=True)
    table.add_column("evaluated", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    completed = [row for _, row in status.ranking.head(count).iterrows()]
    still_open = [row for _, row in status.open_trials.head(count).iterrows()]
    for place, row in enumerate([*completed, *still_open], 1):
        given = read_values(parameter_texts(row), status.spec)
        params = {name: given[name] for name in status.varying if name in given}
        score = score_text(status.objective.score(row["val_loss"]), row["val_loss_se"])
        done = place <= len(completed)
        folds, epoch = int(row["folds"]), int(row["epoch"])
        far = "completed" if done else reached(folds, epoch, status.folds, status.epochs)
        style = "bold green" if done and place == 1 else "" if done else "dim"
        where = str(place) if done else "·"
        table.add_row(where, str(row["trial"]), score, far, params_text(params), style=style)
    return table


def refit_table(result: RefitResult) -> Table:
    """What a refit was trained on, and its scores on the test part."""
    table = Table(show_header=False, title=f"Refit of {result.sweep}", title_justify="left")
    for label, value in result.rows():
        table.add_row(label, value)
    return table


def study_tables(result: StudyResult) -> tuple[Table, Table]:
    """The study's numbers beside the published ones, and the share of time of each part."""
    numbers = Table("result", "the study", "here", header_style="bold")
    for row in result.results:
        numbers.add_row(*row)
    shares = Table("part", "time", "share", header_style="bold")
    for title, seconds, share in result.shares():
        shares.add_row(title, clock(seconds), f"{share:.0%}")
    return numbers, shares


def jobs_table(jobs: Iterable[Job]) -> Table:
    """The sweeps that were submitted to a cluster."""
    table = Table("sweep", "job", "of", "status", "since", header_style="bold")
    for job in jobs:
        began = datetime.fromtimestamp(job.began / 1000) if job.began is not None else None
        since = f"{began:%Y-%m-%d %H:%M}" if began else ""
        owner = f"{job.user}@{job.host}" if job.user else ""
        table.add_row(job.sweep, job.id, owner, job.outcome, since)
    return table


def datasets_table(datasets: Iterable[DatasetInfo]) -> Table:
    """Data sets: their sizes, the shape of a sample, and whether they are on this machine."""
    table = Table("name", "samples", "shape", "state", "what", header_style="bold")
    for info in datasets:
        sizes = f"{info.training:,} + {info.test:,}"
        shape = "×".join(map(str, info.sample_shape))
        table.add_row(info.name, sizes, shape, info.state.value, info.description)
    return table


def findings_table(findings: Iterable[Finding]) -> Table:
    """What the doctor has examined, what it found, and the remedies."""
    table = Table("", "what", header_style="bold")
    table.add_column("found", overflow="fold")
    table.add_column("what to do")
    for finding in findings:
        mark = Text(*_MARKS[finding.grade.value])
        table.add_row(mark, finding.what, finding.found, finding.remedy)
    return table
