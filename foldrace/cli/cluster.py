"""The commands that reach a cluster from a laptop."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from foldrace.cluster.jobs import Job

__all__ = ["MLFLOW", "add_commands", "job_of"]

Say = Callable[[str], None]

_DASHBOARD_PORT, _MLFLOW_PORT = 8265, 5000
_ADDRESS = f"http://127.0.0.1:{_DASHBOARD_PORT}"
MLFLOW = f"http://127.0.0.1:{_MLFLOW_PORT}"
"""Of a cluster, on its head, and here where `foldrace tunnel` brings it."""
_ENDED_BADLY = 1
Address = Annotated[
    str, typer.Option(help="Ray's dashboard, at the end of a tunnel.", envvar="FOLDRACE_CLUSTER")
]
JobName = Annotated[
    str | None,
    typer.Argument(metavar="SWEEP", help="A sweep's or a job's name; the newest if left out."),
]
Directory = Annotated[
    str,
    typer.Option(
        "--dir", help="Of all sweeps there, on shared storage.", envvar="FOLDRACE_CLUSTER_DIR"
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="One JSON object on the last line of standard output.")
]


def add_commands(app: typer.Typer, say: Say) -> None:
    """Adds all of them to ``app``; ``say`` shows people a line."""
    add_checks(app, say)

    @app.command()
    def tunnel(
        file: Annotated[
            Path, typer.Argument(metavar="CLUSTER", help="The file that `ray up` was given.")
        ],
        port: Annotated[
            int, typer.Option(min=1, max=65535, help="Here, of Ray's dashboard.")
        ] = _DASHBOARD_PORT,
        mlflow_port: Annotated[
            int, typer.Option(min=1, max=65535, help="Here, of MLflow.")
        ] = _MLFLOW_PORT,
    ) -> None:
        """Bring a cluster's dashboard and MLflow to this machine, by SSH, until Ctrl-C."""
        from foldrace.cluster.tunnel import open_tunnel

        where = (
            f"Ray at http://127.0.0.1:{port}, MLflow at http://127.0.0.1:{mlflow_port}; Ctrl-C"
            " closes the tunnel"
        )
        open_tunnel(file, {port: _DASHBOARD_PORT, mlflow_port: _MLFLOW_PORT}, lambda: say(where))

    @app.command()
    def submit(
        spec: Annotated[
            Path | None, typer.Argument(metavar="SPEC", help="The sweep file (YAML).")
        ] = None,
        override: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Override a value. Repeatable."),
        ] = None,
        address: Address = _ADDRESS,
        directory: Directory = "/shared/foldrace",
        data_dir: Annotated[str | None, typer.Option(help="Of fetched data sets there.")] = None,
        tracking_uri: Annotated[
            str | None,
            typer.Option(
                help="The MLflow server, as the head sees it.", envvar="FOLDRACE_CLUSTER_TRACKING"
            ),
        ] = MLFLOW,
        then_refit: Annotated[
            bool, typer.Option("--refit", help="Afterwards refit the winner.")
        ] = False,
        resume: Annotated[
            str | None, typer.Option(metavar="SWEEP", help="Go on with a sweep there instead.")
        ] = None,
        detach: Annotated[bool, typer.Option("--detach", help="Do not follow it.")] = False,
        allow_skew: Annotated[
            bool, typer.Option("--allow-version-skew", help="Other versions there are only noted.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Run a sweep on a cluster: check it here, ship its code, follow it. Ctrl-C detaches."""
        from foldrace.cluster import submit as there
        from foldrace.cluster.connection import connect
        from foldrace.errors import InputError
        from foldrace.search.spec.sweep_spec import load_spec

        if (spec is None) == (resume is None):
            raise InputError("submit", None, "takes either a sweep file or --resume SWEEP")
        if resume is not None and override:
            raise InputError(
                "--set", override[0], "cannot be given with --resume: a sweep goes on as it began"
            )
        if spec is not None:
            load_spec(
                spec, override or []
            )  # what is wrong with it is said before anybody is asked
        client = connect(address)
        there.check_versions(client, strict=not allow_skew, say=say)
        place = there.Place(directory, data_dir, tracking_uri)
        options = ["--refit"] if then_refit else []
        if spec is not None:
            job = there.submit(client, spec, override or [], place, options=options, say=say)
        else:
            job = there.resume(client, str(resume), place, options=options, say=say)
        say(f"{job.sweep}: submitted as {job.id}")
        if not detach:
            job = there.follow(client, job, again=f"foldrace attach {job.id}", say=say)
        _conclude(job, as_json=as_json, say=say)

    @app.command()
    def attach(name: JobName = None, address: Address = _ADDRESS, as_json: AsJson = False) -> None:
        """Follow a sweep on a cluster again, from its beginning. Ctrl-C detaches."""
        from foldrace.cluster.submit import follow

        client, job = _find(address, name)
        _conclude(
            follow(client, job, again=f"foldrace attach {job.id}", say=say),
            as_json=as_json,
            say=say,
        )

    @app.command()
    def logs(name: JobName = None, address: Address = _ADDRESS) -> None:
        """What a sweep on a cluster has said so far."""
        client, job = _find(address, name)
        sys.stdout.write(client.get_job_logs(job.id))
        sys.stdout.flush()

    @app.command()
    def stop(
        name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's or a job's name.")],
        address: Address = _ADDRESS,
    ) -> None:
        """Stop a sweep on a cluster; what is done is kept, and `foldrace submit --resume SWEEP`
        goes on."""
        from foldrace.cluster.jobs import folder_of
        from foldrace.cluster.submit import stop as stop_job

        client, job = _find(address, name)
        job = stop_job(client, job, say)
        sweep = folder_of(client, job)
        say(f"{sweep}: stopped; foldrace submit --resume {sweep} goes on, with the same --dir")

    @app.command("list")
    def list_jobs(address: Address = _ADDRESS, as_json: AsJson = False) -> None:
        """The sweeps that were submitted to a cluster."""
        from rich.console import Console
        from rich.table import Table

        from foldrace.cluster.connection import connect
        from foldrace.cluster.jobs import jobs_of

        jobs = jobs_of(connect(address))
        if as_json:
            print(json.dumps([vars(job) for job in jobs]), flush=True)
            return
        table = Table("sweep", "job", "status", "since", header_style="bold")
        for job in jobs:
            since = (
                ""
                if job.began is None
                else f"{datetime.fromtimestamp(job.began / 1000):%Y-%m-%d %H:%M}"
            )
            table.add_row(job.sweep, job.id, _status(job), since)
        Console().print(table)


def job_of(address: str, name: str | None) -> tuple[str, dict[str, object], str]:
    """The newest job of a sweep on a cluster, or of any: a line for people, all of it, and what
    the sweep is called there. Raises: StateError."""
    from foldrace.cluster.jobs import folder_of

    client, job = _find(address, name)
    return f"{job.sweep}: job {job.id}: {_status(job)}", vars(job), folder_of(client, job)


def _find(address: str, name: str | None) -> tuple[JobSubmissionClient, Job]:
    """A client of a cluster, and a job there. Raises: StateError."""
    from foldrace.cluster.connection import connect
    from foldrace.cluster.jobs import find_job

    client = connect(address)
    return client, find_job(client, name)


def add_checks(app: typer.Typer, say: Say) -> None:
    """Adds ``cluster check``."""
    cluster = typer.Typer(no_args_is_help=True, help="Files that clusters are made by.")
    app.add_typer(cluster, name="cluster")

    @cluster.callback()
    def about() -> None:
        """Files that clusters are made by."""

    @cluster.command()
    def check(
        files: Annotated[
            list[Path], typer.Argument(metavar="FILE…", help="For `ray up`, KubeRay or Docker.")
        ],
        ready: Annotated[
            bool,
            typer.Option("--ready", help="Lines that are still to be filled in are wrong too."),
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Say what is wrong with a cluster's file, without a cloud: typos, open doors, what is not
        pinned."""
        from foldrace.cluster.check import check_file

        found = [finding for path in files for finding in check_file(path)]
        wrong = [finding for finding in found if ready or not finding.open]
        for finding in found:
            say(str(finding) if finding in wrong else f"{finding} (before `ray up`)")
        if as_json:
            print(json.dumps([vars(finding) for finding in found]), flush=True)
        if wrong:
            raise typer.Exit(2)
        say(
            f"{len(files)} files: nothing is wrong"
            if len(files) > 1
            else f"{files[0]}: nothing is wrong"
        )


def _status(job: Job) -> str:
    ways = {0: "done", 2: "refused", 3: "done, with failed trials", 130: "stopped"}
    if job.exit_status is not None and job.status in ("SUCCEEDED", "FAILED"):
        return ways.get(job.exit_status, f"failed ({job.exit_status})")
    return job.status.lower()


def _conclude(job: Job, *, as_json: bool, say: Say) -> None:
    """The end of a job that was followed; the exit status is that of the sweep."""
    from foldrace.cluster.jobs import ENDED

    if as_json:
        print(json.dumps(vars(job)), flush=True)
    if job.status not in ENDED:
        return
    say(f"{job.sweep}: {_status(job)}")
    if job.status != "SUCCEEDED":
        raise typer.Exit(job.exit_status or _ENDED_BADLY)
