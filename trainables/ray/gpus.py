"""The device that a process trains on, and its share of a GPU's memory."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Sequence

import torch

from foldrace.errors import StateError

__all__ = [
    "TRAIN_ON_CPU",
    "check_assigned_gpus",
    "device_name",
    "local_device",
    "release_share",
    "take_share",
    "training_device",
]

log = logging.getLogger(__name__)

TRAIN_ON_CPU = "FOLDRACE_TRAIN_ON_CPU"
"""If this environment variable is set, and not to 0, a process trains on its CPU even if trials
reserve GPUs: to try out a cluster, or where Ray has been given GPUs that do not exist."""


def training_device(gpu: float) -> torch.device:
    """The device on which a sweep's trials train.

    Args:
        gpu: GPUs that a trial reserves.

    Returns:
        The first GPU of this process if trials reserve one and `TRAIN_ON_CPU` does not say
        otherwise; whether there is one is not looked up.
    """
    on_cpu = not gpu or os.environ.get(TRAIN_ON_CPU, "0") not in ("", "0")
    return torch.device("cpu" if on_cpu else "cuda")


def local_device(gpu: float) -> torch.device:
    """`training_device` outside a worker: the CPU, with a warning, where there is no GPU."""
    device = training_device(gpu)
    if device.type == "cuda" and not torch.cuda.is_available():
        log.warning("trials train on a GPU, and there is none here: this is computed on the CPU")
        return torch.device("cpu")
    return device


def device_name(device: torch.device) -> str:
    """``cpu``, or the GPU's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def take_share(gpu: float) -> None:
    """Lets this process allocate no more than its share of the GPU's memory.

    So a trial that needs more fails itself, and not its neighbours. The memory that CUDA needs in
    each process is not counted.

    Args:
        gpu: GPUs that a trial reserves, more than 0.
    """
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpu))


def release_share(gpu: float) -> None:
    """Returns the memory of deleted tensors to the GPU, if it is shared with other trials.

    torch would keep it in this process's cache.

    Args:
        gpu: GPUs that a trial reserves, more than 0.
    """
    if gpu < 1:
        gc.collect()  # what belongs to a circle of references is deleted only now
        torch.cuda.empty_cache()


def check_assigned_gpus(assigned: Sequence[int | str]) -> None:
    """Starts CUDA in this process, and checks that it shows the assigned GPUs and no others.

    CUDA reads CUDA_VISIBLE_DEVICES once, when it starts. In a process in which it had started
    before Ray set that variable, every trial would train on the node's first GPU.

    Args:
        assigned: the ids that Ray has assigned: indices in the order of the PCI bus, or UUIDs.

    Raises:
        StateError: names the GPUs that are assigned and those that CUDA shows.
    """
    # Ray counts GPUs as NVML does.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    count = torch._C._cuda_getDeviceCount()
    if count != len(assigned):
        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        raise StateError(
            f"Ray has assigned {len(assigned)} GPUs ({_listed(assigned)}), and CUDA shows {count}"
            f" in this process (CUDA_VISIBLE_DEVICES is {shown}): CUDA had started before Ray set"
            " that variable, or RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES is set"
        )
    expected = _uuids(assigned)
    found = [str(torch.cuda.get_device_properties(at).uuid) for at in range(count)]
    if expected is not None and expected != found:
        raise StateError(
            f"Ray has assigned the GPUs {_listed(assigned)} with the UUIDs {_listed(expected)},"
            f" and CUDA shows {_listed(found)} in this process"
        )


def _uuids(assigned: Sequence[int | str]) -> list[str] | None:
    """The UUIDs of GPUs by their indices on this node; None if they cannot be read."""
    try:
        known = torch.cuda._raw_device_uuid_nvml()
    except (OSError, AttributeError):  # no NVML here
        return None
    if known is None or not all(str(each).isdigit() for each in assigned):
        return None
    return [known[int(each)].removeprefix("GPU-") for each in assigned]


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names)) or "none"
