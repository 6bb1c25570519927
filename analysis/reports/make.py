"""The reports of a sweep: which there are, which apply, and where they go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

__all__ = ["KINDS", "Made", "make_reports", "report_sweep", "report_trial"]

KINDS = {
    "sweep": "foldrace.analysis.reports.sweep.report",
    "optimizers": "foldrace.analysis.reports.comparison.report",
    "latent": "foldrace.analysis.reports.latent.report",
    "vae": "foldrace.analysis.reports.vae.report",
}
"""By kind: the module whose ``build(client, run)`` makes it, imported when it is asked for."""

ARTIFACTS = "reports"


@dataclass(frozen=True)
class Made:
    """What was written: a page a kind, in a folder."""

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
) -> Made:
    """Writes reports of a sweep, or of the latest, and logs them to its run.

    Args:
        root: the folder of all sweeps.
        uri: an MLflow server to find the sweep on; without it ``root`` says where, or else
            MLFLOW_TRACKING_URI.
        kinds: of `KINDS`; all that apply if empty.
        out: by default ``report`` in the sweep's folder, or ``SWEEP-report`` here if there is no
            such folder.

    Raises:
        InputError: an unknown kind; an address or folder that cannot be used.
        StateError: no such sweep, or a kind that does not apply to it (and what to do about that).
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError("--kind", kind, "no such report", nearest(kind, KINDS))
    client, run, found = locate_sweep(root, name, uri)
    folder = out or (
        found.path / "report" if found else Path(f"{run.data.tags['foldrace.sweep']}-report")
    )
    pages = make_reports(client, run, list(kinds) or None, folder)
    return Made(run.data.tags["foldrace.sweep"], folder, tuple(pages))


def make_reports(
    client: MlflowClient, run: Run, kinds: Sequence[str] | None, out: Path
) -> list[Path]:
    """Writes the reports of the sweep with this run into a folder, and logs them to the run under
    ``reports/``.

    Args:
        kinds: of `KINDS`; None makes all that apply.

    Returns: the pages, one a kind.
    Raises: InputError if the folder cannot be written to; StateError if a kind that is asked for
        does not apply.
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
    notify: Callable[[str], None] = lambda _: None,
) -> Made:
    """Writes the latent-space report of any trial that has left a checkpoint, and logs it to the
    sweep's run.

    Raises:
        StateError: no such sweep, or no checkpoint of that trial here.
        InputError: the data set or the task cannot be read any more; a folder that cannot be used.
    """
    from foldrace.search.sweeps.trial_evidence import log_trial_evidence

    run_id = log_trial_evidence(name, trial, root, data_dir)
    found = find_sweep(root, name)
    state = found.read_state()
    client = connect(state.tracking_uri)
    run = sweep_run(client, found.name, state.key)
    folder = _made_folder(out or found.path / "report")
    report = import_module(KINDS["latent"]).build_trial(client, client.get_run(run_id))
    return Made(found.name, folder, (_publish(client, run, report, folder),))


def _publish(client: MlflowClient, run: Run, built: Report, out: Path) -> Path:
    """Writes a report and logs its files to the sweep's run; returns the page."""
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
    """The kinds that do not apply to a sweep: what each lacks, and what to do."""
    name = run.data.tags["foldrace.sweep"]
    lacks = {}
    if run.data.tags.get("foldrace.kind") != "comparison":
        lacks["optimizers"] = "it is for a sweep with kind: comparison"
    refit = refit_run(client, run)
    evidence = load_evidence(client, refit)
    if refit is None:
        first = f"the winner has not been refitted; `foldrace refit {name}` first"
        return lacks | {"latent": first, "vae": first}
    if "codes" not in evidence:
        lacks["latent"] = "the refit recorded no codes; it is for a task that encodes"
    if "prior_samples" not in evidence:
        lacks["vae"] = "the refit recorded no samples of a prior; it is for a variational task"
    return lacks


def _source(run: Run) -> str:
    """What a page was made of, for its last line."""
    day = datetime.fromtimestamp(run.info.start_time / 1000, UTC).date()
    return (
        f"Sweep {run.data.tags['foldrace.sweep']} of {day}, key"
        f" {run.data.tags['foldrace.sweep_key']}."
    )
