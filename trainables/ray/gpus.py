"""Checks that a worker's process trains on the GPUs that Ray has assigned to it."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from foldrace.errors import StateError

__all__ = ["check_assigned_gpus"]


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
