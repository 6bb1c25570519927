"""A cluster as a laptop sees it: Ray's job server at the end of a tunnel."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainables.errors import InputError, StateError, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

__all__ = ["ENDED", "PREFIX", "Job", "connect", "find_job", "jobs_of"]

PREFIX = "foldrace-"
ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_PATIENCE = 5.0
_TUNNEL = "open the tunnel first: `foldrace tunnel CLUSTER.yaml`, or `ray dashboard CLUSTER.yaml`"


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


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at ``address``, which answers.

    Raises:
        InputError: ``address`` is no http address.
        StateError: nothing answers there, something else does, or it does not know the token; each with the remedy,
            within ten seconds.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError("--address", address, "must be the address of Ray's dashboard", "http://127.0.0.1:8265")
    token = _token()
    _ask(address.rstrip("/"), token)
    if token is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import logging

    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray.dashboard.modules").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # Ray's own, requests'
        raise StateError(f"{address}: the job server cannot be used: {first_line(error)}") from error


def _token() -> str | None:
    """The token that Ray's own tools would send: of the environment, of a file; None if there is none."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return None
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given.strip()
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token")).expanduser()
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _ask(address: str, token: str | None) -> None:
    """Looks who answers; `connect` tells what is raised."""
    request = urllib.request.Request(f"{address}/api/jobs/")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            told = answer.read(64 * 2**20)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise StateError(f"{address}: {_about_token(token)}") from error
        raise StateError(
            f"{address}: answers with {error.code}, so it is no Ray dashboard; is the port right?"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StateError(f"{address}: nothing answers there ({reason}); {_TUNNEL}") from error
    try:
        jobs = json.loads(told)
    except ValueError:
        jobs = None
    if not isinstance(jobs, list):
        raise StateError(f"{address}: something answers there that is no Ray dashboard; is the port right?")


def _about_token(token: str | None) -> str:
    where = "~/.ray/auth_token"
    if token is None:
        return f"asks for a token, and there is none in {where}; copy it from where `ray up` was run, or from the head"
    return f"does not know the token in {where}; copy the cluster's, from where `ray up` was run or from the head"


def jobs_of(client: JobSubmissionClient) -> list[Job]:
    """The sweeps' jobs that the cluster remembers, the newest first."""
    found = [_job(told) for told in client.list_jobs() if (told.submission_id or "").startswith(PREFIX)]
    return sorted(found, key=lambda job: job.began or 0, reverse=True)


def _job(told: Any) -> Job:
    return Job(
        told.submission_id, (told.metadata or {}).get("sweep", ""), told.status.value, told.message or "",
        told.start_time, told.end_time, told.driver_exit_code,
    )  # fmt: skip


def find_job(client: JobSubmissionClient, name: str | None) -> Job:
    """A job by its id or by its sweep's name; the newest if there is no name. Raises: StateError."""
    jobs = jobs_of(client)
    if not jobs:
        raise StateError("no sweep has been submitted to this cluster")
    found = [job for job in jobs if name is None or name in (job.id, job.sweep)]
    if not found:
        known = ", ".join(dict.fromkeys(job.sweep or job.id for job in jobs[:8]))
        raise StateError(f"{name}: no such job on this cluster; it knows: {known}")
    return found[0]
