"""What is a user's is sent to workers by value, or refused before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foldrace.errors import InputError
from foldrace.search.preparing.pickling import pickle_by_value
from foldrace.search.preparing.prepare import prepare
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.trainables.tasks.loading import load_task
from tests.helpers.sweeps import environment

NET = """
import torch

class Net:
    def build(self, params, sample):
        return torch.nn.Linear(sample["x"].shape[0], 1)

    def losses(self, model, batch, params):
        return {"loss": model(batch["x"])[:, 0].square()}
"""
DATA = """
import threading, torch
from torch.utils.data import TensorDataset

LOCK = threading.Lock()

class Locked(TensorDataset):
    def __getitem__(self, index):
        with LOCK:
            return super().__getitem__(index)

def locked():
    return Locked(torch.rand(30, 3), torch.rand(30))

def open_ones():
    return TensorDataset(torch.rand(30, 3), torch.rand(30))
"""
SWEEP = """
task: ./{task}
dataset: {{name: "./items.py:{data}", workers: 0}}
epochs: 1
space: {{lr: 0.1, batch_size: 16}}
"""
WORKER = """
import pickle, sys
print(pickle.load(open(sys.argv[1], "rb")).build({}, {"x": type("I", (), {"shape": (3,)})}))
"""

SAYING = """
import pickle, sys
from types import SimpleNamespace as Any
print(pickle.load(open(sys.argv[1], "rb")).build({}, Any(target=Any(classes=7))))
"""


def write(folder: Path, task: str = "made.py:task", data: str = "open_ones") -> Path:
    (folder / "base_net.py").write_text(NET)
    (folder / "made.py").write_text("from base_net import Net\ntask = Net()\n")
    (folder / "locked.py").write_text(
        f"import threading\n{NET}\nLOCK = threading.Lock()\n\nclass Own(Net):\n"
        "    def losses(self, model, batch, params):\n"
        "        with LOCK:\n            return super().losses(model, batch, params)\n"
    )
    (folder / "items.py").write_text(DATA)
    (folder / "sweep.yaml").write_text(SWEEP.format(task=task, data=data))
    return folder / "sweep.yaml"


def test_an_instance_of_a_class_from_beside_its_file_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    prepared = prepare(load_spec(write(tmp_path)), tmp_path)
    (tmp_path / "task.pkl").write_bytes(cloudpickle.dumps(prepared.task.implementation))
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            cloudpickle.unregister_pickle_by_value(sys.modules.pop(name))
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path / "task.pkl")],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=tmp_path / "elsewhere",
    )
    assert "in_features=3" in done.stdout, done.stderr


def test_a_task_that_says_what_a_submodule_of_torch_is_called_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sample.target.classes` beside `import torch`: there is a module torch.classes."""
    from ray import cloudpickle

    monkeypatch.setattr(sys, "path", [*sys.path])
    text = NET.replace('sample["x"].shape[0]', "sample.target.classes")
    (tmp_path / "classes.py").write_text(text.replace("Linear", "Embedding"))
    task = load_task(f"{tmp_path}/classes.py:Net")
    module = sys.modules[type(task.implementation).__module__]
    pickle_by_value([module])
    try:
        (tmp_path / "task.pkl").write_bytes(cloudpickle.dumps(task.implementation))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    done = subprocess.run(
        [sys.executable, "-c", SAYING, str(tmp_path / "task.pkl")],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert "Embedding(7, 1)" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("task", "data", "said"),
    [
        ("made.py:task", "locked", "dataset: .*cannot be sent to workers: TypeError.*lock"),
        ("locked.py:Own", "open_ones", "task: .*cannot be sent to workers: TypeError.*top of the"),
    ],
)
def test_what_cannot_travel_is_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, data: str, said: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(InputError, match=said) as raised:
        prepare(load_spec(write(tmp_path, task, data)), tmp_path)
    assert "\n" not in str(raised.value)
