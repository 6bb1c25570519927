"""The whole reference study in one go: its sweeps, their refits and reports, and the page that
tells the story."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from foldrace.analysis.study.plan import PARTS, REPORTS, Journal, Part, Stage
from foldrace.search.preparing.prepare import Prepared, prepare
from foldrace.search.recording.folder import SweepFolder, check_root
from foldrace.search.recording.tracking import connect
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.tune.progress import View, clock

__all__ = ["Stages", "StudyResult", "Workshop", "begin_study", "run_study", "whole_study"]

Say = Callable[[str], None]
MakeView = Callable[[Prepared], Callable[[], AbstractContextManager[View]]]


class Stages(Protocol):
    """What carries the stages out. Each may be called again after it was broken off, and then goes
    on."""

    def sweep(self, part: Part) -> None:
        """Raises: KeyboardInterrupt if the sweep was asked to stop; it can go on later."""
        ...

    def refit(self, part: Part) -> None: ...

    def reports(self, part: Part) -> None: ...


@dataclass(frozen=True)
class StudyResult:
    """A study that has come to its end.

    Attributes:
        page: the one that tells the story.
        figures: (what was measured, the study, here).
        seconds: by part and stage, all sessions together.
        failed: how many trials have failed.
    """

    page: Path
    figures: Sequence[tuple[str, str, str]]
    seconds: Mapping[str, Mapping[str, float]]
    failed: int

    def shares(self) -> list[tuple[str, float, float]]:
        """Each part's title, seconds, and share of all of them."""
        spent = [(part.title, sum(self.seconds.get(part.key, {}).values())) for part in PARTS]
        total = sum(seconds for _, seconds in spent) or 1.0
        return [(title, seconds, seconds / total) for title, seconds in spent]

    def tables(self) -> tuple[Table, Table]:
        """For the terminal: the figures beside the study's own, and where the time went."""
        figures = Table("figure", "the study", "here", header_style="bold")
        for row in self.figures:
            figures.add_row(*row)
        shares = Table("part", "time", "share", header_style="bold")
        for title, seconds, share in self.shares():
            shares.add_row(title, clock(seconds), f"{share:.0%}")
        return figures, shares

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        figures = [
            {"figure": what, "study": study, "here": here} for what, study, here in self.figures
        ]
        return {
            "page": str(self.page),
            "figures": figures,
            "seconds": dict(self.seconds),
            "failed": self.failed,
        }


def whole_study(
    root: Path,
    data_dir: Path,
    overrides: Sequence[str],
    make_view: MakeView,
    say: Say,
    address: str | None = None,
) -> StudyResult:
    """Runs what is left of the study in a folder, and writes its page.

    Raises:
        KeyboardInterrupt: it was asked to stop; another call goes on from there.
        InputError, StateError: as `begin_study`, and as the sweeps.
    """
    journal = begin_study(root, overrides)
    run_study(
        PARTS, journal, Workshop(root, data_dir, journal.overrides, make_view, say, address), say
    )
    say("The study's page")
    from foldrace.analysis.reports.page import write_report
    from foldrace.analysis.study.page import build_page, figures_beside
    from foldrace.analysis.study.record import read_study

    record = read_study(root, data_dir, journal)
    page = write_report(build_page(record), root)
    failed = sum(part.failed for part in record.parts.values())
    return StudyResult(page, figures_beside(record), journal.seconds, failed)


def begin_study(root: Path, overrides: Sequence[str]) -> Journal:
    """The study in a folder, new or to go on with; every part's sweep file has been checked with
    the overrides in it.

    Raises:
        InputError, StateError: an override is wrong, the folder cannot be used, or it holds a
            study with others.
    """
    check_root(root)
    journal = Journal.open(root, overrides)
    for part in PARTS:
        part.spec(journal.overrides)
    journal.save()  # a study that is killed in its first sweep goes on with the same overrides
    return journal


def run_study(
    parts: Sequence[Part],
    journal: Journal,
    stages: Stages,
    say: Say,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Carries out what has not been done yet, in order.

    Raises:
        KeyboardInterrupt: it was asked to stop; what has been done is kept, and another call goes
            on from there.
    """
    carry_out = {
        Stage.SWEEP: stages.sweep,
        Stage.REFIT: stages.refit,
        Stage.REPORTS: stages.reports,
    }
    for number, part in enumerate(parts, 1):
        where = f"[{number}/{len(parts)}] {part.title}"
        pending = [stage for stage in part.stages if not journal.has(part, stage)]
        if not pending:
            say(f"{where}: done before, in {clock(journal.spent(part))}")
            continue
        for stage in pending:
            say(f"{where}: {stage.value}")
            with journal.stage(part, stage, now):
                carry_out[stage](part)
        say(
            f"{where}: done, {clock(journal.spent(part))}; the study so far {clock(journal.total)}"
        )


class Workshop:
    """The stages in earnest, in one folder of sweeps.

    Args:
        overrides: put into every part's sweep file when its sweep starts.
        make_view: for a prepared sweep, what makes where it shows itself.
        address: of a Ray cluster; None starts a Ray on this machine for each sweep.
    """

    def __init__(
        self,
        root: Path,
        data_dir: Path,
        overrides: Sequence[str],
        make_view: MakeView,
        say: Say,
        address: str | None = None,
    ) -> None:
        self._root, self._data_dir, self._overrides = root, data_dir, overrides
        self._make_view, self._say, self._address = make_view, say, address

    def folder(self, part: Part) -> SweepFolder:
        """Where a part's sweep is or will be."""
        return SweepFolder(self._root.resolve(), part.name)

    def sweep(self, part: Part) -> None:
        """Starts the part's sweep, or goes on with it."""
        from foldrace.search.sweeps.run import resume_sweep, run_sweep

        folder = self.folder(part)
        if folder.result.is_file():
            return
        begun = folder.spec.is_file()
        spec = load_spec(folder.spec) if begun else part.spec(self._overrides)
        prepared = prepare(spec, self._data_dir, local=self._address is None, notify=self._say)
        view = self._make_view(prepared)
        if begun:
            result, ledger = resume_sweep(prepared, folder, make_view=view, address=self._address)
        else:
            result, ledger = run_sweep(prepared, self._root, make_view=view, address=self._address)
        if result.interrupted:
            raise KeyboardInterrupt
        if ledger.fold_epochs:
            from foldrace.analysis.reports.sweep.overview import log_overview

            log_overview(connect(result.tracking_uri), result.run_id, result.folder)

    def refit(self, part: Part) -> None:
        """Refits the winner, if there is one."""
        from foldrace.search.sweeps.refit import refit

        if self.folder(part).read_result()["best"] is None:
            self._say(
                f"{part.name}: no trial was evaluated to the end, so there is nothing to refit"
            )
            return
        refit(part.name, self._root, self._data_dir)

    def reports(self, part: Part) -> None:
        """Writes the reports that apply to the part's sweep into its folder."""
        from foldrace.analysis.reports.make import make_reports

        folder = self.folder(part)
        result = folder.read_result()
        client = connect(result["tracking_uri"])
        make_reports(client, client.get_run(result["run_id"]), None, folder.path / REPORTS)
