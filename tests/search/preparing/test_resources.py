"""How many trials fit on a cluster, and what is requested of its autoscaler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrace.errors import InputError
from foldrace.search.preparing import resources as capacity
from tests.helpers.sweeps import environment


@pytest.mark.parametrize(
    ("cpu", "gpu", "machine", "count"),
    [
        (1, 0, {"CPU": 4}, 4),
        (2, 0, {"CPU": 3}, 1),
        (0.5, 0, {"CPU": 2}, 4),
        (1, 1, {"CPU": 8, "GPU": 2}, 2),
        (1, 0.25, {"CPU": 8, "GPU": 2}, 8),
        (1, 0.6, {"CPU": 8, "GPU": 2}, 2),  # a trial is on one GPU: three would fit in 2 / 0.6
        (1, 2, {"CPU": 8, "GPU": 3}, 1),
        (4, 0.25, {"CPU": 8, "GPU": 1}, 2),
        (1, 0.5, {"CPU": 8}, 0),
    ],
)
def test_how_many_trials_fit_on_a_node(
    cpu: float, gpu: float, machine: dict[str, float], count: int
) -> None:
    assert capacity.fitting(cpu, gpu, machine) == count


def machines(
    monkeypatch: pytest.MonkeyPatch, *resources: dict[str, float], addable: Any = ()
) -> None:
    nodes = [
        {"Resources": one, "NodeID": str(i), "NodeManagerHostname": f"m{i}", "Alive": True}
        for i, one in enumerate(resources)
    ]
    monkeypatch.setattr(capacity, "_alive", lambda: nodes)
    monkeypatch.setattr(capacity, "_addable", lambda: list(addable))


def test_a_trial_does_not_span_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    machines(monkeypatch, {"CPU": 3}, {"CPU": 3}, {"CPU": 3})
    assert capacity.trial_slots(2, 0) == 3


def test_nodes_of_different_sizes_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines(monkeypatch, {"CPU": 0}, {"CPU": 16, "GPU": 1}, {"CPU": 4, "GPU": 8})
    assert capacity.trial_slots(1, 1) == 1 + 4
    assert capacity.machines() == [{"CPU": 0}, {"CPU": 16, "GPU": 1}, {"CPU": 4, "GPU": 8}]


def test_nodes_that_may_be_added_count_as_largest_but_hold_no_trial_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines(monkeypatch, {"CPU": 2}, addable=[{"CPU": 8, "GPU": 4}])
    capacity.check_resources(8, 4, capacity.machines())
    assert capacity.trial_slots(8, 4) == 1  # which makes the cluster grow
    with pytest.raises(InputError, match="a trial asks for more GPUs than there are"):
        capacity.check_resources(1, 5, capacity.machines())


def test_a_trial_fits_on_one_machine_and_not_on_two_together() -> None:
    """4 CPUs here and a GPU there would wait for ever."""
    nodes = [{"CPU": 4.0}, {"CPU": 1.0, "GPU": 1.0}]
    for cpu, gpu in ((4, 0), (1, 1), (1, 0.5)):
        capacity.check_resources(cpu, gpu, nodes)
    with pytest.raises(InputError) as caught:
        capacity.check_resources(2, 1, nodes)
    assert str(caught.value) == (
        "resources: cpu: 2, gpu: 1: no machine has both; CPUs + GPUs of each: 1 + 1, 4 + 0;"
        " at most cpu: 1 beside gpu: 1"
    )


def test_a_job_has_its_share_of_the_machines_cpus() -> None:
    """Slurm and containers bind a process to some of them."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from foldrace.search.preparing.resources import process_cpus;"
        "from foldrace.search.tune.session import _offered;"
        "print(process_cpus(), _offered(None), _offered(5.0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1", "1"]


def test_an_autoscaler_is_asked_for_nodes_and_the_request_is_withdrawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "ray.autoscaler.sdk.request_resources", lambda bundles: asked.append(bundles)
    )
    machines(monkeypatch, {"CPU": 2}, addable=[{"CPU": 8, "GPU": 4}])
    with pytest.raises(KeyError), capacity.requested(1, 0.5, 3):
        assert asked == [[{"CPU": 1, "GPU": 0.5}] * 3]
        raise KeyError
    assert asked[1:] == [[]]
    with capacity.requested(1, 0, None):
        pass
    machines(monkeypatch, {"CPU": 2})
    with capacity.requested(1, 0, 3):
        pass
    assert len(asked) == 2


def test_a_folder_that_a_node_does_not_see_is_refused_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machines(monkeypatch, {"CPU": 2}, {"CPU": 2})
    seen: list[Path] = []
    monkeypatch.setattr(capacity, "_blind", lambda mark, nodes: seen.append(mark) or ["m1"])
    with pytest.raises(
        InputError, match="is not seen on m1; give a folder that all nodes of the cluster share"
    ):
        capacity.check_shared(tmp_path)
    assert seen[0].parent == tmp_path and not list(tmp_path.iterdir())
    machines(monkeypatch, {"CPU": 2})
    capacity.check_shared(SimpleNamespace())  # type: ignore[arg-type]  # one machine sees its own
