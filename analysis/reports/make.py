"""Builds the reports of a sweep, writes them to a folder and logs them to MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldrace.analysis.records.evidence import load_evidence, refit_run
from foldrace.analysis.records.tables import locate_sweep, sweep_run
from foldrace.analysis.reports.page import Report, report_files, write_report
from foldrace.errors import InputError, StateError, nearest
from foldrace.search.recording.folder import find_sweep
from foldrace.search.recording.tracking import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["ARTIFACTS", "KINDS", "WrittenReports", "make_reports", "report_sweep", "report_trial"]

KINDS = {
    "sweep": "foldrace.analysis.reports.sweep.report",
    "optimizers": "foldrace.analysis.reports.comparison.report",
    "latent": "foldrace.analysis.reports.latent.report",
    "vae": "foldrace.analysis.reports.vae.report",
}
"""By kind of report, the module whose ``build(client, run)`` returns it."""

ARTIFACTS = "reports"
"""The artifact folder of a sweep's run that holds its reports."""


@dataclass(frozen=True)
class WrittenReports:
    """The pages that were written to a folder, one per kind of report."""

    sweep: str
    folder: Path
    pages: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        pages = {page.stem: str(page) for page in self.pages}
        return {"sweep": self.sweep, "folder": str(self.folder), "reports": pages}


def report_sweep(
    root: Path,
    name: str | None,
    *,
    uri: str | None = None,
    kinds: Sequence[str] = (),
    out: Path | None = None,
) -> WrittenReports:
    """Writes the reports of a sweep and logs them to its MLflow run.

    Args:
        root: the folder of all sweeps.
        name: of the sweep; None: the latest.
        uri: the MLflow server that has the sweep; None: the store in ``root``, or else
            MLFLOW_TRACKING_URI.
        kinds: of `KINDS`; empty: all that apply.
        out: the folder to write to; None: ``report`` in the sweep's folder, or ``SWEEP-report`` in
            the working directory if the sweep has no folder here.

    Raises:
        InputError: an unknown kind; an address or folder that cannot be used.
        StateError: there is no such sweep, or a kind does not apply to it.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError("--kind", kind, "no such report", nearest(kind, KINDS))
    client, run, found = locate_sweep(root, name, uri)
    folder = out or (
        found.path / "report" if found else Path(f"{run.data.tags['foldrace.sweep']}-report")
    )
    pages = make_reports(client, run, list(kinds) or None, folder)
    return WrittenReports(run.data.tags["foldrace.sweep"], folder, tuple(pages))


def make_reports(
    client: MlflowClient, run: Run, kinds: Sequence[str] | None, out: Path
) -> list[Path]:
    """Writes the reports of the sweep with this run, and logs them to the run.

    Args:
        client: of the store that has the run.
        run: the sweep's run.
        kinds: of `KINDS`; None: all that apply.
        out: the folder to write to.

    Returns:
        The pages, one per kind.

    Raises:
        InputError: the folder cannot be made.
        StateError: a kind does not apply to the sweep.
    """
    missing = _missing(client, run)
    for kind in kinds or ():
        if kind in missing:
            raise StateError(
                f"{run.data.tags['foldrace.sweep']}: no {kind} report: {missing[kind]}"
            )
    _made_folder(out)
    chosen = kinds or [kind for kind in KINDS if kind not in missing]
    return [
        _publish(client, run, import_module(KINDS[kind]).build(client, run), out)
        for kind in chosen
    ]


def report_trial(
    root: Path,
    name: str | None,
    trial: int,
    data_dir: Path,
    *,
    out: Path | None = None,
) -> WrittenReports:
    """Writes the latent-space report of a trial, and logs it to the sweep's run.

    Args:
        root: the folder of all sweeps.
        name: of the sweep; None: the latest.
        trial: its number; its checkpoint must be in the sweep's folder.
        data_dir: where data sets are stored.
        out: the folder to write to; None: ``report`` in the sweep's folder.

    Raises:
        StateError: there is no such sweep, or no checkpoint of the trial.
        InputError: the data set or the task cannot be loaded; the folder cannot be made.
    """
    from foldrace.search.sweeps.trial_evidence import log_trial_evidence

    run_id = log_trial_evidence(name, trial, root, data_dir)
    found = find_sweep(root, name)
    state = found.read_state()
    client = connect(state.tracking_uri)
    run = sweep_run(client, found.name, state.key)
    folder = _made_folder(out or found.path / "report")
    report = import_module(KINDS["latent"]).build_trial(client, client.get_run(run_id))
    return WrittenReports(found.name, folder, (_publish(client, run, report, folder),))


def _publish(client: MlflowClient, run: Run, built: Report, out: Path) -> Path:
    """Writes a report, logs its files to the sweep's run, and returns the page."""
    report = replace(built, source=_source(run))
    page = write_report(report, out)
    for path in report_files(report, out):
        below = path.parent.relative_to(out).as_posix()
        client.log_artifact(
            run.info.run_id, str(path), f"{ARTIFACTS}/{below}" if below != "." else ARTIFACTS
        )
    return page


def _made_folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("--output", str(out), f"cannot be made: {error.strerror}") from error
    return out


def _missing(client: MlflowClient, run: Run) -> dict[str, str]:
    """The kinds that do not apply to a sweep, with the reason and the remedy."""
    name = run.data.tags["foldrace.sweep"]
    lacks = {}
    if run.data.tags.get("foldrace.kind") != "comparison":
        lacks["optimizers"] = "it is for a sweep with kind: comparison"
    refit = refit_run(client, run)
    evidence = load_evidence(client, refit)
    if refit is None:
        first = f"the best trial has not been refitted; run `foldrace refit {name}` first"
        return lacks | {"latent": first, "vae": first}
    if "codes" not in evidence:
        lacks["latent"] = "the refit recorded no codes; it needs a task with a method `encode`"
    if "prior_samples" not in evidence:
        lacks["vae"] = "the refit recorded no samples from a prior; it needs a variational task"
    return lacks


def _source(run: Run) -> str:
    """The record that a page was made from, for its footer."""
    day = datetime.fromtimestamp(run.info.start_time / 1000, UTC).date()
    return (
        f"Sweep {run.data.tags['foldrace.sweep']} of {day}, key"
        f" {run.data.tags['foldrace.sweep_key']}."
    )
