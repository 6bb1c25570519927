"""A sweep as a Ray job: checked here, trained there, followed from here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foldrace.cluster.jobs import ENDED, PREFIX, Job, find_job
from foldrace.cluster.package import pack
from foldrace.errors import FoldraceError, InputError, StateError, first_line
from foldrace.search.preparing.prepare import prepare
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.sweeps.environment import versions

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["Place", "check_versions", "follow", "keep_code", "resume", "stop", "submit"]

_VERSIONS = (
    "from foldrace.search.sweeps.environment import versions; import json; print('versions',"
    " json.dumps(versions()))"
)
_PATIENCE = 60.0
_STOP_SECONDS = 120
_JOB_VARIABLES = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS), "PYTHONUNBUFFERED": "1"}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where a sweep goes on a cluster.

    Attributes:
        directory: of all sweeps, on storage that all of its machines share.
        data: of fetched data sets there; None: beside the sweeps.
        tracking: the MLflow server, as the head sees it; None: a file in ``directory``.
    """

    directory: str
    data: str | None = None
    tracking: str | None = None


def check_versions(client: JobSubmissionClient, *, strict: bool, say: Say) -> None:
    """Compares Python and packages here with the cluster's, by a job that only prints them.

    Raises:
        StateError: another Ray, Python (to the second number) or Foldrace, if ``strict``; else
            ``say`` is told. Or the cluster does not answer.
    """
    job = client.submit_job(
        entrypoint=f"python -c {shlex.quote(_VERSIONS)}",
        submission_id=f"versions-{uuid.uuid4().hex[:12]}",
    )
    until = time.monotonic() + _PATIENCE
    while (status := client.get_job_status(job).value) not in ENDED:
        if time.monotonic() > until:
            raise StateError(
                "the cluster takes more than a minute to run a job that does nothing; see its"
                " dashboard"
            )
        time.sleep(0.2)
    told = [line for line in client.get_job_logs(job).splitlines() if line.startswith("versions ")]
    client.delete_job(job)
    if status != "SUCCEEDED" or not told:
        raise StateError(
            "Foldrace is not installed on the cluster, or another one; install it there as it is"
            " here"
        )
    there, here = json.loads(told[-1].removeprefix("versions ")), versions()
    for name in sorted({*here, *there}):
        if here.get(name) == there.get(name):
            continue
        line = (
            f"{name} is {here.get(name, 'not there')} here and {there.get(name, 'not there')} on"
            " the cluster"
        )
        if (
            strict
            and name in ("python", "ray", "foldrace")
            and _minor(here.get(name)) != _minor(there.get(name))
        ):
            raise StateError(f"{line}; make them the same, or pass --allow-version-skew")
        say(f"Note: {line}")


def _minor(version: str | None) -> str:
    return ".".join((version or "").split(".")[:2])


def submit(
    client: JobSubmissionClient,
    spec: Path,
    overrides: Sequence[str],
    place: Place,
    *,
    options: Sequence[str],
    say: Say,
) -> Job:
    """Checks a sweep file, ships the code beside it, and starts the sweep on the cluster.

    Args:
        options: further ones of ``foldrace sweep`` there, such as ``--refit``.

    Raises:
        InputError: the sweep file is wrong, or names code or data that would not travel.
    """
    loaded = load_spec(spec, overrides)
    folder = spec.resolve().parent
    for field, reference in (("task", loaded.task), ("dataset", loaded.dataset.name)):
        _check_travels(field, reference, folder)
    with tempfile.TemporaryDirectory() as work:
        if _is_own(loaded.dataset.name):  # it is here; one with a name is fetched there
            prepare(loaded, Path(work), local=False)
        packed = Path(work) / "code"
        packed.mkdir()
        files = pack(folder, packed)
        if Path(spec.name) not in files:
            raise InputError(
                "SPEC",
                str(spec),
                "is named in .gitignore, so it would not travel",
                "take it out there",
            )
        digest = _digest(packed, files)
        job = f"{PREFIX}{loaded.name}-{uuid.uuid4().hex[:8]}"
        given = [
            "--dir",
            place.directory,
            "--data-dir",
            place.data or f"{place.directory}/data",
            *options,
        ]
        given += [part for override in overrides for part in ("--set", override)]
        if place.tracking is not None:
            given += ["--tracking-uri", place.tracking]
        command = [
            "python",
            "-m",
            "foldrace.cluster.entry_point",
            place.directory,
            digest,
            spec.name,
            *given,
        ]
        say(f"{loaded.name}: {len(files)} files travel")
        client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=job,
            metadata={"sweep": loaded.name},
            runtime_env={"working_dir": str(packed), "env_vars": _JOB_VARIABLES},
        )
    return find_job(client, job)


def resume(
    client: JobSubmissionClient, sweep: str, place: Place, *, options: Sequence[str], say: Say
) -> Job:
    """Goes on with a sweep there that was stopped or cut off; its code and its file are where it
    left them."""
    job = f"{PREFIX}{sweep}-{uuid.uuid4().hex[:8]}"
    given = [
        "--dir",
        place.directory,
        "--data-dir",
        place.data or f"{place.directory}/data",
        *options,
    ]
    command = ["python", "-m", "foldrace", "resume", sweep, "--address", "auto", *given]
    client.submit_job(
        entrypoint=shlex.join(command),
        submission_id=job,
        metadata={"sweep": sweep},
        runtime_env={"env_vars": _JOB_VARIABLES},
    )
    say(f"{sweep}: goes on")
    return find_job(client, job)


def _is_own(name: str) -> bool:
    """Whether a data set is a file, a folder or a function of the user's."""
    return "/" in name or ":" in name or name.endswith(".npz")


def _check_travels(field: str, reference: str, folder: Path) -> None:
    """Refuses a file or a folder outside the one that travels. Raises: InputError."""
    where = (
        reference.rpartition(":")[0] if reference.rpartition(":")[0].endswith(".py") else reference
    )
    path = Path(where).expanduser()
    if "/" not in where and path.suffix != ".npz":
        return
    if not (folder / path).resolve().is_relative_to(folder):
        rule = f"lies outside {folder}, which is what travels"
        raise InputError(
            field,
            reference,
            rule,
            "move it there, or use what is on the cluster through a function",
        )
    if path.is_absolute():
        rule = "is not at this place on the cluster"
        raise InputError(field, reference, rule, f"./{path.resolve().relative_to(folder)}")


def _digest(root: Path, files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        found.update(str(path).encode() + b"\0" + (root / path).read_bytes() + b"\0")
    return found.hexdigest()[:16]


def follow(client: JobSubmissionClient, job: Job, *, again: str, say: Say) -> Job:
    """Shows a job's log from its beginning until it ends; Ctrl-C leaves it running.

    Args:
        again: the command that follows it again.

    Raises:
        KeyboardInterrupt: after having said so.
        StateError: the connection is lost.
    """
    try:
        asyncio.run(_tail(client, job.id))
    except KeyboardInterrupt:
        say(f"Detached; the sweep goes on. Again: {again}")
        raise
    except FoldraceError:
        raise
    except Exception as error:  # aiohttp's own, Ray's: the tunnel is gone, or the head
        raise StateError(
            f"the connection is lost ({first_line(error)}); the sweep goes on. Again: {again}"
        ) from error
    until = time.monotonic() + _PATIENCE
    while (found := find_job(client, job.id)).status not in ENDED and time.monotonic() < until:
        time.sleep(0.2)
    return found


async def _tail(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        sys.stderr.write(lines)
        sys.stderr.flush()


def stop(client: JobSubmissionClient, job: Job, say: Say) -> Job:
    """Asks a sweep to stop, and waits until it has: what is done is kept. Raises: StateError if it
    has ended."""
    if job.status in ENDED:
        raise StateError(f"{job.id}: has ended ({job.status.lower()}); there is nothing to stop")
    client.stop_job(job.id)
    say(f"{job.sweep}: stopping; what is done is kept")
    until = time.monotonic() + _STOP_SECONDS + _PATIENCE
    while (found := find_job(client, job.id)).status not in ENDED:
        if time.monotonic() > until:
            raise StateError(f"{job.id}: does not stop; see the dashboard")
        time.sleep(0.3)
    return found


def keep_code(source: Path, directory: Path, digest: str) -> Path:
    """Brings a job's code to storage that outlives the job, once: a sweep that is resumed reads it
    there."""
    target = directory / ".code" / digest
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=target.parent))
        shutil.copytree(source, part, dirs_exist_ok=True)
        try:
            part.rename(target)
        except OSError:  # another job was faster
            shutil.rmtree(part)
    return target
