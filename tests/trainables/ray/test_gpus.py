"""A worker trains on the GPUs that Ray has assigned, or says that it cannot; whatever computes
outside the workers computes on the same kind of device."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from foldrace.errors import StateError
from foldrace.trainables.ray.gpus import (
    check_assigned_gpus,
    device_name,
    local_device,
    release_share,
    take_share,
    training_device,
)

NODE = [f"GPU-{number}-uuid" for number in range(8)]


class FakeCuda:
    """A node with eight GPUs, of which CUDA shows some in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shown: list[int]) -> None:
        found = [NODE[at].removeprefix("GPU-") for at in shown]
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        monkeypatch.setattr(torch._C, "_cuda_getDeviceCount", lambda: len(shown), raising=False)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda at: SimpleNamespace(uuid=found[at])
        )
        monkeypatch.setattr(torch.cuda, "_raw_device_uuid_nvml", lambda: NODE)


@pytest.mark.parametrize("assigned", [[0], [5], [2, 7], ["3"]])
def test_the_assigned_gpus_are_accepted(
    assigned: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeCuda(monkeypatch, [int(each) for each in assigned])
    check_assigned_gpus(assigned)
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_cuda_that_started_before_ray_hid_the_other_gpus_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCuda(monkeypatch, list(range(8)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(StateError, match=r"assigned 1 GPUs \(5\), and CUDA shows 8 .* is 5"):
        check_assigned_gpus([5])


def test_another_gpu_than_the_assigned_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, [0])
    with pytest.raises(StateError, match=r"GPUs 5 with the UUIDs 5-uuid, and CUDA shows 0-uuid"):
        check_assigned_gpus([5])


def test_gpus_named_by_uuid_or_without_nvml_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, [0])
    check_assigned_gpus(["MIG-7"])
    monkeypatch.delattr(torch.cuda, "_raw_device_uuid_nvml")
    check_assigned_gpus([5])


@pytest.mark.parametrize(
    ("gpu", "told", "expected"),
    [
        (0.0, None, "cpu"),
        (0.25, None, "cuda"),
        (2.0, "", "cuda"),
        (1.0, "0", "cuda"),
        (1.0, "1", "cpu"),
    ],
)
def test_one_choice_of_device_for_workers_and_driver(
    gpu: float,
    told: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("FOLDRACE_TRAIN_ON_CPU", raising=False)
    if told is not None:
        monkeypatch.setenv("FOLDRACE_TRAIN_ON_CPU", told)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_device(gpu).type == local_device(gpu).type == expected
    assert not caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device(gpu).type == "cpu"
    assert ("there is none here" in caplog.text) == (expected == "cuda")


def test_memory_is_returned_to_a_shared_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: shares.append(0.0))
    for gpu in (0.5, 1.0, 4.0):
        take_share(gpu)
        release_share(gpu)
    assert shares == [0.5, 0.0, 1.0, 1.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_share_of_a_real_gpu_is_kept_to_and_returned() -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        take_share(0.1)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(total // 5, dtype=torch.uint8, device="cuda")
        held = torch.empty(total // 20, dtype=torch.uint8, device="cuda")
        del held
        release_share(0.1)
        assert torch.cuda.memory_reserved() < total // 20
    finally:
        take_share(1.0)
    assert device_name(torch.device("cuda")) != "cpu" == device_name(torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_gpu_has_the_uuid_that_nvml_knows() -> None:
    check_assigned_gpus(list(range(torch.cuda.device_count())))
