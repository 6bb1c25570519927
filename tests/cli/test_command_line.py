"""The command line: wrong input is one message that names the field, exit status 2, and leaves
nothing behind."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foldrace.cli.app import main

ROOT = Path(__file__).parents[2]
GOOD: dict[str, Any] = {
    "dataset": {"name": "digits", "limit": 200, "size": [12, 12]},
    "epochs": 2,
    "space": {"lr": {"log": [1e-3, 1e-2]}},
    "search": {"trials": 2},
}
BROKEN_TASK = (
    "class Broken:\n    parameters = {'units': 3}\n    def build(self, params, sample_shape):\n   "
    "     "
)
TASKS = {
    "syntax": "class Task(:\n",
    "build": (
        BROKEN_TASK + "raise ValueError('no such layer')\n    def losses(self, m, x, p): ...\n"
    ),
    "no_losses": "class Broken:\n    def build(self, params, sample_shape): ...\n",
    "shape": (
        BROKEN_TASK
        + "import torch; return torch.nn.Identity()\n    def losses(self, m, x, p):\n       "
        " return {'loss': x.mean()}\n"
    ),
    "summary": (
        "import torch\nclass Broken:\n    def build(self, params, sample_shape):\n"
        "        return torch.nn.Conv2d(1, 1, 1)\n    def losses(self, m, x, p):\n"
        "        return {'loss': m(x).square().flatten(1).mean(1)}\n"
        "    def summarise(self, means, params): return "
    ),
}
TASKS |= {"raises": TASKS["summary"] + "{'loss': means['mse']}\n"}
TASKS |= {"forgets": TASKS["summary"] + "{'mse': 1.0}\n"}
TASKS |= {"names": TASKS["summary"] + "{**means, 'a=b': 1.0}\n"}
del TASKS["summary"]


class Place:
    """A folder with a sweep file, and the command line's answer about it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.runs, self.data, self._capsys = (
            folder,
            folder / "runs",
            folder / "data",
            capsys,
        )

    def write(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return str(self.folder / name)

    def save(self, name: str, **arrays: Any) -> str:
        np.savez(self.folder / name, **arrays)
        return str(self.folder / name)

    def ask(self, *arguments: str) -> tuple[int, str, str]:
        status = main(list(arguments))
        captured = self._capsys.readouterr()
        return status, captured.out, captured.err

    def sweep(self, spec: str, *arguments: str) -> tuple[int, str, str]:
        return self.ask(
            "sweep", spec, "--dir", str(self.runs), "--data-dir", str(self.data), *arguments
        )

    def refused(self, spec: str, *arguments: str) -> str:
        """The one message for a sweep that must be refused."""
        before = sorted(self.folder.rglob("*"))
        status, out, err = self.sweep(spec, *arguments)
        assert (status, out) == (2, ""), err
        assert len(re.findall(r"\bError\b:?", err.replace("ValueError", ""))) == 1, err
        assert "Traceback" not in err
        assert not self.runs.exists() and not self.data.exists()
        assert [
            path for path in sorted(self.folder.rglob("*")) if "__pycache__" not in path.parts
        ] == before
        return err


@pytest.fixture
def place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Place:
    for name in ("FOLDRACE_DIR", "FOLDRACE_DATA_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return Place(tmp_path, capsys)


def spec_text(changes: dict[str, Any]) -> str:
    return json.dumps(GOOD | changes)  # JSON is YAML


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"epoch": 3}, "epoch: 3: unknown key; did you mean 'epochs'?"),
    "unknown key below": (
        {"search": {"trails": 3}},
        "search.trails: 3: unknown key; did you mean 'trials'?",
    ),
    "text for a number": ({"epochs": "three"}, "epochs: three: must be a whole number"),
    "a list for a mapping": ({"search": [1]}, "search: [1]: must be a mapping"),
    "no epochs": ({"epochs": 0}, "epochs: 0: must be"),
    "no trials": ({"search": {"trials": 0}}, "search.trials: 0: must be"),
    "lr reversed": ({"space": {"lr": {"log": [1e-2, 1e-3]}}}, "space.lr"),
    "lr below zero": (
        {"space": {"lr": {"uniform": [-1.0, 1.0]}}},
        "space.lr: -1.0: must be a number above 0",
    ),
    "an arm's wrong parameter": (
        {
            "kind": "comparison",
            "comparison": {"arms": {"adam": {"space": {"momentum": 0.9}}, "sgd": {}}},
        },
        "comparison.arms.adam.space.momentum: 0.9: adam has no parameter of that name",
    ),
    "a comparison that stops arms": (
        {
            "kind": "comparison",
            "comparison": {"arms": {"adam": {}, "sgd": {}}},
            "scheduler": {"kind": "stopping"},
        },
        "scheduler.kind: stopping: must be fifo",
    ),
    "empty choice": ({"space": {"optimizer": {"choice": []}}}, "space.optimizer"),
    "unknown distribution": ({"space": {"lr": {"lognormal": [0, 1]}}}, "space.lr"),
    "unknown parameter": ({"space": {"learning_rate": 0.1}}, "space.learning_rate"),
    "unknown optimizer": (
        {"space": {"optimizer": {"choice": ["adam", "sdg"]}}},
        "did you mean 'sgd'?",
    ),
    "momentum for adam": ({"space": {"momentum": {"uniform": [0.1, 0.9]}}}, "space.momentum"),
    "one split": (
        {"folds": {"splits": 1}},
        "folds.splits: 1: must be a whole number at least 2; use kind: holdout",
    ),
    "too many splits": (
        {"folds": {"splits": 201}},
        "folds.splits: 201: more splits than the 200 training samples",
    ),
    "groups without groups": ({"folds": {"kind": "group"}}, "folds.kind: group: needs groups"),
    "unknown fold kind": ({"folds": {"kind": "kfolds"}}, "folds.kind: kfolds: must be one of"),
    "unknown data set": (
        {"dataset": "digit"},
        "dataset: digit: unknown data set; did you mean 'digits'?",
    ),
    "no data set": ({"dataset": None}, "dataset"),
    "data set not there": ({"dataset": "./nothing.npz"}, "dataset: "),
    "limit too high": (
        {"dataset": {"name": "digits", "limit": 5000}},
        "dataset.limit: 5000: must be at most",
    ),
    "images too small": ({"dataset": {"name": "digits", "size": [7, 12]}}, "dataset: 1×7×12"),
    "unknown task": (
        {"task": "autoencodr"},
        "task: autoencodr: unknown task; did you mean 'autoencoder'?",
    ),
    "no task file": ({"task": "./nothing.py:Task"}, "no such file"),
    "unknown objective": ({"objective": "msse"}, "objective: msse"),
    "too many processors": (
        {"resources": {"cpu": 4096}},
        "resources.cpu: 4096.0: a trial asks for more CPUs",
    ),
    "a start off the space": (
        {"search": {"start_with": [{"lr": 0.5}]}},
        "search.start_with[0].lr: 0.5",
    ),
    "grace beyond the end": (
        {"scheduler": {"grace_epochs": 3}},
        "scheduler.grace_epochs: 3: must be at most",
    ),
    "unknown scheduler": ({"scheduler": {"kind": "asha"}}, "scheduler.kind: asha: must be one of"),
    "a name that is a path": ({"name": "../x"}, "name: ../x"),
    "dropout too high": ({"space": {"dropout": 2.5}}, "space.dropout: 2.5: must be"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_sweep_is_refused_in_one_message_and_leaves_nothing_behind(
    place: Place, kind: str
) -> None:
    changes, message = WRONG[kind]
    err = place.refused(place.write("wrong.yaml", spec_text(changes)))
    assert err.startswith("Error: ")
    assert message in err
    assert err.strip().count("\n") == 0


def test_several_mistakes_are_a_line_each(place: Place) -> None:
    err = place.refused(
        place.write(
            "wrong.yaml", spec_text({"epochs": 0, "folds": {"splits": 1}, "colour": "red"})
        )
    )
    assert len(err.strip().splitlines()) == 3
    assert all(field in err for field in ("epochs: 0", "folds.splits: 1", "colour: red"))


def test_a_missing_file_is_answered_with_the_nearest(place: Place) -> None:
    path = place.write("sweep.yaml", spec_text({}))
    assert f"did you mean {path}?" in place.refused(path.replace("sweep", "sweeps"))
    assert "is a folder" in place.refused(str(place.folder))


@pytest.mark.parametrize(
    "text", ["a: [1, 2", "a: {b", "\ta: 1", "a: 1\na: 2", "- 1", "just words", "", "a: *b"]
)
def test_broken_yaml_is_refused_with_its_file(place: Place, text: str) -> None:
    path = place.write("broken.yaml", text)
    assert path in place.refused(path)


@pytest.mark.parametrize(
    "override", ["search.trials=0", "search.trials", "=3", "search.trials=[", "colour=red"]
)
def test_a_wrong_override_is_refused(place: Place, override: str) -> None:
    err = place.refused(place.write("sweep.yaml", spec_text({})), "--set", override)
    assert "search.trials" in err or "--set" in err or "colour" in err


@pytest.mark.parametrize("arguments", [["--colour", "red"], ["--set"], ["more", "words"]])
def test_wrong_options_are_refused(place: Place, arguments: list[str]) -> None:
    err = place.refused(place.write("sweep.yaml", spec_text({})), *arguments)
    assert arguments[0] in err or "unexpected extra argument" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 not all of it", "is not a .npz file, or not a complete one"),
        ({"images": np.full((40, 12, 12), np.nan)}, "images"),
        ({"images": np.full((40, 12, 12), 7.0)}, "images"),
        ({"images": np.zeros((0, 12, 12), np.uint8)}, "images"),
        ({"pictures": np.zeros((40, 12, 12), np.uint8)}, "call an array of grey images images"),
        ({"images": np.zeros((40, 12, 12), np.uint8), "labels": np.zeros(39, int)}, "labels"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "arrays of Python objects are not read"),
    ],
    ids=[
        "truncated",
        "NaN",
        "out of range",
        "empty",
        "another key",
        "labels too short",
        "pickled",
    ],
)
def test_wrong_data_of_the_users_is_refused(
    place: Place, content: bytes | dict[str, Any], message: str
) -> None:
    path = place.folder / "mine.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    err = place.refused(place.write("sweep.yaml", spec_text({"dataset": "./mine.npz"})))
    assert err.startswith("Error: dataset: ")
    assert message in err


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("./syntax.py:Task", "does not import: SyntaxError"),
        (
            "./build.py:Broken",
            "fails on two samples of shape (1, 12, 12): ValueError: no such layer",
        ),
        ("./build.py:Brokn", "has no Brokn; did you mean 'Broken'?"),
        ("./no_losses.py:Broken", "has no method losses"),
        ("./shape.py:Broken", "losses() must give one value per sample"),
        ("./raises.py:Broken", "summarise() fails on the means of two samples: KeyError: 'mse'"),
        ("./forgets.py:Broken", "summarise() returns no 'loss'"),
        ("./names.py:Broken", "summarise() names a metric 'a=b'"),
    ],
)
def test_a_broken_task_of_the_users_is_refused(place: Place, task: str, message: str) -> None:
    for name, text in TASKS.items():
        place.write(f"{name}.py", text)
    err = place.refused(place.write("sweep.yaml", spec_text({"task": task})))
    assert err.startswith("Error: task: ")
    assert message in err


def test_a_starting_point_that_would_not_be_tried_is_refused(place: Place) -> None:
    search = {"trials": 3, "start_with": [{"lr": 1e-3}, {"lr": 2e-3}, {"lr": 0.001}]}
    err = place.refused(place.write("sweep.yaml", spec_text({"search": search})))
    assert err.startswith("Error: search.start_with[2]: lr=0.001: is the same configuration as")


def test_a_gpu_is_refused_where_there_is_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldrace.search.preparing.prepare.count_gpus", lambda: 0)
    err = place.refused(place.write("sweep.yaml", spec_text({"resources": {"gpu": 0.5}})))
    assert (
        "resources.gpu: 0.5: a trial asks for more GPUs than there are (0); set resources.gpu: 0"
        in err
    )


def test_a_folder_of_sweeps_that_cannot_be_one_is_refused(place: Place) -> None:
    spec, taken = place.write("sweep.yaml", spec_text({})), place.write("taken", "a file")
    status, out, err = place.ask("sweep", spec, "--dir", taken, "--data-dir", str(place.data))
    assert (status, out) == (2, "")
    assert err.count("Error") == 1 and taken in err


@pytest.mark.parametrize("address", ["s3://bucket/runs", "gs://b", "hdfs://h/x", "file://x"])
@pytest.mark.parametrize("option", ["--dir", "--data-dir"])
@pytest.mark.parametrize("command", ["sweep", "submit"])
def test_object_storage_is_no_folder(
    command: str,
    option: str,
    address: str,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place.folder)
    place.write("sweep.yaml", spec_text({}))
    assert main([command, "sweep.yaml", option, address]) == 2
    _, err = capsys.readouterr()
    assert f"Error: {option}: {address}: must be a folder; object storage is not one" in err
    assert [path.name for path in place.folder.iterdir()] == ["sweep.yaml"]


def test_a_tracking_server_that_does_not_answer_is_refused(place: Place) -> None:
    err = place.refused(
        place.write("sweep.yaml", spec_text({})), "--tracking-uri", "http://127.0.0.1:9"
    )
    assert "http://127.0.0.1:9" in err


def test_a_cluster_that_does_not_answer_is_refused_in_good_time(place: Place) -> None:
    command = [sys.executable, "-m", "foldrace", "sweep", place.write("sweep.yaml", spec_text({}))]
    done = subprocess.run(
        [*command, "--dir", str(place.runs), "--address", "127.0.0.1:9"],
        cwd=place.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=45,
    )
    assert done.returncode == 2
    assert "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr
    assert not place.runs.exists()


def test_a_wrong_sweep_starts_neither_ray_nor_mlflow_nor_torch(place: Place) -> None:
    """A mistake in the file is answered before anything heavy is imported."""
    kinds = [
        "unknown key",
        "lr reversed",
        "momentum for adam",
        "unknown data set",
        "unknown task",
        "data set not there",
    ]
    specs = [place.write(f"{i}.yaml", spec_text(WRONG[kind][0])) for i, kind in enumerate(kinds)]
    script = (
        "import sys\nfrom foldrace.cli.app import main\nfor spec in sys.argv[1:]:\n    status ="
        " main(['sweep', spec])\n    heavy = [m for m in ('ray', 'mlflow', 'torch', 'optuna',"
        " 'pandas', 'sklearn') if m in sys.modules]\n    print(status, heavy)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [sys.executable, "-c", script, *specs],
        cwd=place.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert printed.splitlines() == ["2 []"] * len(kinds)


# --- the other commands --------------------------------------------------------------------------


def test_schema_is_the_one_in_the_repository(place: Place) -> None:
    status, out, _ = place.ask("schema")
    assert status == 0
    assert json.loads(out) == json.loads((ROOT / "search" / "specs" / "schema.json").read_text())


def test_data_lists_what_there_is_and_fetches_nothing(place: Place) -> None:
    status, out, _ = place.ask("data", "--data-dir", str(place.data))
    assert status == 0
    assert all(name in out for name in ("digits", "fashion-mnist", "kmnist", "mnist", "cifar10"))
    assert "not fetched" in out and "built in" in out
    assert not place.data.exists()


def test_data_of_an_unknown_name(place: Place) -> None:
    status, _, err = place.ask("data", "fashion-mnst", "--data-dir", str(place.data))
    assert status == 2
    assert "did you mean 'fashion-mnist'?" in err
    assert not place.data.exists()


def test_data_of_a_folder_shows_what_is_understood_and_what_is_left_out(place: Place) -> None:
    from PIL import Image

    for part, count in (("Training/cat", 6), ("Training/dog", 5), ("Testing/cat", 2)):
        (place.folder / "pets" / part).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (5, 6), 100).save(place.folder / "pets" / part / f"{i}.png")
    (place.folder / "pets" / "labels.csv").write_text("")
    status, out, err = place.ask("data", str(place.folder / "pets"))
    assert status == 0
    assert "training part  11 samples: cat (6), dog (5)" in out
    assert "test part      2 samples, a part of its own: cat (2)" in out
    assert "1 × 6 × 5" in out
    assert "left out, not an image by the ending of the name (1): labels.csv" in err
    status, out, _ = place.ask("data", str(place.folder / "pets"), "--size", "3", "4")
    assert status == 0 and "1 × 3 × 4" in out
    assert place.ask("data", "--size", "3", "4")[0] == 2
    (place.folder / "pets" / "Training" / "cat" / "0.png").write_text("no image")
    status, out, err = place.ask("data", str(place.folder / "pets"))
    assert (status, out) == (2, "") and "0.png: cannot be read" in err and err.count("\n") == 1


@pytest.mark.parametrize("command", ["refit", "status", "ui", "resume"])
def test_a_command_on_an_empty_folder_says_how_to_begin(place: Place, command: str) -> None:
    status, out, err = place.ask(command, "--dir", str(place.runs))
    assert (status, out) == (2, "")
    assert re.search(
        r"no sweep here.*start one with `foldrace sweep`, or name its folder with --dir", err
    )
    assert not place.runs.exists()


@pytest.mark.parametrize("command", ["refit", "resume"])
def test_a_sweep_that_is_not_there(place: Place, command: str) -> None:
    (place.runs / "conv-ae").mkdir(parents=True)
    (place.runs / "conv-ae" / "sweep.yaml").write_text(spec_text({}))
    status, _, err = place.ask(command, "conv-ea", "--dir", str(place.runs))
    assert status == 2
    assert "conv-ea: no such sweep" in err and "did you mean 'conv-ae'?" in err


def test_a_sweep_that_has_not_ended_has_no_winner(place: Place) -> None:
    (place.runs / "ae").mkdir(parents=True)
    (place.runs / "ae" / "sweep.yaml").write_text(spec_text({}))
    status, _, err = place.ask("refit", "--dir", str(place.runs))
    assert status == 2
    assert "ae: the sweep has not ended" in err
    status, _, err = place.ask("resume", "--dir", str(place.runs))
    assert status == 2
    assert "ae: its state.json cannot be read" in err


@pytest.mark.parametrize("arguments", [["--colour"], ["swep"], ["ui", "--port", "0"]])
def test_wrong_usage_is_status_2_with_one_message(place: Place, arguments: list[str]) -> None:
    status, _, err = place.ask(*arguments)
    assert status == 2
    assert err.count("Error") == 1 and "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["doctor", "--help"]])
def test_help(place: Place, arguments: list[str]) -> None:
    status, out, err = place.ask(*arguments)
    assert (status, err) == (0, "")
    assert "Usage" in out


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_that_says_how_to_go_on(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        try:
            raise OSError(number, "No space left on device", "/runs/ae/spool")
        except OSError:
            raise RuntimeError("what lies above tells it in its own words")  # noqa: B904

    monkeypatch.setattr("foldrace.search.spec.sweep_spec.json_schema", full)
    assert main(["schema"]) == 2
    said = capsys.readouterr().err
    assert (
        "the disk is full (/runs/ae/spool)" in said
        and "foldrace resume" in said
        and "Traceback" not in said
    )


def test_another_error_of_the_system_is_not_taken_for_a_full_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("foldrace.search.spec.sweep_spec.json_schema", broken)
    with pytest.raises(OSError, match="Input/output"):
        main(["schema"])
