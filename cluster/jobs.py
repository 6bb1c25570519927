"""A cluster as a laptop sees it: Ray's job server at the end of a tunnel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foldrace.errors import StateError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["ENDED", "PREFIX", "Job", "find_job", "folder_of", "jobs_of"]

PREFIX = "foldrace-"
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}


@dataclass(frozen=True)
class Job:
    """A sweep that runs, or ran, on a cluster.

    Attributes:
        id: of Ray's job.
        sweep: its name, as it was asked for.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        message: what Ray says of that.
        began, ended: ms since the epoch, or None.
        exit_status: of `foldrace`, once it has ended by itself.
    """

    id: str
    sweep: str
    status: str
    message: str
    began: int | None
    ended: int | None
    exit_status: int | None


def jobs_of(client: JobSubmissionClient) -> list[Job]:
    """The sweeps' jobs that the cluster remembers, the newest first."""
    found = [
        _job(told) for told in client.list_jobs() if (told.submission_id or "").startswith(PREFIX)
    ]
    return sorted(found, key=lambda job: job.began or 0, reverse=True)


def _job(told: Any) -> Job:
    return Job(
        told.submission_id,
        (told.metadata or {}).get("sweep", ""),
        told.status.value,
        told.message or "",
        told.start_time,
        told.end_time,
        told.driver_exit_code,
    )


def find_job(client: JobSubmissionClient, name: str | None) -> Job:
    """A job by its id or by its sweep's name; the newest if there is no name. Raises:
    StateError."""
    jobs = jobs_of(client)
    if not jobs:
        raise StateError("no sweep has been submitted to this cluster")
    found = [job for job in jobs if name is None or name in (job.id, job.sweep)]
    if not found:
        known = ", ".join(dict.fromkeys(job.sweep or job.id for job in jobs[:8]))
        raise StateError(f"{name}: no such job on this cluster; it knows: {known}")
    return found[0]


def folder_of(client: JobSubmissionClient, job: Job) -> str:
    """The name that a sweep got on the cluster, which has a number where there was one of its
    name; it says so in its log. Before that, the name that was asked for."""
    found = re.search(r"^(\S+): in /", client.get_job_logs(job.id), re.MULTILINE)
    return found[1] if found else job.sweep
