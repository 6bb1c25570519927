"""What a Ray cluster can hold: now, and once its autoscaler has added all the machines that it
may."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foldrace.errors import InputError

__all__ = [
    "check_resources",
    "check_shared",
    "fitting",
    "largest_node",
    "requested",
    "trial_slots",
]

_KEYS = ("CPU", "GPU")
_SECONDS = 60.0


def check_resources(cpu: float, gpu: float, available: Mapping[str, float]) -> None:
    """Refuses a trial that no machine at hand could run. Raises: InputError."""
    for name, asked, key in (("gpu", gpu, "GPU"), ("cpu", cpu, "CPU")):
        there = available.get(key, 0.0)
        if asked > there:
            hint = (
                f"set resources.{name}: 0" if name == "gpu" and not there else f"at most {there:g}"
            )
            raise InputError(
                f"resources.{name}",
                asked,
                f"a trial asks for more {key}s than there are ({there:g})",
                hint,
            )


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _addable() -> list[Mapping[str, float]]:
    """What each kind of machine has that the autoscaler may add; nothing where there is none."""
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = [] if config is None else config.node_group_configs
    return [dict(group.resources) for group in groups if group.max_count]


def largest_node() -> dict[str, float]:
    """The most CPUs and the most GPUs that one machine of the cluster has, or would have if it
    were added: a trial does not span machines."""
    machines = [node["Resources"] for node in _alive()] + _addable()
    return {key: max(machine.get(key, 0.0) for machine in machines) for key in _KEYS}


def fitting(cpu: float, gpu: float, machine: Mapping[str, float]) -> int:
    """How many trials that ask for so much one machine can hold. A trial with a part of a GPU is
    on one GPU.

    >>> fitting(1, 0.4, {"CPU": 8, "GPU": 2})
    4
    """
    room = []
    if cpu:
        room.append(int(machine.get("CPU", 0.0) / cpu + 1e-9))
    if gpu:
        gpus = machine.get("GPU", 0.0)
        room.append(int(gpus) * int(1 / gpu + 1e-9) if gpu < 1 else int(gpus / gpu + 1e-9))
    return min(room)


def trial_slots(cpu: float, gpu: float) -> int:
    """How many trials that ask for so much can run side by side on the machines that Ray has now;
    at least 1, so that an autoscaler sees that something is wanted."""
    return max(1, sum(fitting(cpu, gpu, node["Resources"]) for node in _alive()))


@contextmanager
def requested(cpu: float, gpu: float, trials: int | None) -> Iterator[None]:
    """Within this block an autoscaler, where there is one, makes room for so many trials;
    afterwards for none.

    A sweep draws a configuration when a worker is free for it, so that no trial ever waits that
    would make the cluster grow: it has to be asked to.
    """
    wanted = trials is not None and bool(_addable())
    if not wanted:
        yield
        return
    from ray.autoscaler.sdk import request_resources

    bundle = {key: amount for key, amount in zip(_KEYS, (cpu, gpu), strict=True) if amount}
    request_resources(bundles=[bundle] * (trials or 0))
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone
            request_resources(bundles=[])


def check_shared(folder: Path) -> None:
    """Refuses a folder of sweeps that a machine of the cluster does not see: checkpoints would be
    lost with the machine that wrote them. Raises: InputError, which names the machines."""
    nodes = _alive()
    if len(nodes) < 2:
        return
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f".seen-{uuid.uuid4().hex}"
    mark.touch()
    try:
        blind = _blind(mark, nodes)
    finally:
        mark.unlink(missing_ok=True)
    if blind:
        rule = f"is not seen on {', '.join(sorted(blind))}"
        raise InputError(
            "--dir", str(folder), rule, "give a folder that all machines of the cluster share"
        )


def _blind(mark: Path, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of those nodes on which a file is not there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        look = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_sees)
        asked[look.remote(str(mark))] = node["NodeManagerHostname"]
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS)
    blind = [asked[ref] for ref in late]
    for ref in done:
        try:
            seen = ray.get(ref)
        except ray.exceptions.RayError:  # a machine that has just gone is no reason
            continue
        if not seen:
            blind.append(asked[ref])
    return blind


def _sees(path: str) -> bool:
    return Path(path).is_file()
