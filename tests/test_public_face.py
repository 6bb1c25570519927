"""The names that a user imports from `foldrace`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import foldrace

ROOT = Path(__file__).parent.parent


def run(code: str) -> str:
    """The output of a fresh Python process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_public_names_are_these():
    assert foldrace.__all__ == [
        "DataError",
        "Dataset",
        "FoldraceError",
        "InputError",
        "Parameter",
        "StateError",
        "SweepSpec",
        "Task",
        "__version__",
        "layers",
        "load_dataset",
        "load_spec",
    ]
    assert set(foldrace.__all__) <= set(dir(foldrace))


@pytest.mark.parametrize("name", foldrace.__all__)
def test_every_public_name_resolves_and_stays_the_same_object(name):
    assert getattr(foldrace, name) is getattr(foldrace, name)


def test_public_names_are_the_ones_used_inside():
    from foldrace.errors import InputError
    from foldrace.trainables.cpu import layers
    from foldrace.trainables.data.datasets import load_dataset

    assert foldrace.InputError is InputError
    assert foldrace.layers is layers
    assert foldrace.load_dataset is load_dataset


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert foldrace.__version__ == version("foldrace")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'sweeep'"):
        _ = foldrace.sweeep
    assert not hasattr(foldrace, "Sweep")


def test_a_star_import_binds_every_public_name():
    code = (
        "from foldrace import *; import foldrace;"
        "print([n for n in foldrace.__all__ if n not in globals()])"
    )
    assert run(code) == "[]"


HEAVY = ("torch", "ray", "mlflow", "optuna", "numpy", "pandas", "pydantic")


def test_importing_foldrace_alone_loads_no_large_library():
    code = f"import sys, foldrace; print([n for n in {HEAVY} if n in sys.modules])"
    assert run(code) == "[]"


def test_a_task_and_its_parameters_are_declared_without_torch_ray_or_mlflow():
    code = (
        "import sys; from foldrace import Parameter, Task, InputError, SweepSpec, load_dataset;"
        "print([n for n in ('torch', 'ray', 'mlflow') if n in sys.modules])"
    )
    assert run(code) == "[]"


def test_submodules_are_reached_beside_the_public_names():
    assert run("import foldrace.errors, foldrace; print(foldrace.errors.__name__)") == (
        "foldrace.errors"
    )
