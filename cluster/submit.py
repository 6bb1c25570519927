"""Sweeps as Ray jobs: checked here, trained on a cluster, followed from here."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shlex
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from foldrace.cluster.jobs import ENDED, PREFIX, Job, find_job, submitter
from foldrace.cluster.package import pack
from foldrace.errors import FoldraceError, InputError, StateError, first_line
from foldrace.search.preparing.environment import versions
from foldrace.search.preparing.prepare import prepare
from foldrace.search.spec.sweep_spec import load_spec, written_references
from foldrace.trainables.data.references import is_data_file
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.user_code import add_folder, place_and_name

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = [
    "Destination",
    "Parcel",
    "check_versions",
    "follow",
    "keep_code",
    "make_parcel",
    "resume",
    "stop",
    "submit",
]

log = logging.getLogger(__name__)

_PRINT_VERSIONS = (
    "from foldrace.search.preparing.environment import versions; import json; print('versions',"
    " json.dumps(versions()))"
)
_MUST_MATCH = ("python", "ray", "foldrace")
_JOB_SECONDS = 60.0
_IGNORED = ("is named in .gitignore, so it would not be sent", "remove it from there")
_STOP_SECONDS = 120
_JOB_VARIABLES = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS), "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Destination:
    """Where a sweep runs and records on a cluster.

    Attributes:
        directory: the folder of sweeps, on storage that all nodes share.
        data: the folder of data sets there; None: ``data`` in ``directory``.
        tracking: the MLflow server, as the head reaches it; None: the one that the sweep file
            names, or else a file in ``directory``.
        options: further options of ``foldrace sweep`` and ``resume``, such as ``--refit``.
    """

    directory: Path
    data: Path | None = None
    tracking: str | None = None
    options: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The options of ``foldrace sweep`` and ``resume`` that say so, but for the tracking."""
        data = self.data or self.directory / "data"
        return ["--dir", str(self.directory), "--data-dir", str(data), *self.options]


def check_versions(client: JobSubmissionClient, *, strict: bool) -> None:
    """Compares Python and packages with the cluster's, by a job that only prints them.

    Differences are logged as warnings.

    Raises:
        StateError: Ray, Python or Foldrace differ in their first two numbers, and ``strict``; or
            Foldrace is not installed there; or the cluster does not run the job.
    """
    there, here = _cluster_versions(client), versions()
    for name in sorted({*here, *there}):
        mine, theirs = here.get(name, "missing"), there.get(name, "missing")
        if mine == theirs:
            continue
        difference = f"{name} is {mine} here and {theirs} on the cluster"
        if strict and name in _MUST_MATCH and mine.split(".")[:2] != theirs.split(".")[:2]:
            raise StateError(f"{difference}; make them the same, or pass --allow-version-skew")
        log.warning("Note: %s", difference)


def _cluster_versions(client: JobSubmissionClient) -> dict[str, str]:
    """What `versions` returns on the head. Raises: StateError."""
    job = client.submit_job(
        entrypoint=f"python -c {shlex.quote(_PRINT_VERSIONS)}",
        submission_id=f"versions-{uuid.uuid4().hex[:12]}",
    )
    until = time.monotonic() + _JOB_SECONDS
    while (status := client.get_job_status(job).value) not in ENDED:
        if time.monotonic() > until:
            raise StateError(
                "the cluster needs more than a minute for a job that only prints versions; see its"
                " dashboard"
            )
        time.sleep(0.2)
    lines = client.get_job_logs(job).splitlines()
    client.delete_job(job)
    printed = [line for line in lines if line.startswith("versions ")]
    if status != "SUCCEEDED" or not printed:
        raise StateError(
            "Foldrace is not installed on the cluster, or another version of it; install there"
            " what is installed here"
        )
    found: dict[str, str] = json.loads(printed[-1].removeprefix("versions "))
    return found


@dataclass(frozen=True)
class Parcel:
    """A sweep that was checked here, and the files that are sent for it. `make_parcel` makes it.

    Attributes:
        spec: the sweep file; its folder is what is sent.
        overrides: ``KEY=VALUE`` each.
        sweep: the sweep's name.
        tracking: the MLflow server that the sweep file names; None if it names none.
        folder: a copy of the files, which stays while the parcel is needed.
        files: their paths in it.
    """

    spec: Path
    overrides: tuple[str, ...]
    sweep: str
    tracking: str | None
    folder: Path
    files: tuple[Path, ...]


@contextmanager
def make_parcel(spec: Path, overrides: Sequence[str] = ()) -> Iterator[Parcel]:
    """Checks a sweep file and what it names, and copies what is sent; nothing is contacted.

    The task is loaded, and tried on the user's own data. A named data set is fetched there, and
    data at a path that is not here are expected to be there.

    Raises:
        InputError: the sweep file is wrong, or names code or data that would not be sent.
    """
    loaded = load_spec(spec, overrides)
    folder = spec.resolve().parent
    with tempfile.TemporaryDirectory() as work:
        packed = Path(work) / "code"
        packed.mkdir()
        files = pack(folder, packed)
        if Path(spec.name) not in files:
            raise InputError("SPEC", str(spec), *_IGNORED)
        for field, reference in written_references(spec, overrides).items():
            _check_sent(field, reference, folder, files)
        add_folder(folder)  # where the cluster looks for `package.module:Name`
        task = load_task(loaded.task, loaded.metrics)
        name = loaded.dataset.name
        if _is_own(name) and not _is_there(name):
            prepare(loaded, Path(work), local=False, task=task)
        given = loaded.tracking.uri
        yield Parcel(spec, tuple(overrides), loaded.name, given, packed, tuple(files))


def submit(client: JobSubmissionClient, parcel: Parcel, destination: Destination) -> Job:
    """Sends a parcel, and starts its sweep on the cluster."""
    log.info("%s: sending %d files", parcel.sweep, len(parcel.files))
    digest = _digest(parcel.folder, parcel.files)
    entry = ["python", "-m", "foldrace.cluster.entry_point", str(destination.directory), digest]
    options = [part for override in parcel.overrides for part in ("--set", override)]
    if destination.tracking is not None:
        options += ["--tracking-uri", destination.tracking]
    command = [*entry, parcel.spec.name, *destination.arguments, *options]
    return _start(client, parcel.sweep, command, working_dir=parcel.folder)


def resume(client: JobSubmissionClient, sweep: str, destination: Destination) -> Job:
    """Continues a sweep there that was stopped or cut off, with the code that it began with."""
    command = ["python", "-m", "foldrace", "resume", sweep, "--address", "auto"]
    log.info("%s: resuming", sweep)
    return _start(client, sweep, [*command, *destination.arguments])


def _start(
    client: JobSubmissionClient, sweep: str, command: list[str], working_dir: Path | None = None
) -> Job:
    """Submits a command as a sweep's job."""
    environment: dict[str, object] = {"env_vars": _JOB_VARIABLES}
    if working_dir is not None:
        environment["working_dir"] = str(working_dir)
    job = client.submit_job(
        entrypoint=shlex.join(command),
        submission_id=f"{PREFIX}{sweep}-{uuid.uuid4().hex[:8]}",
        metadata={"sweep": sweep, **submitter()},
        runtime_env=environment,
    )
    return find_job(client, job)


def _is_own(name: str) -> bool:
    """Whether a data set is a file, a folder or a function of the user's."""
    return "/" in name or ":" in name or is_data_file(name)


def _is_there(name: str) -> bool:
    """Whether a data set is at a path that can only be meant as one on the cluster."""
    return Path(name).is_absolute() and not Path(name).exists()


def _check_sent(field: str, reference: str, folder: Path, files: Collection[Path]) -> None:
    """Checks that a file or folder that a sweep file names is sent.

    Args:
        reference: as it is written.
        folder: the sweep file's.
        files: what is sent of it.

    Raises:
        InputError: it is outside, named by an absolute path, or left out.
    """
    named, _ = place_and_name(reference)
    if "://" in named or ("/" not in named and not (folder / named).exists()):
        return  # a name, a module, or an address
    path = Path(named).expanduser()
    if field == "dataset" and _is_there(str(path)):
        log.info("%s: not here, so it is looked for on the cluster", reference)
        return
    place = (folder / path).resolve()
    if not place.is_relative_to(folder):
        rule = f"is outside {folder}, the folder that is sent"
        hint = "move it there, or read the cluster's copy in a function"
        raise InputError(field, reference, rule, hint)
    inside = place.relative_to(folder)
    if path.is_absolute():
        hint = f"./{inside}"
        raise InputError(field, reference, "is not at this path on the cluster", hint)
    if not place.exists():
        rule = f"is not in {folder}, the folder that is sent"
        raise InputError(field, reference, rule, "move it there")
    if not any(sent.is_relative_to(inside) for sent in files):
        raise InputError(field, reference, *_IGNORED)


def _digest(root: Path, paths: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(str(path).encode() + b"\0" + (root / path).read_bytes() + b"\0")
    return found.hexdigest()[:16]


def follow(client: JobSubmissionClient, job: Job, *, again: str, output: TextIO) -> Job:
    """Copies a job's log to ``output``, from its beginning until the job ends; returns it then.

    Args:
        client: of the cluster.
        job: the job, which may have ended.
        again: the command that follows it again, for messages.
        output: a text stream.

    Raises:
        KeyboardInterrupt: Ctrl-C; the job continues.
        StateError: the connection is lost; the job continues.
    """
    try:
        asyncio.run(_copy_log(client, job.id, output))
    except KeyboardInterrupt:
        log.info("Detached; the sweep continues. Follow it again: %s", again)
        raise
    except FoldraceError:
        raise
    except Exception as error:  # of aiohttp or Ray, when the tunnel or the head is gone
        raise StateError(
            f"the connection is lost ({first_line(error)}); the sweep continues. Follow it again:"
            f" {again}"
        ) from error
    until = time.monotonic() + _JOB_SECONDS
    while (found := find_job(client, job.id)).status not in ENDED and time.monotonic() < until:
        time.sleep(0.2)
    return found


async def _copy_log(client: JobSubmissionClient, job: str, output: TextIO) -> None:
    async for text in client.tail_job_logs(job):
        output.write(text)
        output.flush()


def stop(client: JobSubmissionClient, job: Job) -> Job:
    """Asks a sweep to stop and waits for its end; everything recorded so far is kept.

    Raises:
        StateError: it has ended already, or does not stop in time.
    """
    if job.status in ENDED:
        raise StateError(f"{job.id}: has ended ({job.status.lower()}); there is nothing to stop")
    client.stop_job(job.id)
    log.info("%s: stopping; everything so far is kept", job.sweep)
    until = time.monotonic() + _STOP_SECONDS + _JOB_SECONDS
    while (found := find_job(client, job.id)).status not in ENDED:
        if time.monotonic() > until:
            raise StateError(f"{job.id}: does not stop; see the dashboard")
        time.sleep(0.3)
    return found


def keep_code(source: Path, directory: Path, digest: str) -> Path:
    """Copies a job's code into a folder of sweeps, once per digest; returns the copy.

    A resumed sweep reads its code there, when the job that brought it is gone.
    """
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
