from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
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


# A driver without GPUs that notes when CUDA starts, and what CUDA_VISIBLE_DEVICES is then.
_FAKE_DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) {
    const char *path = getenv("FAKE_CUDA_LOG"), *shown = getenv("CUDA_VISIBLE_DEVICES");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) { fprintf(file, "%s\\n", shown ? shown : "unset"); fclose(file); }
    return 100;
}
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetProcAddress_v2(const char *name, void **found, int v, unsigned long f, int *status) {
    *found = NULL;
    if (!strcmp(name, "cuInit")) *found = (void *)cuInit;
    if (!strcmp(name, "cuDriverGetVersion")) *found = (void *)cuDriverGetVersion;
    if (!strcmp(name, "cuGetProcAddress")) *found = (void *)cuGetProcAddress_v2;
    if (*found && status) *status = 0;
    return *found ? 0 : 500;
}
"""


@pytest.fixture
def fake_driver(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds the fake driver; its notes are in ``cuda.log``."""
    (tmp_path / "cuda.c").write_text(_FAKE_DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
    log = str(tmp_path / "cuda.log")
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    return environment | {"LD_LIBRARY_PATH": str(tmp_path), "FAKE_CUDA_LOG": log}


_HAS_COMPILER = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
_PRELOAD = """
import os, sys
import torch, ray.tune, foldrace.search.tune.warm_worker
if sys.argv[1:]:
    torch.ones(1, requires_grad=True).sum().backward()
assert "torch._dynamo" in sys.modules  # the long import of an optimizer's first step
os.environ["CUDA_VISIBLE_DEVICES"] = "5"
torch.cuda.is_available()
"""


@_HAS_COMPILER
@pytest.mark.parametrize(("trained", "noted"), [([], ["5"]), (["before"], ["unset"])])
def test_what_ray_imports_beforehand_does_not_start_cuda(
    trained: list[str], noted: list[str], fake_driver: dict[str, str]
) -> None:
    """A backward pass does: so the test can fail."""
    subprocess.run([sys.executable, "-c", _PRELOAD, *trained], env=fake_driver, check=True)
    assert Path(fake_driver["FAKE_CUDA_LOG"]).read_text().split() == noted


_GPU_PROBES = """
import functools
from pathlib import Path
import ray
from foldrace.search.tune.session import ray_session
from foldrace.search.spec.sweep_spec import load_spec

class Probe:
    def look(self):
        import torch
        torch.ones(1, requires_grad=True).sum().backward()
        return sorted(map(str, ray.get_gpu_ids()))

ray.init = functools.partial(ray.init, num_gpus=2)
spec = load_spec(Path("search/specs/quick.yaml"), ["search.max_concurrent_trials=2"])
with ray_session(None, spec):
    from ray.tune.execution.class_cache import _ActorClassCache
    actor = _ActorClassCache().get(Probe)
    probes = [actor.options(num_cpus=1, num_gpus=1).remote() for _ in range(2)]
    assert sorted(ray.get([probe.look.remote() for probe in probes])) == [["0"], ["1"]]
"""


@_HAS_COMPILER
@pytest.mark.integration
@pytest.mark.slow
def test_cuda_starts_in_a_worker_once_ray_has_assigned_its_gpu(
    fake_driver: dict[str, str],
) -> None:
    subprocess.run([sys.executable, "-c", _GPU_PROBES], env=fake_driver, check=True, timeout=300)
    assert sorted(Path(fake_driver["FAKE_CUDA_LOG"]).read_text().split()) == ["0", "1"]
