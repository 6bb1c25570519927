"""Commands about data, and about this machine: ``data``, ``schema``, ``ui``, ``doctor``."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from foldrace.cli.messages import FAILED, out, print_json, show
from foldrace.cli.options import DATA, RUNS, AsJson, DataDirectory, Directory

__all__ = ["PANEL", "app"]

PANEL = "Data and this machine"
app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def data(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="The data set to fetch; by default all are listed."),
    ] = None,
    data_dir: DataDirectory = DATA,
) -> None:
    """List the data sets, or fetch one."""
    from foldrace.cli.tables import datasets_table
    from foldrace.trainables.data.datasets import fetch, list_datasets

    out.print(datasets_table([fetch(name, data_dir)] if name else list_datasets(data_dir)))
    if not name:
        also = "Also: a .npz file, a folder of images, or ./file.py:function."
        out.print(f"{also} See docs/how-to/data.md.", style="dim")


@app.command(rich_help_panel=PANEL)
def schema() -> None:
    """Print the JSON schema of a sweep file, for editors."""
    from foldrace.search.spec.sweep_spec import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command(rich_help_panel=PANEL)
def ui(
    directory: Directory = RUNS,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
) -> None:
    """Open the MLflow UI on the sweeps in --dir; Ctrl-C ends it."""
    from foldrace.search.recording.folder import find_sweep

    state = find_sweep(directory, None).read_state()
    page = f"#/experiments/{state.experiment_id}/runs?workflowType=machine_learning"
    if state.tracking_uri.startswith("http"):
        show(f"The latest sweep is on a server: {state.tracking_uri.rstrip('/')}/{page}")
        return
    show(f"MLflow, at the latest sweep: http://127.0.0.1:{port}/{page}  (Ctrl-C ends it)")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", state.tracking_uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    os.execve(sys.executable, command, environment)


@app.command(rich_help_panel=PANEL)
def doctor(
    directory: Directory = RUNS, data_dir: DataDirectory = DATA, as_json: AsJson = False
) -> None:
    """Check Python, packages, Ray, GPUs, data and the tracking store, and name remedies."""
    from foldrace.cli.doctor import examine
    from foldrace.cli.tables import findings_table

    findings = examine(directory, data_dir)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    else:
        out.print(findings_table(findings))
    if any(finding.bad for finding in findings):
        raise typer.Exit(FAILED)
