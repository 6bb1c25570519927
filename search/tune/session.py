"""The Ray that a sweep runs on: a local one, started and shut down here, or a running cluster."""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from foldrace.errors import FoldraceError, StateError, first_line
from foldrace.private import private_folder
from foldrace.search.spec.sweep_spec import SweepSpec
from foldrace.search.tune.patches import (
    TUNE_VARIABLES,
    forget_token,
    in_own_sessions,
    use_started_workers,
)

__all__ = ["ray_session"]

_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ROTATION_MAX_BYTES": "16000000",  # of each of its logs, a worker's output among them
    "RAY_ROTATION_BACKUP_COUNT": "2",
    **TUNE_VARIABLES,
}
_READY_WORKERS = {
    # a module that cannot be imported is skipped: the last one is missing where foldrace is not
    # installed
    "RAY_preload_python_modules": "torch,ray.tune,foldrace.search.tune.warm_worker",
    # Ray ends workers that have been idle for a second while another worker is busy
    "RAY_idle_worker_killing_time_threshold_ms": "86400000",
}
_LONGEST_FOLDER = 107 - len("/session_2026-11-27_15-42-01_123456_1234567/sockets/plasma_store")
"""Bytes of the path of Ray's folder: that of a Unix socket has at most 107."""
_TOKEN = "RAY_AUTH_TOKEN"


@contextmanager
def ray_session(address: str | None, spec: SweepSpec | None = None) -> Iterator[None]:
    """Connects to a Ray cluster, or starts a local Ray; disconnects or shuts it down at the end.

    If this process is connected to a Ray already, that one is used, and stays connected.

    Args:
        address: of the cluster; None starts a local Ray without a dashboard.
        spec: of the sweep that will run. A local Ray then offers no more CPUs than its trials can
            use, and at once starts a worker process for each, which imports what trials need while
            the sweep is being prepared. None: workers start when a trial needs one.

    A local Ray keeps its files in a folder of this user's, since Ray's own is writable for
    everybody, and has an access token of its own, which no file holds.

    Raises:
        StateError: the address does not answer, or Ray does not start.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        yield
        return
    if address is not None:
        _check_address(address)
    with nullcontext() if address else _own_token():
        _start(address, spec)
        try:
            yield
        finally:
            sys.modules["ray"].shutdown()


def _start(address: str | None, spec: SweepSpec | None) -> None:
    """Starts a local Ray, or connects to a cluster. Raises: StateError."""
    common = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    try:
        import ray

        if address is not None:
            ray.init(address=address, **common)
        else:
            cpus = None if spec is None else _usable_cpus(spec)
            folder = private_folder(
                "ray", first=os.environ.get("RAY_TMPDIR"), longest=_LONGEST_FOLDER
            )
            with _ready_workers(cpus is not None), in_own_sessions():
                # "local": never a cluster that runs on this machine, or that RAY_ADDRESS names
                ray.init(
                    address="local",
                    include_dashboard=False,
                    num_cpus=_offered(cpus),
                    _temp_dir=str(folder),
                    **common,
                )
    except FoldraceError:
        raise
    except Exception as error:  # Ray raises errors of many kinds, a bare Exception among them
        where = f"--address {address}" if address else "this machine"
        remedy = "check its version and token" if address else "see `foldrace doctor`"
        reason = first_line(error).rstrip(".")
        raise StateError(f"Ray on {where} does not start or answer: {reason}; {remedy}") from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)


@contextmanager
def _own_token() -> Iterator[None]:
    """Within this block, Ray takes a token of this process's: it neither reads the user's, which
    may be another cluster's, nor writes one into the home folder."""
    before = os.environ.get(_TOKEN)
    os.environ[_TOKEN] = secrets.token_hex()
    forget_token()
    try:
        yield
    finally:
        del os.environ[_TOKEN]
        if before is not None:
            os.environ[_TOKEN] = before
        forget_token()


def _usable_cpus(spec: SweepSpec) -> float | None:
    """How many CPUs all trials of a sweep together can use on this machine; None if a trial takes
    several CPUs, since Ray would start a worker for each of them."""
    cpu, gpu, trials = spec.resources.cpu, spec.resources.gpu, spec.planned_trials
    if cpu > 1:
        return None
    if gpu:
        from foldrace.search.preparing.resources import count_gpus

        trials = min(trials, int(count_gpus() / gpu + 1e-9))
    return cpu * min(trials, spec.search.max_concurrent_trials or trials)


def _offered(cpus: float | None) -> int:
    """The CPUs that a local Ray offers: those that this process may use, or fewer if the trials
    use no more. Ray itself counts the machine's, whatever share of them a job has."""
    from foldrace.search.preparing.resources import process_cpus

    available = process_cpus()
    return available if cpus is None else max(1, min(math.ceil(cpus), available))


@contextmanager
def _ready_workers(wanted: bool) -> Iterator[None]:
    """Within this block, a Ray that starts lets its workers import what trials need at once, and
    trials use those workers.

    A task could not do that for a trial: Ray never runs an actor, as a trial is one, in a process
    that has run tasks.
    """
    added = {
        name: value for name, value in _READY_WORKERS.items() if wanted and name not in os.environ
    }
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
    if wanted:
        use_started_workers()


def _check_address(address: str) -> None:
    """Checks that the address answers, since Ray waits for a silent one for minutes. Raises:
    StateError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise StateError(
            f"--address {address}: nothing answers there ({error}); is the cluster up, and the"
            " tunnel to it open?"
        ) from error
