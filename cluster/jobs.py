"""The jobs of a cluster that run sweeps."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from foldrace.errors import StateError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = [
    "ENDED",
    "PREFIX",
    "Job",
    "find_job",
    "job_to_stop",
    "jobs_of",
    "submitter",
    "with_folders",
]

PREFIX = "foldrace-"
"""What the id of a sweep's job begins with."""

ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
"""The states that a job does not leave."""

_OUTCOMES = {0: "done", 2: "refused", 3: "done, with failed trials", 130: "stopped"}


@dataclass(frozen=True)
class Job:
    """A sweep that runs, or ran, on a cluster.

    Attributes:
        id: Ray's name of the job.
        sweep: the sweep's name: in its file, or of its folder on the cluster (`with_folders`).
        user, host: who submitted it, and from where; empty for jobs of earlier versions.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: Ray's explanation of the status.
        began, ended: milliseconds since the epoch, or None.
        exit_status: of the ``foldrace`` process, once it has ended by itself; else None.
    """

    id: str
    sweep: str
    status: str
    message: str
    began: int | None
    ended: int | None
    exit_status: int | None
    user: str = ""
    host: str = ""

    @property
    def is_mine(self) -> bool:
        """Whether it was submitted by this user from this machine, as far as is known."""
        return not self.user or {"user": self.user, "host": self.host} == submitter()

    @property
    def outcome(self) -> str:
        """The status in words, from the exit status where there is one.

        >>> Job("foldrace-ae-1", "ae", "FAILED", "", None, None, exit_status=3).outcome
        'done, with failed trials'
        """
        if self.exit_status is not None and self.status in ("SUCCEEDED", "FAILED"):
            return _OUTCOMES.get(self.exit_status, f"failed ({self.exit_status})")
        return self.status.lower()


def jobs_of(client: JobSubmissionClient) -> list[Job]:
    """The sweeps' jobs that a cluster remembers, the newest first."""
    jobs = [
        _job(details)
        for details in client.list_jobs()
        if (details.submission_id or "").startswith(PREFIX)
    ]
    return sorted(jobs, key=lambda job: job.began or 0, reverse=True)


def submitter() -> dict[str, str]:
    """This user and this machine, as a job carries them."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return {"user": user, "host": socket.gethostname()}


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        details.submission_id,
        metadata.get("sweep", ""),
        details.status.value,
        details.message or "",
        details.start_time,
        details.end_time,
        details.driver_exit_code,
        metadata.get("user", ""),
        metadata.get("host", ""),
    )


def find_job(client: JobSubmissionClient, name: str | None) -> Job:
    """The newest job with this id or of the sweep of this name; the newest of all for None.

    Raises:
        StateError: there is none; the message lists the newest jobs.
    """
    return _found(client, name)[0]


def job_to_stop(client: JobSubmissionClient, name: str, *, force: bool = False) -> Job:
    """The one job that is meant by this name: if one of them has not ended, that.

    Args:
        force: it may be another's.

    Raises:
        StateError: there is none, there are several, or it is another's.
    """
    found = _found(client, name)
    running = [job for job in found if job.status not in ENDED] or found[:1]
    if len(running) > 1:
        named = ", ".join(f"{job.id} ({job.user}@{job.host})" for job in running)
        raise StateError(f"{name}: {len(running)} jobs of that name run: {named}; name one")
    [job] = running
    if not (force or job.is_mine or job.status in ENDED):
        raise StateError(f"{job.id}: {job.user} submitted it from {job.host}; --force stops it")
    return job


def _found(client: JobSubmissionClient, name: str | None) -> list[Job]:
    """The jobs that are meant by a name, the newest first; one at least. Raises: StateError."""
    jobs = jobs_of(client)
    if not jobs:
        raise StateError("no sweep has been submitted to this cluster")
    if exact := [job for job in jobs if name in (None, job.id)]:
        return exact
    # a folder's name is its sweep's, with a number where that was taken
    alike = [job for job in jobs if re.fullmatch(rf"{re.escape(job.sweep)}(-\d+)?", str(name))]
    of_folder = [job for job in with_folders(client, alike) if job.sweep == name]
    if found := of_folder or [job for job in alike if job.sweep == name]:
        return found
    known = ", ".join(dict.fromkeys(job.sweep or job.id for job in jobs[:8]))
    raise StateError(f"{name}: no such job on this cluster; it knows: {known}")


def with_folders(client: JobSubmissionClient, jobs: Iterable[Job]) -> list[Job]:
    """The jobs with the names of their sweeps' folders on the cluster, from the jobs' logs.

    Such a name has a number at its end where the sweep's was taken. A job that has not logged its
    folder yet has the name in its file.
    """
    logs = [(job, client.get_job_logs(job.id)) for job in jobs]
    found = [(job, re.search(r"^(\S+): in /", log, re.MULTILINE)) for job, log in logs]
    return [replace(job, sweep=said[1]) if said else job for job, said in found]
