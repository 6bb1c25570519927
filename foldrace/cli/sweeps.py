"""Commands that run sweeps: ``sweep``, ``resume``, ``extend``, ``study``."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldrace.cli.messages import (
    FAILED_TRIALS,
    INTERRUPTED,
    closing_lines,
    err,
    out,
    print_json,
    say,
    show,
)
from foldrace.cli.options import (
    DATA,
    RUNS,
    AsJson,
    DataDirectory,
    Directory,
    Overrides,
    RayAddress,
    Refit,
    SweepName,
)
from foldrace.cli.results import deliver, refit_sweep

if TYPE_CHECKING:
    from rich.console import Console

    from foldrace.cli.views import LiveView, PlainView
    from foldrace.search.preparing.prepared import Prepared
    from foldrace.search.sweeps.result import SweepResult
    from foldrace.search.tune.state import TrialTable

__all__ = ["PANEL", "app"]

PANEL = "Sweeps"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def sweep(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The sweep file (YAML).")],
    override: Overrides = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    address: RayAddress = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="Record on this MLflow server instead of in --dir.")
    ] = None,
    then_refit: Refit = False,
    as_json: AsJson = False,
) -> None:
    """Run a sweep: cross-validate configurations, prune poor ones early, record everything."""
    from foldrace.search.preparing.prepare import prepare
    from foldrace.search.recording.folder import check_root
    from foldrace.search.recording.tracking import check_address, import_store_meanwhile
    from foldrace.search.recording.tracking import tracking_uri as uri_of
    from foldrace.search.spec.sweep_spec import load_spec
    from foldrace.search.tune.session import ray_session

    check_root(directory)
    overrides = [*(override or [])]
    if tracking_uri:
        overrides.append(f"tracking.uri={json.dumps(tracking_uri)}")
    loaded = load_spec(spec, overrides)
    check_address(uri_of(directory, loaded.tracking.uri))
    prepared = prepare(loaded, data_dir, local=address is None)
    say(
        f"{loaded.trials_text} of {prepared.task.reference} on {prepared.dataset.name}"
        f" ({len(prepared.dataset):,} samples), {prepared.folds.folds} folds × {loaded.epochs}"
        " epochs"
    )
    for line in _about_data(prepared):
        say(line)
    # Ray's start is mostly waiting: MLflow's store is imported meanwhile, and the rest while the
    # workers start.
    import_store_meanwhile(uri_of(directory, loaded.tracking.uri))
    with ray_session(address, loaded):
        from foldrace.search.sweeps.run import run_sweep

        outcome = run_sweep(prepared, directory, make_view=_view_of(prepared), address=address)
    _conclude(*outcome, prepared, _Ending(directory, data_dir, as_json, then_refit))


def _about_data(prepared: Prepared) -> Iterator[str]:
    """What each field is taken for, and the sizes of folds that grow."""
    from foldrace.trainables.data.sample import ROLES
    from foldrace.trainables.training.splits import FoldKind

    sample, given = prepared.dataset.sample, prepared.spec.dataset.wanted.roles
    roles = {role: name for role in ROLES if (name := getattr(sample.roles, role)) is not None}
    if not sample.holds_an_image:
        parts = [f"inputs: {', '.join(info.name for info in sample.inputs)}"]
        parts += [f"{role}: {name}" for role, name in roles.items()]
        by_name = [role for role in roles if role not in given and role != "target"]
        if by_name:
            parts[-1] += f" (`dataset: {{{by_name[0]}: false}}` makes an input of it)"
        yield "; ".join(parts)
    if prepared.folds.kind is FoldKind.TIME_SERIES:
        splits = prepared.folds.split()
        trained = ", ".join(f"{len(one.train):,}" for one in splits)
        tested = ", ".join(f"{len(one.validation):,}" for one in splits)
        yield f"folds in time: {trained} samples to train on, the next {tested} to validate on"


@app.command(rich_help_panel=PANEL)
def resume(
    sweep_name: SweepName = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    address: RayAddress = None,
    then_refit: Refit = False,
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted sweep."""
    from foldrace.search.preparing.recorded import open_recorded
    from foldrace.search.recording.folder import find_sweep
    from foldrace.search.recording.outbox import waiting_records
    from foldrace.search.tune.session import ray_session

    folder = find_sweep(directory, sweep_name)
    if folder.result.is_file():
        say(f"{folder.name} has ended; there is nothing to resume.")
        # It may have been cut off after its end, before all of its record was delivered.
        if waiting_records(folder.path):
            deliver(folder.name, directory)
        console = err if as_json else out
        refitted = refit_sweep(folder.name, directory, data_dir, console) if then_refit else None
        if as_json:
            print_json(folder.read_result() | ({"refit": refitted} if refitted else {}))
        return
    recorded = open_recorded(folder)
    prepared = recorded.prepare(data_dir, local=address is None)

    say(f"{folder.name}: resuming")
    with ray_session(address, prepared.spec):
        from foldrace.search.sweeps.run import resume_sweep

        outcome = resume_sweep(prepared, recorded, make_view=_view_of(prepared), address=address)
    _conclude(*outcome, prepared, _Ending(directory, data_dir, as_json, then_refit))


@app.command(rich_help_panel=PANEL)
def extend(
    epochs: Annotated[int, typer.Option(min=2, help="Total epochs per fold.")],
    sweep_name: SweepName = None,
    top: Annotated[
        int | None,
        typer.Option(min=1, help="Extend only this many of the best; by default all survivors."),
    ] = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    address: RayAddress = None,
    as_json: AsJson = False,
) -> None:
    """Train the surviving trials of an ended sweep for more epochs than it planned."""
    from foldrace.search.sweeps.extend import extend_sweep, prepare_extension

    found = prepare_extension(sweep_name, epochs, top, directory, data_dir, local=address is None)
    say(f"{found.folder.name}: extending {len(found.survivors)} trials to epoch {epochs}")
    outcome = extend_sweep(found, make_view=_view_of(found.prepared), address=address)
    ending = _Ending(directory, data_dir, as_json, again=f"extend --epochs {epochs}")
    _conclude(*outcome, found.prepared, ending)


@app.command(rich_help_panel=PANEL)
def study(
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[PART:]KEY=VALUE",
            help="Override a value, in all parts or one. Repeatable.",
        ),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="The study's folder; by default `study` in the folder of sweeps."
        ),
    ] = None,
    data_dir: DataDirectory = DATA,
    address: RayAddress = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Use 3,000 images: takes minutes, not for quoting."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run or continue the reference study, from its first sweep to the page of its results."""
    from foldrace.analysis.study.plan import QUICK
    from foldrace.analysis.study.run import whole_study
    from foldrace.cli.tables import study_tables
    from foldrace.command_hints import program

    name = "study-quick" if quick else "study"
    root = directory or Path(os.environ.get("FOLDRACE_DIR", RUNS)) / name
    try:
        overrides = [*(QUICK if quick else ()), *(override or [])]
        result = whole_study(root, data_dir, overrides, _view_of, address)
    except KeyboardInterrupt:
        again = f"{program()} study --dir {shlex.quote(str(root))}"
        say(f"Interrupted; everything is kept. Continue with:  {again}")
        raise typer.Exit(INTERRUPTED) from None
    (err if as_json else out).print(*study_tables(result))
    (say if as_json else show)(f"The study's page: {result.page}")
    if as_json:
        print_json(result.to_json())
    if result.failed:
        raise typer.Exit(FAILED_TRIALS)


@dataclass(frozen=True)
class _Ending:
    """What a command does once its sweep has ended.

    Attributes:
        directory: the folder of sweeps.
        data_dir: the folder of data sets.
        as_json: print the result as JSON, and everything else on standard error.
        then_refit: refit the best trial.
        again: the command that continues an interrupted sweep.
    """

    directory: Path
    data_dir: Path
    as_json: bool
    then_refit: bool = False
    again: str = "resume"


def _view_of(prepared: Prepared) -> Callable[[], LiveView | PlainView]:
    """The view of a sweep that fits standard error: a live table on a terminal, else lines."""
    from foldrace.cli.views import LiveView, PlainView

    view = LiveView if err.is_terminal else PlainView
    return lambda: view(err, prepared.spec.varying, prepared.spec.search.time_budget)


def _conclude(
    result: SweepResult, trials: TrialTable, prepared: Prepared, ending: _Ending
) -> None:
    """Shows a sweep's result, refits if asked, says what can follow, and exits.

    Raises:
        typer.Exit: the sweep was interrupted, or has failed trials.
    """
    from foldrace.analysis.reports.sweep.overview import log_overview
    from foldrace.command_hints import dir_option
    from foldrace.search.recording.outbox import waiting_records
    from foldrace.search.recording.tracking import connect

    console = err if ending.as_json else out
    _show_tables(result, trials, prepared, console)
    refitted = None
    # While the tracking server is away, `foldrace sync` will draw the overview later.
    away = waiting_records(result.folder) > 0
    try:
        if trials.fold_epochs and not away:
            log_overview(connect(result.tracking_uri), result.run_id, result.folder)
        if ending.then_refit and away:
            say(f"{result.sweep}: not refitted, since its record has to be delivered first")
        elif ending.then_refit and result.best is not None and not result.interrupted:
            refitted = refit_sweep(result.sweep, ending.directory, ending.data_dir, console)
    finally:
        console.print()
        place = dir_option(ending.directory, RUNS)
        for line in closing_lines(
            result, place, refitted=refitted is not None, again=ending.again
        ):
            (say if ending.as_json else show)(line)
        if ending.as_json:
            print_json(result.to_json() | ({"refit": refitted} if refitted else {}))
    failed = result.trials["failed"]
    if result.interrupted and not (failed and prepared.spec.limits.fail_fast):
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(FAILED_TRIALS)


def _show_tables(
    result: SweepResult, trials: TrialTable, prepared: Prepared, console: Console
) -> None:
    """The best configurations, the Pareto front, and a comparison's arms."""
    from foldrace.cli.tables import arms_table, pareto_table
    from foldrace.cli.views import top_table

    spec = prepared.spec
    if trials.fold_epochs:
        console.print()
        console.print(top_table(trials, spec.varying, prepared.folds.folds, spec.epochs))
    if result.pareto:
        console.print(pareto_table(result.pareto, spec.varying))
    if result.arms:
        console.print(arms_table(result.arms, spec.varying))
