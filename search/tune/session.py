"""A Ray to run on: one of our own on this machine, always shut down, or a cluster that is there
already."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from foldrace.errors import StateError

if TYPE_CHECKING:
    from foldrace.search.spec.sweep_spec import SweepSpec

__all__ = ["ray_session"]

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ROTATION_MAX_BYTES": "16000000",  # of each of its logs, a worker's output among them
    "RAY_ROTATION_BACKUP_COUNT": "2",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # a diverged trial reports no val_loss, so that nothing compares it
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own, which asks Tune to stop by SIGUSR1
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are recorded and shown by the view
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_READY_WORKERS = {
    # what cannot be imported is left out: the last is not found where this project is not
    # installed
    "RAY_preload_python_modules": "torch,ray.tune,foldrace.search.tune.warm_worker",
    # Ray ends what is idle for a second while another worker is busy
    "RAY_idle_worker_killing_time_threshold_ms": "86400000",
}


_open = False


@contextmanager
def ray_session(address: str | None, spec: SweepSpec | None = None) -> Iterator[None]:
    """Connects to ``address``, or starts a quiet Ray of our own without a dashboard and shuts it
    down at the end.

    Within another session, there is that one.

    Args:
        spec: of the sweep that will run. A Ray of our own then offers no more CPUs than its trials
            can use, and starts a worker process for each at once, which imports what trials need
            while the sweep is still being prepared. None: workers start when they are asked for.

    Raises:
        StateError: the address does not answer.
    """
    global _open
    if _open:
        yield
        return
    if address is not None:
        _check_address(address)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    common = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    try:
        if address is not None:
            ray.init(address=address, **common)
        else:
            cpus = None if spec is None else _usable_cpus(spec)
            with _ready_workers(cpus is not None):
                # "local": never a cluster that happens to run here, or that RAY_ADDRESS names
                ray.init(
                    address="local", include_dashboard=False, num_cpus=_offered(cpus), **common
                )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        raise StateError(f"Ray on {where} does not start or answer: {error}") from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    _open = True
    try:
        yield
    finally:
        _open = False
        ray.shutdown()


def _usable_cpus(spec: SweepSpec) -> float | None:
    """How many CPUs the trials of a sweep can use on this machine, all together; None where a
    trial takes several, since Ray would start a worker for each of them."""
    cpu, gpu, trials = spec.resources.cpu, spec.resources.gpu, spec.planned_trials
    if cpu > 1:
        return None
    if gpu:
        from foldrace.search.preparing.resources import count_gpus

        trials = min(trials, int(count_gpus() / gpu + 1e-9))
    return cpu * min(trials, spec.search.max_concurrent_trials or trials)


def _offered(cpus: float | None) -> int | None:
    """The CPUs that a Ray of our own shall have; None: as many as it finds."""
    if cpus is None:
        return None
    import joblib  # type: ignore[import-untyped]

    there: int = joblib.cpu_count()  # which knows of a container's limit, as Ray does
    return max(1, min(math.ceil(cpus), there))


@contextmanager
def _ready_workers(wanted: bool) -> Iterator[None]:
    """Within this block, a Ray that starts has its workers import what trials need, at once; and
    trials take those.

    A task could not do that for a trial: Ray runs actors, as trials are, in no process that has
    run tasks.
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
        from ray.tune.execution import class_cache

        # Tune asks for processes with a variable of Lightning's in their environment, which these
        # do not have
        class_cache.DEFAULT_ENV_VARS.clear()


def _check_address(address: str) -> None:
    """Ray itself tries a silent address for minutes. Raises: StateError."""
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
