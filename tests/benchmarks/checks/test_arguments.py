"""What the benchmarks are given is checked before anything is measured."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from foldrace.search.spec.sweep_spec import load_spec
from foldrace.trainables.tasks.loading import load_task

SPECS = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
WRONG = {
    "step": {
        "--rounds 0": "--rounds: 0: must be a whole number of at least 1",
        "--rounds many": "--rounds: many: must be a whole number",
        "--dataset nonsense": "dataset: nonsense: ",
        "--device gpu": "--device: invalid choice: 'gpu'",
    },
    "overhead": {
        "--rounds 0": "--rounds: 0: must be",
        "--trials 10 25": "--trials: 10 25: 2/5 of MANY must be more",
    },
    "scaling": {
        "--trials 10": "--trials: 10: must be at least 22",
        "--workers 0": "--workers: 0: must be",
    },
    "sharing": {
        "--times 0": "--times: 0: must be",
        "--set epoch=3": "epoch: 3: unknown key; did you mean 'epochs'?",
    },
    "outage": {"--rounds -1": "--rounds", "--set epochs=0": "epochs: 0: must be"},
    "determinism": {
        "--workers 0": "--workers: 0: must be",
        "--set epochs=0": "epochs: 0: must be",
    },
    "study": {
        "--folds 1": "--folds: 1: must be at least 2",
        "--dataset nonsense": "dataset: nonsense: ",
    },
}


def main_of(benchmark: str) -> Any:
    """A benchmark's command, whether it is a module or a folder."""
    name = f"tests.benchmarks.{benchmark}"
    return import_module(
        f"{name}.run" if find_spec(name).submodule_search_locations else name
    ).main


@pytest.mark.parametrize(
    ("benchmark", "given", "said"),
    [(name, given, said) for name, wrong in WRONG.items() for given, said in wrong.items()],
)
def test_what_cannot_be_used_is_refused_in_one_line(
    benchmark: str, given: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main_of(benchmark)([str(tmp_path / "out"), *given.split()])
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    [error] = [line for line in lines if "error: " in line]
    assert error == lines[-1] and error.startswith(
        f"python -m tests.benchmarks.{benchmark}: error: "
    )
    assert said in error.replace("argument ", "")
    assert not (tmp_path / "out").is_dir() or not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("benchmark", WRONG)
def test_help_says_what_is_measured_and_what_each_option_is(
    benchmark: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main_of(benchmark)(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    options = [line for line in text.splitlines() if line.startswith("  --")]
    assert options and "(default: " in text and f"{benchmark}.json" in text


@pytest.mark.parametrize("spec", SPECS, ids=lambda path: path.stem)
def test_a_sweep_file_and_its_task_load_from_any_folder(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_task(load_spec(spec).task).parameters
