"""A user's task is loaded, checked, and sent to workers that do not have its file."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from foldrace.errors import InputError
from foldrace.trainables.tasks.autoencoder import AutoencoderTask
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.tasks.parameters import TRAINING_PARAMETERS, Parameter
from foldrace.trainables.tasks.protocol import Task
from tests.helpers.images import image_sample

SOURCE = """
from torch import nn
from foldrace.errors import InputError
from foldrace.trainables.tasks.parameters import Parameter

HELPER = 3

class Mine:
    objective = "mae"
    parameters = {"units": 4, "rate": Parameter(0.5, "a share", low=0.0, below=1.0)}

    def check(self, params, sample_shape):
        if params["units"] > 9:
            raise InputError("parameters.units", params["units"], "too many for me")

    def build(self, params, sample_shape):
        return nn.Linear(sample_shape[1] * sample_shape[2], HELPER)

    def losses(self, model, images, params):
        loss = model(images.flatten(1)).square().mean(1)
        return {"loss": loss, "mae": loss.sqrt()}

class NoLosses:
    def build(self, params, sample_shape): ...

class Nothing: ...

class Clash(Mine):
    parameters = {"momentum": 1.0}

class NeedsArguments(Mine):
    def __init__(self, size): ...

ready = Mine()
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_models.py"
    path.write_text(SOURCE)
    return path


def test_the_built_in_task():
    task = load_task("autoencoder")
    assert isinstance(task.implementation, AutoencoderTask) and isinstance(
        task.implementation, Task
    )
    assert (task.reference, task.name, task.objective) == ("autoencoder", "AutoencoderTask", "mse")
    assert task.reconstructs
    assert set(task.declared) == set(TRAINING_PARAMETERS) | set(AutoencoderTask.parameters)


def test_a_task_in_a_module():
    task = load_task("foldrace.trainables.tasks.autoencoder:AutoencoderTask")
    assert isinstance(task.implementation, AutoencoderTask)


def test_a_task_in_a_file_with_plain_defaults_and_declared_ranges(file):
    task = load_task(f"{file}:Mine")
    assert (task.name, task.objective, task.reconstructs) == ("Mine", "mae", False)
    assert task.parameters == {
        "units": Parameter(4),
        "rate": Parameter(0.5, "a share", low=0.0, below=1.0),
    }
    params = task.complete({"units": 7})
    assert (params["units"], params["rate"], params["lr"]) == (7, 0.5, 1e-3)
    with pytest.raises(
        InputError, match=r"space\.rate: 1: must be a number at least 0 and below 1"
    ):
        task.complete({"rate": 1}, "space")
    with pytest.raises(InputError, match="too many for me"):
        task.check({"units": 10}, image_sample(1, 8, 8))
    task.check({"units": 9}, image_sample(1, 8, 8))


def test_an_instance_will_do_as_well_as_a_class(file):
    assert load_task(f"{file}:ready").name == "Mine"


def test_a_relative_path_and_a_home_are_understood(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert load_task("./my_models.py:Mine").name == load_task("my_models.py:Mine").name == "Mine"
    monkeypatch.setenv("HOME", str(file.parent))
    assert load_task("~/my_models.py:Mine").name == "Mine"


def test_a_file_is_imported_under_a_private_name(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "json.py").write_text(f"WHERE = {folder!r}\n" + SOURCE)
    path = list(sys.path)
    one, two = (
        type(load_task(f"{tmp_path}/{folder}/json.py:Mine").implementation)
        for folder in ("one", "two")
    )
    assert one.__module__ != two.__module__
    assert (sys.modules[one.__module__].WHERE, sys.modules[two.__module__].WHERE) == ("one", "two")
    assert one.__module__.startswith("_foldrace_json_")
    import json

    assert json.loads("[1]") == [1]
    # what lies beside a task can be imported, but hides nothing
    assert sys.path == [*path, *(f"{tmp_path}/{folder}" for folder in ("one", "two"))]
    sys.path[:] = path


def test_an_edited_file_is_read_anew(file):
    assert load_task(f"{file}:Mine").parameters["units"].default == 4
    file.write_text(SOURCE.replace('"units": 4', '"units": 5555'))
    assert load_task(f"{file}:Mine").parameters["units"].default == 5555


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "autoencodr",
            (
                r"^task: autoencodr: unknown task; did you mean 'autoencoder'\? .*; or"
                r" \./file\.py:ClassName"
            ),
        ),
        ("{folder}/missing.py:Mine", r"^task: .*missing\.py: no such file"),
        ("{folder}:Mine", "does not import"),
        ("{file}:Mime", r"has no Mime; did you mean 'Mine'\?"),
        ("{file}:NoLosses", r"NoLosses has no method losses$"),
        ("{file}:Nothing", r"Nothing has no method build and no method losses"),
        ("{file}:HELPER", "HELPER has no method build and no method losses"),
        ("{file}:Clash", "its parameter momentum is already one of the training's; rename it"),
        (
            "no_such_package.there:Mine",
            "module no_such_package.there does not import: ModuleNotFoundError",
        ),
        ("json:Mine", "json has no Mine"),
    ],
)
def test_what_cannot_be_loaded_is_refused(file, reference, message):
    with pytest.raises(InputError, match=message) as caught:
        load_task(reference.format(file=file, folder=file.parent))
    assert caught.value.field == "task"


def test_a_task_that_cannot_be_made_without_arguments_is_refused(file):
    with pytest.raises(InputError, match="NeedsArguments"):
        load_task(f"{file}:NeedsArguments")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_thing",
            "does not import: ModuleNotFoundError: No module named 'no_such_thing'",
        ),
        ("def f(:", "does not import: SyntaxError"),
        ("1 / 0", "does not import: ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_does_not_import_is_named_with_the_reason(tmp_path, text, message):
    path = tmp_path / "broken.py"
    path.write_text(text)
    known = set(sys.modules)
    with pytest.raises(InputError, match=rf"broken\.py: {message}"):
        load_task(f"{path}:Mine")
    assert not {name for name in set(sys.modules) - known if "broken" in name}


WORKER = """
import pickle, sys
import torch
with open(sys.argv[1], "rb") as file:
    task = pickle.load(file)
params = task.complete({})
torch.manual_seed(0)
model = task.implementation.build(params, (1, 8, 8))
losses = task.implementation.losses(model, torch.ones(2, 1, 8, 8), params)
print(task.name, params["units"], tuple(losses["mae"].shape))
"""


def test_a_task_travels_to_a_worker_that_does_not_have_its_file(file, tmp_path):
    import ray.cloudpickle as cloudpickle

    task = load_task(f"{file}:Mine")
    module = sys.modules[type(task.implementation).__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        parcel = tmp_path / "task.pkl"
        parcel.write_bytes(cloudpickle.dumps(task))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    file.unlink()
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, str(parcel)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert worker.stdout == "Mine 4 (2,)\n", worker.stderr


def test_the_digest_is_that_of_the_users_code(file):
    digests = []
    for more in ("", "", "CHANGED = 1\n"):
        file.write_text(SOURCE + more)
        task = load_task(f"{file}:Mine")
        assert task.sources == {"my_models.py": SOURCE + more}
        digests.append(task.digest)
    assert digests[0] == digests[1] != digests[2] and digests[0]
    assert load_task("autoencoder").digest == ""


@pytest.mark.parametrize(
    "line", ["from trainables.layers import Conv2d", "import foldrace.trainables.layers"]
)
def test_a_name_that_foldrace_no_longer_has_is_answered_with_the_one_that_it_has(line, tmp_path):
    (tmp_path / "old.py").write_text(line + "\n")
    with pytest.raises(InputError, match="from foldrace import layers"):
        load_task(f"{tmp_path}/old.py:Task")
