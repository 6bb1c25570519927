"""How many trials fit on a cluster, and what is requested of its autoscaler."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foldrace.errors import InputError
from foldrace.search.preparing import resources as capacity


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
    assert capacity.largest_node() == {"CPU": 16, "GPU": 8}


def test_nodes_that_may_be_added_count_as_largest_but_hold_no_trial_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machines(monkeypatch, {"CPU": 2}, addable=[{"CPU": 8, "GPU": 4}])
    capacity.check_resources(8, 4, capacity.largest_node())
    assert capacity.trial_slots(8, 4) == 1  # which makes the cluster grow
    with pytest.raises(InputError, match="a trial asks for more GPUs than there are"):
        capacity.check_resources(1, 5, capacity.largest_node())


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
