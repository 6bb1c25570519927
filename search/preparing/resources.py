"""The resources of this node and of a Ray cluster, and how many trials fit."""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foldrace.errors import InputError

__all__ = [
    "check_resources",
    "check_shared",
    "count_gpus",
    "fitting",
    "machines",
    "process_cpus",
    "requested",
    "trial_slots",
    "warn_of_readers",
]

log = logging.getLogger(__name__)

_KEYS = ("CPU", "GPU")
_SECONDS = 60.0


def count_gpus() -> int:
    """Number of GPUs of this node that torch can use.

    Imports torch only where the device file of a driver exists.
    """
    if not any(any(Path("/dev").glob(pattern)) for pattern in ("nvidia[0-9]*", "kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count()


def process_cpus() -> int:
    """The CPUs that this process may use: its container's and its job's share of the machine's."""
    import joblib  # type: ignore[import-untyped]

    available: int = joblib.cpu_count()
    return available


def check_resources(cpu: float, gpu: float, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuses a trial that no node could run, as a trial does not span nodes.

    Args:
        cpu, gpu: what one trial reserves.
        nodes: by ``CPU`` and ``GPU``, what each has.

    Raises:
        InputError: names ``resources.cpu`` or ``resources.gpu``, or both if each is to be had, but
            not together.
    """
    for name, asked, key in (("gpu", gpu, "GPU"), ("cpu", cpu, "CPU")):
        there = max(node.get(key, 0.0) for node in nodes)
        if asked > there:
            none = name == "gpu" and not there
            hint = f"set resources.{name}: 0" if none else f"at most {there:g}"
            rule = f"a trial asks for more {key}s than there are ({there:g})"
            raise InputError(f"resources.{name}", asked, rule, hint)
    having = [node for node in nodes if node.get("GPU", 0.0) >= gpu]
    most = max(node.get("CPU", 0.0) for node in having)
    if cpu > most:
        kinds = {f"{node.get('CPU', 0):g} + {node.get('GPU', 0):g}" for node in nodes}
        rule = f"no machine has both; CPUs + GPUs of each: {', '.join(sorted(kinds))}"
        hint = f"at most cpu: {most:g} beside gpu: {gpu:g}"
        raise InputError("resources", f"cpu: {cpu:g}, gpu: {gpu:g}", rule, hint)


def warn_of_readers(workers: int, cpu: float) -> None:
    """Says that more processes read a trial's items than it reserves processors."""
    if workers > cpu:
        text = "dataset.workers: a trial has %d processes that read items, and %g CPUs; %s"
        log.warning(text, workers, cpu, "set resources: {cpu: …} to as many")


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _addable() -> list[Mapping[str, float]]:
    """The resources of each type of node that the autoscaler may add; empty without one."""
    from ray._private.state import state

    config = state.get_cluster_config()
    groups = [] if config is None else config.node_group_configs
    return [dict(group.resources) for group in groups if group.max_count]


def machines() -> list[Mapping[str, float]]:
    """What each node has, of those present and those that the autoscaler may add."""
    return [*(node["Resources"] for node in _alive()), *_addable()]


def fitting(cpu: float, gpu: float, node: Mapping[str, float]) -> int:
    """How many trials that reserve ``cpu`` and ``gpu`` fit on one node.

    A trial that reserves part of a GPU uses one GPU.

    >>> fitting(1, 0.4, {"CPU": 8, "GPU": 2})
    4
    """
    room = []
    if cpu:
        room.append(int(node.get("CPU", 0.0) / cpu + 1e-9))
    if gpu:
        gpus = node.get("GPU", 0.0)
        room.append(int(gpus) * int(1 / gpu + 1e-9) if gpu < 1 else int(gpus / gpu + 1e-9))
    return min(room)


def trial_slots(cpu: float, gpu: float) -> int:
    """How many trials that reserve ``cpu`` and ``gpu`` can run at once on the nodes present.

    At least 1, so that an autoscaler sees a demand.
    """
    return max(1, sum(fitting(cpu, gpu, node["Resources"]) for node in _alive()))


@contextmanager
def requested(cpu: float, gpu: float, trials: int | None) -> Iterator[None]:
    """Within this block an autoscaler, if there is one, provides nodes for ``trials`` trials.

    A sweep draws a configuration only when a worker is free for it. So no trial is ever pending
    that would make the cluster grow, and the nodes have to be requested.
    """
    if trials is None or not _addable():
        yield
        return
    from ray.autoscaler.sdk import request_resources

    bundle = {key: amount for key, amount in zip(_KEYS, (cpu, gpu), strict=True) if amount}
    request_resources(bundles=[bundle] * trials)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the cluster may have been shut down
            request_resources(bundles=[])


def check_shared(folder: Path) -> None:
    """Refuses a folder of sweeps that is not shared by all nodes of the cluster.

    Checkpoints would be lost with the node that wrote them.

    Raises:
        InputError: names the nodes that do not see the folder.
    """
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
        hint = "give a folder that all nodes of the cluster share"
        raise InputError("--dir", str(folder), rule, hint)


def _blind(mark: Path, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the nodes on which a file is missing."""
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
        except ray.exceptions.RayError:  # a node that has just been lost does not count
            continue
        if not seen:
            blind.append(asked[ref])
    return blind


def _sees(path: str) -> bool:
    return Path(path).is_file()
