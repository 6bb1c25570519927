"""Commands for a cluster: ``submit``, ``attach``, ``stop``, …, and ``cluster init | check``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foldrace.cli.messages import FAILED, WRONG_INPUT, out, print_json, say
from foldrace.cli.options import AsJson, Overrides, Refit, folder_option
from foldrace.errors import InputError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from foldrace.cluster.jobs import Job

__all__ = ["MLFLOW", "PANEL", "app", "files", "job_of"]

_DASHBOARD_PORT, _MLFLOW_PORT = 8265, 5000
_DASHBOARD = f"http://127.0.0.1:{_DASHBOARD_PORT}"
MLFLOW = f"http://127.0.0.1:{_MLFLOW_PORT}"
"""A cluster's MLflow: its address on the head, and here while `foldrace tunnel` runs."""

PANEL = "Clusters"
app = typer.Typer()
files = typer.Typer(no_args_is_help=True, help="Write and check the files that make a cluster.")

Dashboard = Annotated[
    str,
    typer.Option(
        "--address",
        help="Ray's dashboard, at this end of the tunnel.",
        envvar="FOLDRACE_CLUSTER",
    ),
]
JobName = Annotated[
    str | None,
    typer.Argument(metavar="SWEEP", help="A sweep's or a job's name; by default the newest job."),
]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Local port of Ray's dashboard.")]
MlflowPort = Annotated[int, typer.Option(min=1, max=65535, help="Local port of MLflow.")]


@app.command(rich_help_panel=PANEL)
def tunnel(
    file: Annotated[
        Path, typer.Argument(metavar="CLUSTER", help="The file that `ray up` was given.")
    ],
    port: Port = _DASHBOARD_PORT,
    mlflow_port: MlflowPort = _MLFLOW_PORT,
) -> None:
    """Bring a cluster's dashboard and MLflow to this machine by SSH, until Ctrl-C."""
    from foldrace.cluster.tunnel import Forward, open_tunnel

    dashboard = Forward("Ray", port, _DASHBOARD_PORT)
    open_tunnel(file, [dashboard, Forward("MLflow", mlflow_port, _MLFLOW_PORT)])


@app.command(rich_help_panel=PANEL)
def submit(
    spec: Annotated[
        Path | None, typer.Argument(metavar="SPEC", help="The sweep file (YAML).")
    ] = None,
    override: Overrides = None,
    address: Dashboard = _DASHBOARD,
    directory: Annotated[
        Path,
        folder_option(
            "--dir", "Folder of sweeps on the cluster's shared storage.", "FOLDRACE_CLUSTER_DIR"
        ),
    ] = Path("/shared/foldrace"),
    data_dir: Annotated[
        Path | None,
        folder_option("--data-dir", "Folder of data sets there; by default `data` in --dir."),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            help="The MLflow server, as the head reaches it; by default the sweep file's, or the"
            " cluster's own.",
            envvar="FOLDRACE_CLUSTER_TRACKING",
        ),
    ] = None,
    then_refit: Refit = False,
    resume: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Continue a sweep there instead.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the sweep.")] = False,
    allow_skew: Annotated[
        bool,
        typer.Option("--allow-version-skew", help="Only warn if the cluster's versions differ."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a sweep on a cluster: check it here, send its code, follow it. Ctrl-C detaches."""
    from foldrace.cluster import submit as there
    from foldrace.cluster.connection import connect, use_token

    if (spec is None) == (resume is None):
        raise InputError("submit", None, "takes either a sweep file or --resume SWEEP")
    if resume is not None and override:
        rule = "cannot be given with --resume: a sweep continues with the values it began with"
        raise InputError("--set", override[0], rule)
    use_token()  # before a check of the sweep's task imports Ray
    # A wrong sweep file is refused before the cluster is contacted.
    with nullcontext() if spec is None else there.make_parcel(spec, override or ()) as parcel:
        client = connect(address)
        there.check_versions(client, strict=not allow_skew)
        options = ("--refit",) if then_refit else ()
        if parcel is None:
            job = there.resume(
                client, str(resume), there.Destination(directory, data_dir, None, options)
            )
        else:
            tracking = tracking_uri or (None if parcel.tracking else MLFLOW)
            destination = there.Destination(directory, data_dir, tracking, options)
            job = there.submit(client, parcel, destination)
    say(f"{job.sweep}: submitted as {job.id}")
    if detach:
        _conclude(job, as_json=as_json)
    else:
        _follow(client, job, as_json=as_json)


@app.command(rich_help_panel=PANEL)
def attach(name: JobName = None, address: Dashboard = _DASHBOARD, as_json: AsJson = False) -> None:
    """Follow a sweep on a cluster again, from its beginning. Ctrl-C detaches."""
    _follow(*_find(address, name), as_json=as_json)


@app.command(rich_help_panel=PANEL)
def logs(name: JobName = None, address: Dashboard = _DASHBOARD) -> None:
    """Print the log of a sweep on a cluster."""
    client, job = _find(address, name)
    sys.stdout.write(client.get_job_logs(job.id))
    sys.stdout.flush()


@app.command(rich_help_panel=PANEL)
def stop(
    name: Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep's or a job's name.")],
    address: Dashboard = _DASHBOARD,
    force: Annotated[
        bool, typer.Option("--force", help="Stop it even if it is another's.")
    ] = False,
) -> None:
    """Stop a sweep on a cluster. `foldrace submit --resume SWEEP` continues it."""
    from foldrace.cluster.connection import connect
    from foldrace.cluster.jobs import job_to_stop, with_folders
    from foldrace.cluster.submit import stop as stop_job

    client = connect(address)
    job = stop_job(client, job_to_stop(client, name, force=force))
    sweep = with_folders(client, [job])[0].sweep
    say(f"{sweep}: stopped. Continue with: foldrace submit --resume {sweep}, with the same --dir")


@app.command("list", rich_help_panel=PANEL)
def list_jobs(
    address: Dashboard = _DASHBOARD,
    mine: Annotated[
        bool, typer.Option("--mine", help="Those alone that you submitted from this machine.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the sweeps that were submitted to a cluster."""
    from foldrace.cli.tables import jobs_table
    from foldrace.cluster.connection import connect
    from foldrace.cluster.jobs import jobs_of, with_folders

    client = connect(address)
    jobs = with_folders(client, [job for job in jobs_of(client) if job.is_mine or not mine])
    if as_json:
        print_json([vars(job) for job in jobs])
    else:
        out.print(jobs_table(jobs))


@files.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder; it is created if missing.")
    ] = Path("cluster"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
) -> None:
    """Write the files that make a cluster into a folder, ready to be edited."""
    from foldrace.cluster.template_files import next_steps, write_templates

    write_templates(folder, overwrite=force)
    for line in next_steps(folder):
        say(line)


@files.command()
def check(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE…", help="Files for `ray up`, KubeRay or Docker."),
    ],
    ready: Annotated[
        bool, typer.Option("--ready", help="Placeholders that are left count as problems.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check cluster files offline: placeholders, open ports, secrets, versions, Ray's rules."""
    from foldrace.cluster.check import check_file

    found = [problem for path in paths for problem in check_file(path)]
    serious = [problem for problem in found if ready or not problem.placeholder]
    for problem in found:
        say(f"{problem}" if problem in serious else f"{problem} (before `ray up`)")
    if as_json:
        print_json([vars(problem) for problem in found])
    if serious:
        raise typer.Exit(WRONG_INPUT)
    what = f"{len(paths)} files" if len(paths) > 1 else paths[0]
    say(f"{what}: no problem found")


def job_of(address: str, name: str | None) -> tuple[str, dict[str, object], str]:
    """The newest job of a sweep on a cluster, or the newest of all if ``name`` is None.

    Returns:
        A line for people, the job as a JSON object, and the sweep's name on the cluster.

    Raises:
        StateError: no such job, or the cluster cannot be reached.
    """
    from foldrace.cluster.jobs import with_folders

    client, job = _find(address, name)
    [job] = with_folders(client, [job])
    return f"{job.sweep}: job {job.id}: {job.outcome}", vars(job), job.sweep


def _find(address: str, name: str | None) -> tuple[JobSubmissionClient, Job]:
    from foldrace.cluster.connection import connect
    from foldrace.cluster.jobs import find_job

    client = connect(address)
    return client, find_job(client, name)


def _follow(client: JobSubmissionClient, job: Job, *, as_json: bool) -> None:
    """Shows a job's log until it ends, and exits as it did."""
    from foldrace.cluster.submit import follow

    again = f"foldrace attach {job.id}"
    _conclude(follow(client, job, again=again, output=sys.stderr), as_json=as_json)


def _conclude(job: Job, *, as_json: bool) -> None:
    """Says how a job ended, if it has, and exits with the status of its sweep."""
    from foldrace.cluster.jobs import ENDED

    if as_json:
        print_json(vars(job))
    if job.status not in ENDED:
        return
    say(f"{job.sweep}: {job.outcome}")
    if job.status != "SUCCEEDED":
        raise typer.Exit(job.exit_status or FAILED)
