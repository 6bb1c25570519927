"""Every command on a recorded sweep whose file, task or data have changed since: what computes is
refused, and what only reads still reads."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer

from foldrace.cli.app import app, main
from foldrace.search.preparing.prepare import prepare
from foldrace.search.recording.events import now_ms
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.tracking import connect, tracking_uri
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.sweeps import run as runs
from foldrace.search.sweeps.begin import NewSweep
from foldrace.search.sweeps.run import SweepRun
from foldrace.search.tune.callback import RunningSweep
from foldrace.search.tune.interrupts import Interrupt
from foldrace.search.tune.state import TrialRecord, TrialStatus
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, save_checkpoint_file
from tests.helpers.stores import write_tables

ROOT = Path(__file__).parents[2]

COMPUTE = {
    "resume": ["resume"],
    "extend": ["extend", "--epochs", "4"],
    "refit": ["refit"],
    "report": ["report", "--trial", "0"],
    "replay": ["replay", "mine", "0"],
}
"""Commands that train or evaluate under a recorded sweep's name."""
READ = {
    "status": ["status"],
    "report": ["report"],
    "sync": ["sync"],
    "curves": ["curves", "-o", "{root}/curves.npz"],
}
"""Commands that show or deliver what is recorded."""
ELSEWHERE = {
    "sweep": "begins a sweep",
    "study": "resumes by `resume_sweep` and refits by `refit`, which are tried here",
    "simulate": "reads a file of curves",
    "data": "knows no sweep",
    "schema": "knows no sweep",
    "ui": "becomes MLflow's server",
    "doctor": "knows no sweep",
    **dict.fromkeys(
        ["tunnel", "submit", "attach", "logs", "stop", "list", "cluster init", "cluster check"],
        "runs another command on a cluster",
    ),
}

TASK = """
from helpers.scale import scaled
from torch import nn

class Mine:
    objective = "loss"
    parameters = {"units": 4, "label": "None"}

    def build(self, params, sample_shape):
        size = sample_shape[0] * sample_shape[1] * sample_shape[2]
        return nn.Sequential(
            nn.Flatten(), nn.Linear(size, params["units"]), nn.ReLU(), nn.Linear(4, size)
        )

    def losses(self, model, images, params):
        return {"loss": scaled((model(images) - images.flatten(1)).square().mean(1))}

    def encode(self, model, images, params):
        return model[:2](images)
"""
HELPER = "def scaled(loss):\n    return loss * 2.0\n"
SPEC = """
name: mine
task: ./my_models.py:Mine
dataset: ./data.npz
folds: {splits: 2}
epochs: 3
space:
  lr: {choice: [0.01, 0.02]}
  eps: {choice: [null, 1.0e-8]}
  units: 4
  label: {choice: ["None", "True", "1e3", "7"]}
search: {trials: 2}
"""
PARAMS: dict[str, Any] = {"lr": 0.01, "eps": None, "units": 4, "label": "1e3"}


def commands(group: typer.Typer, above: str = "") -> Iterator[str]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield above + (command.name or command.callback.__name__)
    for below in group.registered_groups:
        assert below.typer_instance is not None
        yield from commands(below.typer_instance, above + (f"{below.name} " if below.name else ""))


def test_every_command_is_tried_here_or_has_a_reason() -> None:
    assert set(commands(app)) == {*COMPUTE, *READ, *ELSEWHERE}


def test_the_file_of_a_recorded_sweep_is_read_at_one_place() -> None:
    """Whoever computes with a recorded sweep has to take its specification from the door."""
    pattern = re.compile(r"(load_spec|read_file)\([\w.]*\.spec\b|folder\.spec\.read_text")
    places = {
        path.relative_to(ROOT).as_posix(): len(pattern.findall(path.read_text()))
        for room in ("foldrace", "search", "analysis", "cluster")
        for path in (ROOT / room).rglob("*.py")
    }
    assert {path: count for path, count in places.items() if count} == {
        "search/preparing/recorded.py": 1,
        "search/sweeps/begin.py": 1,  # to record it, if a state of an earlier version lacks it
    }


class Project:
    """A user's folder with a task, its helper, data, and a sweep of them that has ended."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, root / "runs"
        self.folder = self.runs / "mine"

    def write(self) -> None:
        (self.root / "helpers").mkdir()
        (self.root / "helpers" / "scale.py").write_text(HELPER)
        (self.root / "my_models.py").write_text(TASK)
        (self.root / "sweep.yaml").write_text(SPEC)
        self.save_data(0)

    def save_data(self, seed: int) -> None:
        images = np.random.default_rng(seed).integers(0, 256, (24, 6, 6), dtype=np.uint8)
        np.savez(self.root / "data.npz", images=images[:16], test_images=images[16:])

    def run(self) -> None:
        """Trains one trial in this process, and records it as a sweep's best."""
        prepared = prepare(load_spec(self.root / "sweep.yaml"), self.root)
        write_tables(self.runs)
        source = NewSweep(prepared, self.runs, tracking_uri(self.runs))
        view: Any = lambda: nullcontext(SimpleNamespace())  # noqa: E731
        OneTrial(prepared, source, view, None).execute()

    def ask(self, arguments: list[str]) -> int:
        places = ["--dir", str(self.runs)]
        if arguments[0] in COMPUTE:
            places += ["--data-dir", str(self.root)]
        return main([*(part.format(root=self.root) for part in arguments), *places])

    def record(self) -> dict[str, tuple[Any, ...]]:
        """All runs with their metrics and statuses, and all registered models."""
        client = connect(f"sqlite:///{self.runs}/mlflow.db")
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        found = {
            str(run.info.run_id): (run.info.status, run.data.metrics, run.data.tags)
            for run in client.search_runs(ids, max_results=1000)
        }
        return found | {f"model {one.name}": () for one in client.search_registered_models()}


class OneTrial(SweepRun):
    """A sweep whose only trial is trained here, without Ray."""

    def run(self, sweep: RunningSweep, interrupt: Interrupt) -> dict[int, Path]:
        cv = self.work.cross_validation(PARAMS, self.work.samples_on())
        record = TrialRecord(0, PARAMS)
        completed = self.prepared.task.complete(PARAMS)
        complete = {name: value for name, value in completed.items() if value is not None}
        sweep.events.started(0, {**PARAMS, **complete})
        while not cv.finished:
            record.report = cv.advance()
            sweep.events.reported(0, record.report, None, now_ms(), 1)
        assert record.report is not None
        record.status = TrialStatus.COMPLETED
        self.trials.note(record)
        sweep.events.finished(0, Outcome.COMPLETED, record.report.folds)
        place = self.folder.tune / "trial-0000" / "checkpoint_000000"
        place.mkdir(parents=True)
        state = {"trial": 0, "params": PARAMS, "cross_validation": cv.state_dict()}
        save_checkpoint_file(place / CHECKPOINT_FILE, state)
        return {0: place}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    known = set(sys.modules)
    made = Project(tmp_path_factory.mktemp("project"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "FOLDRACE_DIR", "FOLDRACE_DATA_DIR", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        patch.setattr(runs, "ray_session", lambda *_: nullcontext())
        patch.setattr(runs, "machines", lambda: [{"CPU": 2.0, "GPU": 0.0}])
        patch.setattr("foldrace.search.tune.session.ray_session", no_ray)
        patch.syspath_prepend(str(made.root))
        made.write()
        made.run()
        yield made
    for name in set(sys.modules) - known:
        if name.startswith(("helpers", "_foldrace_")):
            del sys.modules[name]


def no_ray(*_: object) -> None:
    raise AssertionError("Ray was started for a sweep that has to be refused")


def change(file: str, before: str, after: str) -> Callable[[Project], None]:
    def apply(project: Project) -> None:
        path = project.root / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return apply


CHANGES: dict[str, tuple[Callable[[Project], None], str]] = {
    "task": (change("my_models.py", "nn.ReLU()", "nn.Tanh()"), "has changed.*my_models.py"),
    "helper": (change("helpers/scale.py", "2.0", "3.0"), r"has changed.*helpers\.scale"),
    "file": (change("runs/mine/sweep.yaml", "epochs: 3", "epochs: 2"), "epochs was 3 and is 2"),
    "space": (change("runs/mine/sweep.yaml", "0.02", "0.03"), "space.lr.choice was .* and is"),
    "data": (lambda project: project.save_data(1), "not the data that mine ran on"),
}


@pytest.fixture(params=CHANGES)
def changed(request: pytest.FixtureRequest, project: Project) -> Iterator[tuple[Project, str]]:
    """The project with one thing changed, and what has to be said about it."""
    files = [path for path in project.root.rglob("*") if path.suffix in (".py", ".yaml", ".npz")]
    before = {path: path.read_bytes() for path in files}
    apply, said = CHANGES[request.param]
    apply(project)
    yield project, said
    for path, content in before.items():
        path.write_bytes(content)


@pytest.mark.parametrize("command", COMPUTE)
def test_what_computes_is_refused_before_anything(
    command: str, changed: tuple[Project, str], capsys: pytest.CaptureFixture[str]
) -> None:
    project, said = changed
    result, before = project.folder / "result.json", project.record()
    kept = result.read_bytes()
    if command == "resume":
        result.unlink()
    try:
        assert project.ask(COMPUTE[command]) == 2
    finally:
        result.write_bytes(kept)
    captured = capsys.readouterr()
    message = " ".join(captured.err.split())
    assert re.search(said, message) and "back" in message and "new sweep" in message, message
    if "its code has changed" in message:
        assert "runs/" in message and "code has it as it was" in message
        assert (project.folder / "code" / "my_models.py").is_file()
    assert "Traceback" not in message and not captured.out
    assert project.record() == before


@pytest.mark.parametrize("command", READ)
def test_what_only_reads_still_reads(command: str, changed: tuple[Project, str]) -> None:
    project, _ = changed
    before = project.record()
    assert project.ask(READ[command]) == (2 if command == "curves" else 0)  # too few trials
    assert project.record() == before


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("params", "lr"), 0.02, "lr is 0.02 in result.json"),
        (("best_epochs",), [9, 9], r"its best epochs are \[9, 9\] in result.json, and \["),
        (("score", "mean"), 0.125, "its score is 0.125 in result.json, and "),
    ],
)
def test_a_changed_result_is_refused_by_refit(
    place: tuple[str, ...],
    value: Any,
    said: str,
    project: Project,
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = project.folder / "result.json"
    kept = result.read_bytes()
    changed = json.loads(kept)
    *above, last = place
    inside = changed["best"]
    for name in above:
        inside = inside[name]
    inside[last] = value
    result.write_text(json.dumps(changed))
    assert project.ask(COMPUTE["refit"]) == 2
    result.write_bytes(kept)
    assert re.search(said, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize("command", ["replay", "report", "refit"])
def test_unchanged_code_is_accepted_whatever_its_comments_and_layout(
    command: str, project: Project
) -> None:
    for file in ("my_models.py", "helpers/scale.py"):
        path = project.root / file
        path.write_text(f"# A comment.\n{path.read_text()}\n")
    assert project.ask(COMPUTE[command]) == 0


def test_a_refit_that_is_repeated_only_reads(project: Project) -> None:
    assert project.ask(COMPUTE["refit"]) == 0
    (project.root / "my_models.py").write_text("changed = True\n")
    assert project.ask(COMPUTE["refit"]) == 0
