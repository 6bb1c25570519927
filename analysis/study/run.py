"""Runs the reference study: its sweeps, their refits and reports, and the study's page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from foldrace.analysis.study.plan import PARTS, REPORTS, Stage, StudyPart, StudyProgress
from foldrace.errors import InputError, first_line
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.recorded import open_recorded
from foldrace.search.recording.folder import SweepFolder, check_root
from foldrace.search.recording.tracking import connect
from foldrace.search.text import clock
from foldrace.search.tune.view import View

__all__ = ["StageRunner", "StudyResult", "SweepStages", "begin_study", "run_study", "whole_study"]

log = logging.getLogger(__name__)

MakeView = Callable[[Prepared], Callable[[], AbstractContextManager[View]]]


class StageRunner(Protocol):
    """Runs the stages of a part; an interrupted stage continues when it is called again."""

    def sweep(self, part: StudyPart) -> None:
        """Raises: KeyboardInterrupt if the sweep was stopped; it can be resumed."""
        ...

    def refit(self, part: StudyPart) -> None: ...

    def reports(self, part: StudyPart) -> None: ...


@dataclass(frozen=True)
class StudyResult:
    """A study that has ended.

    Attributes:
        page: the study's page.
        results: (what was measured, in the study, here).
        seconds: by part and stage: the time spent, interrupted attempts included.
        failed: the number of failed trials.
    """

    page: Path
    results: Sequence[tuple[str, str, str]]
    seconds: Mapping[str, Mapping[str, float]]
    failed: int

    def shares(self) -> list[tuple[str, float, float]]:
        """Each part's title, its seconds, and their share of the total."""
        spent = [(part.title, sum(self.seconds.get(part.key, {}).values())) for part in PARTS]
        total = sum(seconds for _, seconds in spent) or 1.0
        return [(title, seconds, seconds / total) for title, seconds in spent]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        names = ("figure", "study", "here")
        return {
            "page": str(self.page),
            "figures": [dict(zip(names, row, strict=True)) for row in self.results],
            "seconds": dict(self.seconds),
            "failed": self.failed,
        }


def whole_study(
    root: Path,
    data_dir: Path,
    overrides: Sequence[str],
    make_view: MakeView,
    address: str | None = None,
) -> StudyResult:
    """Runs the stages of the study in a folder that have not ended yet, and writes its page.

    Args:
        overrides: of the sweep files, see `StudyPart.spec`.
        make_view: for a prepared sweep, a function that opens its progress view.
        address: of a Ray cluster; None starts a local Ray for each sweep.

    Raises:
        KeyboardInterrupt: the study was stopped; another call continues it.
        InputError, StateError: as `begin_study`, and as the sweeps.
    """
    progress = begin_study(root, overrides)
    stages = SweepStages(root, data_dir, progress.overrides, make_view, address)
    run_study(PARTS, progress, stages)
    log.info("The study's page")
    from foldrace.analysis.reports.page import write_report
    from foldrace.analysis.study.page import build_page
    from foldrace.analysis.study.record import read_study
    from foldrace.analysis.study.results import study_results

    record = read_study(root, data_dir, progress)
    page = write_report(build_page(record), root)
    failed = sum(part.failed for part in record.parts.values())
    return StudyResult(page, study_results(record), progress.seconds, failed)


def begin_study(root: Path, overrides: Sequence[str]) -> StudyProgress:
    """Begins the study in a folder, or reads the one that is there.

    Every part's sweep file is checked with the overrides before anything is written.

    Raises:
        InputError: an override is wrong, or the folder cannot be used.
        StateError: the folder holds a study with other overrides.
    """
    check_root(root)
    progress = StudyProgress.open(root, overrides)
    for part in PARTS:
        part.spec(progress.overrides)
    try:
        progress.save()  # a study that is killed in its first sweep continues with these overrides
    except OSError as error:
        raise InputError("--dir", str(root), f"cannot be written: {first_line(error)}") from error
    return progress


def run_study(
    parts: Sequence[StudyPart],
    progress: StudyProgress,
    runner: StageRunner,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Runs the stages that have not ended yet, in order.

    Raises:
        KeyboardInterrupt: the study was stopped; ended stages are kept, and another call
            continues with the interrupted one.
    """
    run = {Stage.SWEEP: runner.sweep, Stage.REFIT: runner.refit, Stage.REPORTS: runner.reports}
    for number, part in enumerate(parts, 1):
        where = f"[{number}/{len(parts)}] {part.title}"
        pending = [stage for stage in part.stages if not progress.has(part, stage)]
        if not pending:
            log.info("%s: already done, in %s", where, clock(progress.spent(part)))
            continue
        for stage in pending:
            log.info("%s: %s", where, stage.value)
            with progress.stage(part, stage, now):
                run[stage](part)
        spent, total = clock(progress.spent(part)), clock(progress.total)
        log.info("%s: done, %s; the study so far %s", where, spent, total)


class SweepStages:
    """Runs the stages as real sweeps, refits and reports in one folder; see `whole_study`."""

    def __init__(
        self,
        root: Path,
        data_dir: Path,
        overrides: Sequence[str],
        make_view: MakeView,
        address: str | None = None,
    ) -> None:
        self._root, self._data_dir, self._overrides = root, data_dir, overrides
        self._make_view, self._address = make_view, address

    def folder(self, part: StudyPart) -> SweepFolder:
        """The folder of a part's sweep."""
        return SweepFolder(self._root.resolve(), part.name)

    def sweep(self, part: StudyPart) -> None:
        """Runs the part's sweep, or resumes it; raises KeyboardInterrupt if it was stopped."""
        from foldrace.search.sweeps.run import resume_sweep, run_sweep

        folder = self.folder(part)
        if folder.result.is_file():
            return
        local = self._address is None
        if folder.spec.is_file():
            recorded = open_recorded(folder)
            prepared = recorded.prepare(self._data_dir, local=local)
            view = self._make_view(prepared)
            result, trials = resume_sweep(
                prepared, recorded, make_view=view, address=self._address
            )
        else:
            prepared = prepare(part.spec(self._overrides), self._data_dir, local=local)
            view = self._make_view(prepared)
            result, trials = run_sweep(prepared, self._root, make_view=view, address=self._address)
        if result.interrupted:
            raise KeyboardInterrupt
        if trials.fold_epochs:
            from foldrace.analysis.reports.sweep.overview import log_overview

            log_overview(connect(result.tracking_uri), result.run_id, result.folder)

    def refit(self, part: StudyPart) -> None:
        """Refits the best trial, if there is one."""
        from foldrace.search.sweeps.refit import refit

        if self.folder(part).read_result()["best"] is None:
            log.info("%s: no trial has completed, so there is nothing to refit", part.name)
        else:
            refit(part.name, self._root, self._data_dir)

    def reports(self, part: StudyPart) -> None:
        """Writes the reports of the part's sweep into its folder."""
        from foldrace.analysis.reports.make import make_reports

        folder = self.folder(part)
        result = folder.read_result()
        client = connect(folder.read_state().tracking_uri)
        make_reports(client, client.get_run(result["run_id"]), None, folder.path / REPORTS)
