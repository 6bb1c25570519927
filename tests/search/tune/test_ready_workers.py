from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.tune.session import _usable_cpus
from tests.helpers.sweeps import QUICK


@pytest.mark.parametrize(
    ("overrides", "cpus"),
    [
        (["search.trials=6"], 6.0),
        (["search.trials=6", "search.max_concurrent_trials=2"], 2.0),
        (["search.trials=6", "search.max_concurrent_trials=2", "resources.cpu=0.25"], 0.5),
        (
            ["search.trials=6", "resources.cpu=2"],
            None,
        ),  # Ray would start twice as many workers as trials can use
    ],
)
def test_a_ray_of_our_own_offers_what_the_trials_can_use(
    overrides: list[str], cpus: float | None
) -> None:
    assert _usable_cpus(load_spec(QUICK, overrides)) == cpus


_PROBES = """
import os, sys
from pathlib import Path
import ray
from foldrace.search.tune.session import ray_session
from foldrace.search.spec.sweep_spec import load_spec

class Probe:
    def look(self):
        return os.getpid(), {"ray.tune", "foldrace.search.tune.warm_worker"} <= sys.modules.keys()

spec = load_spec(Path("search/specs/quick.yaml"), ["search.max_concurrent_trials=2"])
with ray_session(None, spec):
    from ray.tune.execution.class_cache import _ActorClassCache
    count = int(ray.cluster_resources()["CPU"])
    actor = _ActorClassCache().get(Probe)  # as Tune makes a trial's
    probes = [actor.options(num_cpus=1).remote() for _ in range(count)]
    seen = dict(ray.get([probe.look.remote() for probe in probes]))
    assert len(seen) == count and all(seen.values()), seen
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    started = (logs / "raylet.out").read_text().count("Started worker process")
    assert started == count, started
"""


@pytest.mark.integration
@pytest.mark.slow
def test_trials_get_the_workers_that_were_started_beforehand() -> None:
    subprocess.run([sys.executable, "-c", _PROBES], check=True, timeout=120)


def test_a_process_that_is_connected_to_a_ray_uses_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from foldrace.search.tune.session import ray_session

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    with ray_session("192.0.2.1:6379"):  # which nothing answers
        pass
