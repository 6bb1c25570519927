"""The jobs of a cluster that run sweeps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foldrace.errors import StateError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["ENDED", "PREFIX", "Job", "find_job", "folder_of", "jobs_of"]

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
        sweep: the sweep's name in its file.
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

    @property
    def outcome(self) -> str:
        """The status in words, from the exit status where there is one."""
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


def _job(details: Any) -> Job:
    return Job(
        details.submission_id,
        (details.metadata or {}).get("sweep", ""),
        details.status.value,
        details.message or "",
        details.start_time,
        details.end_time,
        details.driver_exit_code,
    )


def find_job(client: JobSubmissionClient, name: str | None) -> Job:
    """The newest job with this id or of the sweep of this name; the newest of all for None.

    Raises:
        StateError: there is none; the message lists the newest jobs.
    """
    jobs = jobs_of(client)
    if not jobs:
        raise StateError("no sweep has been submitted to this cluster")
    found = [job for job in jobs if name is None or name in (job.id, job.sweep)]
    if not found:
        known = ", ".join(dict.fromkeys(job.sweep or job.id for job in jobs[:8]))
        raise StateError(f"{name}: no such job on this cluster; it knows: {known}")
    return found[0]


def folder_of(client: JobSubmissionClient, job: Job) -> str:
    """The name of a sweep's folder on the cluster, read from the job's log.

    It has a number at its end where the name was taken. Until the sweep has logged its folder:
    the name in its file.
    """
    found = re.search(r"^(\S+): in /", client.get_job_logs(job.id), re.MULTILINE)
    return found[1] if found else job.sweep
