"""Foldrace: cross-validated hyperparameter search of PyTorch models at cluster scale. The command
line."""

from __future__ import annotations

import atexit
import errno
import gc
import json
import os
import shlex
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from foldrace.cli.cluster import MLFLOW, add_commands, job_of
from foldrace.errors import FoldraceError, InputError
from foldrace.search.tune.interrupts import repeat_swallowed_interrupts

if TYPE_CHECKING:
    from foldrace.search.preparing.prepare import Prepared
    from foldrace.search.sweeps.result import SweepResult
    from foldrace.search.tune.progress import LiveView, PlainView
    from foldrace.search.tune.state import TrialTable

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help=(
        "Cross-validated hyperparameter search of PyTorch models: folds are scheduled, stopped and"
        " recorded."
    ),
)

out = Console()
err = Console(stderr=True)

WRONG_INPUT, FAILED_TRIALS, INTERRUPTED = 2, 3, 130

Directory = Annotated[
    Path, typer.Option("--dir", help="Where sweeps live.", envvar="FOLDRACE_DIR")
]
DataDirectory = Annotated[
    Path, typer.Option("--data-dir", help="Where data sets are kept.", envvar="FOLDRACE_DATA_DIR")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on the last line of standard output.")
]
Sweep = Annotated[
    str | None, typer.Argument(metavar="SWEEP", help="A sweep's name; the latest if left out.")
]

Address = Annotated[
    str | None, typer.Option(help="A Ray cluster; none starts a Ray on this machine.")
]
Server = Annotated[
    str | None, typer.Option("--tracking-uri", help="An MLflow server to find the sweep on.")
]

RUNS, DATA = Path("runs"), Path("data")


@app.command()
def sweep(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The sweep file (YAML).")],
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Override a value, such as `search.trials=8`. Repeatable.",
        ),
    ] = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    address: Annotated[
        str | None,
        typer.Option(
            help="A Ray cluster (`auto`, `host:6379`); none starts a Ray on this machine."
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="An MLflow server, instead of the store in --dir.")
    ] = None,
    then_refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="Afterwards train the winner on all training data and test it once."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a sweep: every configuration cross-validated, the hopeless given up early, all of it
    recorded."""
    from foldrace.search.preparing.prepare import prepare
    from foldrace.search.recording import tracking
    from foldrace.search.recording.folder import check_root
    from foldrace.search.spec.sweep_spec import load_spec
    from foldrace.search.tune.session import ray_session

    check_root(directory)
    overrides = [
        *(override or []),
        *([f"tracking.uri={json.dumps(tracking_uri)}"] if tracking_uri else []),
    ]
    loaded = load_spec(spec, overrides)
    prepared = prepare(loaded, data_dir, local=address is None, notify=_say)
    _say(
        f"{loaded.trials_text} of {prepared.task.reference} on {prepared.dataset.name}"
        f" ({len(prepared.dataset):,} images), {prepared.folds.folds} folds × {loaded.epochs}"
        " epochs"
    )
    tracking.import_store_meanwhile(
        tracking.tracking_uri(directory, loaded.tracking.uri)
    )  # Ray's start is mostly waiting
    with ray_session(address, loaded):  # whose workers start while the rest is imported
        from foldrace.search.sweeps.run import run_sweep

        outcome = run_sweep(prepared, directory, make_view=_view_of(prepared), address=address)
    _conclude(*outcome, prepared, directory, data_dir, then_refit=then_refit, as_json=as_json)


@app.command()
def resume(
    sweep_name: Sweep = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    address: Address = None,
    then_refit: Annotated[
        bool, typer.Option("--refit", help="Afterwards refit the winner.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a sweep that was interrupted."""
    from foldrace.search.preparing.prepare import prepare
    from foldrace.search.recording.folder import find_sweep
    from foldrace.search.recording.outbox import waiting_records
    from foldrace.search.spec.sweep_spec import load_spec
    from foldrace.search.tune.session import ray_session

    folder = find_sweep(directory, sweep_name)
    if folder.result.is_file():
        _say(f"{folder.name} has ended; there is nothing to resume.")
        if waiting_records(folder.path):  # it was cut off before all of its record had arrived
            _deliver(folder.name, directory)
        console = err if as_json else out
        refitted = _refit(folder.name, directory, data_dir, console) if then_refit else None
        if as_json:
            print(
                json.dumps(folder.read_result() | ({"refit": refitted} if refitted else {})),
                flush=True,
            )
        return
    folder.read_state()
    prepared = prepare(load_spec(folder.spec), data_dir, local=address is None, notify=_say)

    _say(f"{folder.name}: going on")
    with ray_session(address, prepared.spec):
        from foldrace.search.sweeps.run import resume_sweep

        outcome = resume_sweep(prepared, folder, make_view=_view_of(prepared), address=address)
    _conclude(*outcome, prepared, directory, data_dir, then_refit=then_refit, as_json=as_json)


@app.command()
def extend(
    epochs: Annotated[
        int, typer.Option(min=2, help="That each fold shall have trained in the end.")
    ],
    sweep_name: Sweep = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Only so many survivors, the best; all if left out.")
    ] = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train the survivors of a sweep that has ended for more epochs than it was planned for."""
    from foldrace.search.sweeps.extend import extend_sweep, prepare_extension

    local = address is None
    found = prepare_extension(
        sweep_name, epochs, top, directory, data_dir, local=local, notify=_say
    )
    _say(f"{found.folder.name}: {len(found.survivors)} trials go on to epoch {epochs}")
    outcome = extend_sweep(found, make_view=_view_of(found.prepared), address=address)
    again = f"extend --epochs {epochs}"
    _conclude(
        *outcome,
        found.prepared,
        directory,
        data_dir,
        then_refit=False,
        as_json=as_json,
        again=again,
    )


def _view_of(prepared: Prepared) -> Callable[[], LiveView | PlainView]:
    from foldrace.search.tune.progress import LiveView, PlainView

    view = LiveView if err.is_terminal else PlainView
    return lambda: view(err, prepared.spec.varying, prepared.spec.search.time_budget)


def _conclude(
    result: SweepResult,
    ledger: TrialTable,
    prepared: Prepared,
    directory: Path,
    data_dir: Path,
    *,
    then_refit: bool,
    as_json: bool,
    again: str = "resume",
) -> None:
    """The table of the best, the refit if it is asked for, what to open next, and the exit
    status."""
    from foldrace.analysis.reports.sweep.overview import log_overview
    from foldrace.cli.closing import closing_lines
    from foldrace.commands import dir_option
    from foldrace.search.recording.outbox import waiting_records
    from foldrace.search.recording.tracking import connect
    from foldrace.search.sweeps.comparison_result import arms_table
    from foldrace.search.sweeps.pareto import pareto_table
    from foldrace.search.tune.progress import top_table

    console = err if as_json else out
    if ledger.fold_epochs:
        console.print()
        console.print(
            top_table(ledger, prepared.spec.varying, prepared.folds.folds, prepared.spec.epochs)
        )
    if result.pareto:
        console.print(pareto_table(result.pareto, prepared.spec.varying))
    if result.arms:
        console.print(arms_table(result.arms, prepared.spec.varying))
    refitted = None
    away = waiting_records(result.folder) > 0  # the store is, and `sync` will draw the picture
    try:
        if ledger.fold_epochs and not away:
            log_overview(connect(result.tracking_uri), result.run_id, result.folder)
        if then_refit and away:
            _say(f"{result.sweep}: not refitted, since its record has to be delivered first")
        elif then_refit and result.best is not None and not result.interrupted:
            refitted = _refit(result.sweep, directory, data_dir, console)
    finally:
        console.print()
        for line in closing_lines(
            result, dir_option(directory, RUNS), refitted=refitted is not None, again=again
        ):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        if as_json:
            print(
                json.dumps(result.to_json() | ({"refit": refitted} if refitted else {})),
                flush=True,
            )
    failed = result.trials["failed"]
    if result.interrupted and not (failed and prepared.spec.limits.fail_fast):
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(FAILED_TRIALS)


def _refit(
    name: str | None, directory: Path, data_dir: Path, console: Console, **options: Any
) -> dict[str, Any]:
    from foldrace.search.sweeps.refit import refit as run_refit

    result = run_refit(name, directory, data_dir, **options)
    console.print()
    console.print(result.table())
    return result.to_json()


@app.command()
def refit(
    sweep_name: Sweep = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Instead of the mean of the folds' best epochs.")
    ] = None,
    bound_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Codes an image for the importance-weighted bound (a VAE's)."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the best configuration on all training data, test it once, and register it as
    champion."""
    console = err if as_json else out
    refitted = _refit(
        sweep_name, directory, data_dir, console, epochs=epochs, bound_samples=bound_samples
    )
    if as_json:
        print(json.dumps(refitted), flush=True)


@app.command()
def replay(
    sweep_name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name.")],
    trial: Annotated[int, typer.Argument(min=0, help="A trial's number.")],
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    as_json: AsJson = False,
) -> None:
    """Train a recorded trial again and compare every number with the record, to the last bit."""
    from foldrace.search.sweeps.replay import replay_trial

    found = replay_trial(sweep_name, trial, directory, data_dir)
    if as_json:
        print(json.dumps({"identical": found.identical, **asdict(found)}), flush=True)
    elif found.identical:
        out.print(f"{found.sweep}, trial {trial}: identical, {found.compared} numbers")
    else:
        count = f"{len(found.differences)} of {found.compared} numbers differ; the first:"
        out.print(
            f"{found.sweep}, trial {trial}: {count}", *map(str, found.differences[:3]), sep="\n"
        )
        for name, (before, here) in found.versions.items():
            out.print(f"{name}: {before} when it was recorded, {here} here")
    if not found.identical:
        raise typer.Exit(1)


@app.command()
def sync(sweep_name: Sweep = None, directory: Directory = RUNS) -> None:
    """Deliver to MLflow what a sweep has kept on disk because its tracking server was away."""
    name, delivered = _deliver(sweep_name, directory)
    waited = (
        f"{delivered:,} records delivered."
        if delivered
        else "nothing waits; MLflow has the whole record."
    )
    _print(f"{name}: {waited}")


def _deliver(sweep_name: str | None, directory: Path) -> tuple[str, int]:
    """Brings what waits of a sweep to MLflow; returns the sweep's name and how many records that
    were."""
    from foldrace.analysis.reports.sweep.overview import log_overview
    from foldrace.search.recording.sweep_outbox import sync_sweep
    from foldrace.search.recording.tracking import connect

    folder, delivered = sync_sweep(sweep_name, directory)
    if delivered and folder.result.is_file():
        result = folder.read_result()
        log_overview(connect(result["tracking_uri"]), result["run_id"], folder.path)
    return folder.name, delivered


@app.command()
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
        typer.Option("--dir", help="Where the study lives; by default `study` among the sweeps."),
    ] = None,
    data_dir: DataDirectory = DATA,
    address: Address = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="On 3,000 images: minutes, but no figures to quote.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the reference study, from the first sweep to a page that tells its story; or go on with
    it."""
    from foldrace.analysis.study.plan import QUICK
    from foldrace.analysis.study.run import whole_study
    from foldrace.commands import program

    root = directory or Path(os.environ.get("FOLDRACE_DIR", RUNS)) / (
        "study-quick" if quick else "study"
    )
    try:
        overrides = [*(QUICK if quick else ()), *(override or [])]
        result = whole_study(root, data_dir, overrides, _view_of, _say, address)
    except KeyboardInterrupt:
        _say(
            f"Interrupted; all of it is kept.  Go on:  {program()} study --dir"
            f" {shlex.quote(str(root))}"
        )
        raise typer.Exit(INTERRUPTED) from None
    (err if as_json else out).print(*result.tables())
    (_say if as_json else _print)(f"The whole story: {result.page}")
    if as_json:
        print(json.dumps(result.to_json()), flush=True)
    if result.failed:
        raise typer.Exit(FAILED_TRIALS)


@app.command()
def status(
    sweep_name: Sweep = None,
    directory: Directory = RUNS,
    tracking_uri: Server = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="A cluster's dashboard: the sweep's job, and its record in the MLflow there."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a sweep as MLflow has it: its trials by state, and the best of them."""
    from foldrace.analysis.records.status import read_status

    line, job, name = job_of(address, sweep_name) if address else ("", None, sweep_name)
    if line and not as_json:
        _print(line)
    found = read_status(directory, name, tracking_uri or (MLFLOW if address else None))
    if as_json:
        print(json.dumps(found.to_json() | ({"job": job} if job else {})), flush=True)
    else:
        _print(found.summary())
        for line in found.failures():
            _print(line)
        out.print(found.table())


@app.command()
def report(
    sweep_name: Sweep = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "`sweep`, `optimizers`, `latent` or `vae`; all that apply if left out. Repeatable."
            )
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for them; by default `report` in the sweep's."
        ),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(
            min=0, help="The latent space of this trial's fold 0, instead of the winner's refit."
        ),
    ] = None,
    tracking_uri: Server = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    as_json: AsJson = False,
) -> None:
    """Write a sweep's reports: pages that open anywhere, and their figures as PNG and SVG."""
    from foldrace.analysis.reports.make import report_sweep, report_trial

    if trial is None:
        made = report_sweep(directory, sweep_name, uri=tracking_uri, kinds=kind or (), out=output)
    elif tracking_uri or set(kind or ("latent",)) != {"latent"}:
        raise InputError(
            "--trial", trial, "is for --kind latent alone, from the checkpoints in --dir"
        )
    else:
        made = report_trial(directory, sweep_name, trial, data_dir, out=output, notify=_say)
    for page in made.pages:
        (_say if as_json else _print)(str(page))
    if as_json:
        print(json.dumps(made.to_json()), flush=True)


@app.command()
def curves(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write.")
    ],
    sweep_name: Sweep = None,
    tracking_uri: Server = None,
    directory: Directory = RUNS,
) -> None:
    """Write a sweep's learning curves into a file that `simulate` replays; it must have trained
    all trials in full."""
    from foldrace.analysis.records.curves import export_curves

    _print(f"{output}: {export_curves(directory, sweep_name, output, uri=tracking_uri)}")


@app.command()
def simulate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="CURVES", help="An .npz of curves, as `foldrace curves` writes it."
        ),
    ],
    policies: Annotated[
        list[str] | None, typer.Option(metavar="A,B,…", help="What to compare, or `all`.")
    ] = None,
    workers: Annotated[int, typer.Option(help="How many trials train side by side.")] = 1,
    orders: Annotated[
        int, typer.Option(help="Random orders in which the configurations are drawn.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Of these orders.")] = 0,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also on 1, 2, 4, … 512 workers.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for figures, PNG and SVG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay recorded curves through the schedulers: what each would have cost, and what it would
    have found."""
    from foldrace.analysis.simulate.command import run_simulation

    shown = err if as_json else out
    told = run_simulation(
        file, policies or (), workers, orders, seed, scaling, output, shown, _say
    )
    if as_json:
        print(json.dumps(told), flush=True)


@app.command()
def data(
    name: Annotated[
        str | None, typer.Argument(help="The data set to fetch; all are listed if left out.")
    ] = None,
    data_dir: DataDirectory = DATA,
) -> None:
    """List the data sets, or fetch one."""
    from foldrace.trainables.data.datasets import fetch, list_datasets

    shown = [fetch(name, data_dir, _say)] if name else list_datasets(data_dir)
    table = Table("name", "images", "shape", "state", "what", header_style="bold")
    for info in shown:
        shape = "×".join(str(n) for n in info.sample_shape)
        table.add_row(
            info.name,
            f"{info.training:,} + {info.test:,}",
            shape,
            info.state.value,
            info.description,
        )
    out.print(table)
    if not name:
        out.print(
            "Also: a .npz file, a folder of images, or ./file.py:function. See the README.",
            style="dim",
        )


@app.command()
def schema() -> None:
    """Print the JSON schema of a sweep file, for editors."""
    from foldrace.search.spec.sweep_spec import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def ui(
    directory: Directory = RUNS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open the MLflow UI on the sweeps in --dir (Ctrl-C ends it)."""
    from foldrace.cli.ui import serve

    serve(directory, port, _print)


@app.command()
def doctor(
    directory: Directory = RUNS, data_dir: DataDirectory = DATA, as_json: AsJson = False
) -> None:
    """Check Python, packages, Ray, GPUs, data and the tracking store; say what to do for each
    thing amiss."""
    from foldrace.cli.doctor import examine, findings_table

    findings = examine(directory, data_dir)
    if as_json:
        print(json.dumps([finding.to_json() for finding in findings]))
    else:
        out.print(findings_table(findings))
    if any(finding.bad for finding in findings):
        raise typer.Exit(1)


def _say(line: str) -> None:
    err.print(line, highlight=False, markup=False, soft_wrap=True)


def _print(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


add_commands(app, _say)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    atexit.register(
        gc.freeze
    )  # a last search for garbage among all that is imported takes seconds
    if arguments is None:
        repeat_swallowed_interrupts()
    try:
        return _guarded(lambda: app(args=arguments, prog_name="foldrace", standalone_mode=False))
    finally:
        if arguments is None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own end would show tracebacks


def _guarded(command: Callable[[], Any]) -> int:
    try:
        status = command()  # an Exit comes back as a number here
    except FoldraceError as error:
        err.print("[bold red]Error:[/]", end=" ")
        _say(str(error))
        return WRONG_INPUT
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(
            error.__cause__, EOFError
        ):  # which typer takes for the end of what somebody types
            raise error.__cause__ from None
        _say("Interrupted.")
        return INTERRUPTED
    except Exception as error:
        show = getattr(
            error, "show", None
        )  # typer's usage errors show themselves; their class is not public
        if show is None and (full := _full_disk(error)) is not None:
            where = f" ({full.filename})" if full.filename else ""
            err.print("[bold red]Error:[/]", end=" ")
            _say(
                f"the disk is full{where}; what was checkpointed is kept: free some of it, then"
                " `foldrace resume`"
            )
            return WRONG_INPUT
        if show is None:
            raise
        show()
        return WRONG_INPUT
    return status if isinstance(status, int) else 0


def _full_disk(error: BaseException | None) -> OSError | None:
    """What says that a disk is full, among an error and those that led to it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None
