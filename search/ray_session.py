"""A Ray to run on: one of our own on this machine, always shut down, or a cluster that is there already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from trainables.errors import InputError, StateError

__all__ = ["check_resources", "largest_node", "ray_session", "trial_slots", "warm_workers"]

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a diverged trial reports no val_loss, so that nothing compares it
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own, which asks Tune to stop by SIGUSR1
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are recorded and shown by the view
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # a suggestion is made when a worker is free, with all that is known by then
}


@contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """Connects to ``address``, or starts a quiet Ray of our own without a dashboard and shuts it down at the end.

    Raises:
        StateError: the address does not answer.
    """
    if address is not None:
        _check_address(address)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    common = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    try:
        if address is None:
            # "local": never a cluster that happens to run here, or that RAY_ADDRESS names
            ray.init(address="local", include_dashboard=False, **common)
        else:
            ray.init(address=address, **common)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        raise StateError(f"Ray on {where} does not start or answer: {error}") from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself tries a silent address for minutes. Raises: StateError."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise StateError(
            f"--address {address}: nothing answers there ({error}); is the cluster up, and the tunnel to it open?"
        ) from error


def check_resources(cpu: float, gpu: float, available: Mapping[str, float]) -> None:
    """Refuses a trial that no machine at hand could run. Raises: InputError."""
    for name, asked, key in (("gpu", gpu, "GPU"), ("cpu", cpu, "CPU")):
        there = available.get(key, 0.0)
        if asked > there:
            hint = f"set resources.{name}: 0" if name == "gpu" and not there else f"at most {there:g}"
            raise InputError(
                f"resources.{name}", asked, f"a trial asks for more {key}s than there are ({there:g})", hint
            )


def largest_node() -> dict[str, float]:
    """The most CPUs and the most GPUs that one machine of the cluster has: a trial does not span machines."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return {key: max(node.get(key, 0.0) for node in nodes) for key in ("CPU", "GPU")}


def trial_slots(cpu: float, gpu: float) -> int:
    """How many trials that ask for so much can run side by side on what Ray has now."""
    import ray

    there, asked = ray.cluster_resources(), {"CPU": cpu, "GPU": gpu}
    return max(1, min(int(there.get(key, 0) / amount + 1e-9) for key, amount in asked.items() if amount))


def warm_workers(count: int, cpu: float) -> Callable[[], None]:
    """Starts ``count`` worker processes on this machine that import what a trial needs; the result waits for them.

    Tune drops an actor that is still starting as soon as a finished trial's actor can be reused. Where trials are
    shorter than the imports, the second worker would then never get to work. An actor in a warm process starts at once.
    """
    import ray

    @ray.remote(num_cpus=cpu)  # type: ignore[untyped-decorator]
    def warm() -> None:
        import torch

        import trainables.ray_trainable  # noqa: F401

        weight = torch.nn.Parameter(torch.zeros(1))
        weight.square().sum().backward()  # type: ignore[no-untyped-call]
        torch.optim.Adam([weight], fused=True).step()  # torch imports its compiler on the first step

    tasks = [warm.remote() for _ in range(count)]

    def wait() -> None:
        ray.get(tasks)

    return wait
