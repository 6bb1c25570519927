"""Commands on a recorded sweep: ``status``, ``refit``, ``report``, ``replay``, ``sync``, …"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foldrace.cli.cluster import MLFLOW, job_of
from foldrace.cli.messages import FAILED, err, out, print_json, say, show
from foldrace.cli.options import (
    DATA,
    RUNS,
    AsJson,
    DataDirectory,
    Directory,
    OutputFolder,
    SweepName,
    TrackingServer,
)
from foldrace.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["PANEL", "app", "deliver", "refit_sweep"]

PANEL = "Results"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def status(
    sweep_name: SweepName = None,
    directory: Directory = RUNS,
    tracking_uri: TrackingServer = None,
    address: Annotated[
        str | None,
        typer.Option(help="A cluster's dashboard: shows the job, and the record in MLflow there."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a sweep's state, its trials by state, and the best of them."""
    from foldrace.analysis.records.status import read_status
    from foldrace.cli.tables import status_table

    line, job, name = job_of(address, sweep_name) if address else ("", None, sweep_name)
    if line and not as_json:
        show(line)
    found = read_status(directory, name, tracking_uri or (MLFLOW if address else None))
    if as_json:
        print_json(found.to_json() | ({"job": job} if job else {}))
        return
    for line in (found.summary(), *found.failures()):
        show(line)
    out.print(status_table(found))


@app.command(rich_help_panel=PANEL)
def refit(
    sweep_name: SweepName = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs to train; by default the mean of the folds' best."),
    ] = None,
    bound_samples: Annotated[
        int | None,
        typer.Option(min=1, help="For a VAE: codes per image for the importance-weighted bound."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train the best configuration on all training data, and test it once.

    The model is registered in MLflow, as champion.
    """
    refitted = refit_sweep(
        sweep_name,
        directory,
        data_dir,
        err if as_json else out,
        epochs=epochs,
        bound_samples=bound_samples,
    )
    if as_json:
        print_json(refitted)


@app.command(rich_help_panel=PANEL)
def report(
    sweep_name: SweepName = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="`sweep`, `optimizers`, `latent` or `vae`; by default all that apply. Repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="By default `report` in the sweep's folder."),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option(
            min=0, help="The latent space of this trial's fold 0, instead of the refitted model's."
        ),
    ] = None,
    tracking_uri: TrackingServer = None,
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    as_json: AsJson = False,
) -> None:
    """Write a sweep's reports: self-contained pages, and their figures as PNG and SVG."""
    from foldrace.analysis.reports.make import report_sweep, report_trial

    if trial is None:
        made = report_sweep(directory, sweep_name, uri=tracking_uri, kinds=kind or (), out=output)
    elif tracking_uri or set(kind or ("latent",)) != {"latent"}:
        rule = "is for --kind latent alone, from the checkpoints in --dir"
        raise InputError("--trial", trial, rule)
    else:
        made = report_trial(directory, sweep_name, trial, data_dir, out=output)
    for page in made.pages:
        (say if as_json else show)(str(page))
    if as_json:
        print_json(made.to_json())


@app.command(rich_help_panel=PANEL)
def replay(
    sweep_name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's name.")],
    trial: Annotated[int, typer.Argument(metavar="TRIAL", min=0, help="A trial's number.")],
    directory: Directory = RUNS,
    data_dir: DataDirectory = DATA,
    as_json: AsJson = False,
) -> None:
    """Train a recorded trial again, and compare every number with the record bit for bit."""
    from foldrace.search.sweeps.replay import replay_trial

    found = replay_trial(sweep_name, trial, directory, data_dir)
    if as_json:
        print_json({"identical": found.identical, **asdict(found)})
    elif found.identical:
        show(f"{found.sweep}, trial {trial}: identical, {found.compared} numbers")
    else:
        count = f"{len(found.differences)} of {found.compared} numbers differ; the first:"
        show(f"{found.sweep}, trial {trial}: {count}")
        for difference in found.differences[:3]:
            show(str(difference))
        for name, (before, here) in found.versions.items():
            show(f"{name}: {before} when it was recorded, {here} here")
    if not found.identical:
        raise typer.Exit(FAILED)


@app.command(rich_help_panel=PANEL)
def sync(sweep_name: SweepName = None, directory: Directory = RUNS) -> None:
    """Deliver the records that wait on disk because the tracking server was away."""
    name, delivered = deliver(sweep_name, directory)
    nothing = "nothing waits; MLflow has the whole record."
    show(f"{name}: {f'{delivered:,} records delivered.' if delivered else nothing}")


@app.command(rich_help_panel=PANEL)
def curves(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .npz to write.")
    ],
    sweep_name: SweepName = None,
    tracking_uri: TrackingServer = None,
    directory: Directory = RUNS,
) -> None:
    """Write the curves of a sweep that trained every trial in full, for `simulate`."""
    from foldrace.analysis.records.curves import export_curves

    show(f"{output}: {export_curves(directory, sweep_name, output, uri=tracking_uri)}")


@app.command(rich_help_panel=PANEL)
def simulate(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="CURVES", help="An .npz of curves, as `foldrace curves` writes it."
        ),
    ],
    policies: Annotated[
        list[str] | None, typer.Option(metavar="A,B,…", help="The policies to compare, or `all`.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Trials that train at the same time.")] = 1,
    orders: Annotated[
        int, typer.Option(help="Random orders in which the configurations are drawn.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these orders.")] = 0,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Simulate 1, 2, 4, … 512 workers as well.")
    ] = False,
    output: OutputFolder = None,
    as_json: AsJson = False,
) -> None:
    """Replay recorded curves through the schedulers: the cost of each, and what it finds."""
    from foldrace.analysis.simulate.command import SimulationOptions, run_simulation
    from foldrace.cli.simulation_tables import scaling_table, simulation_tables

    options = SimulationOptions(tuple(policies or ()), workers, orders, seed, scaling, output)
    found = run_simulation(file, options)
    console = err if as_json else out
    console.print(*simulation_tables(found.simulation))
    if found.scaling:
        console.print(scaling_table(found.scaling))
    for path in found.figures:
        (say if as_json else show)(str(path))
    if as_json:
        print_json(found.to_json())


def refit_sweep(
    name: str | None, directory: Path, data_dir: Path, console: Console, **options: Any
) -> dict[str, Any]:
    """Refits a sweep's best trial, shows the scores on ``console``, returns them as JSON."""
    from foldrace.cli.tables import refit_table
    from foldrace.search.sweeps.refit import refit

    result = refit(name, directory, data_dir, **options)
    console.print()
    console.print(refit_table(result))
    return result.to_json()


def deliver(sweep_name: str | None, directory: Path) -> tuple[str, int]:
    """Delivers a sweep's waiting records to MLflow; returns its name and their number."""
    from foldrace.analysis.reports.sweep.overview import log_overview
    from foldrace.search.recording.sweep_outbox import sync_sweep
    from foldrace.search.recording.tracking import connect

    folder, delivered = sync_sweep(sweep_name, directory)
    if delivered and folder.result.is_file():
        result = folder.read_result()
        log_overview(connect(result["tracking_uri"]), result["run_id"], folder.path)
    return folder.name, delivered
