"""A wheel holds `foldrace` alone, and works beside files with the names of our folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.helpers.sweeps import ROOT, environment

pytestmark = pytest.mark.slow

PACKAGED = ("foldrace", "trainables", "search", "analysis", "cluster")
FILES = ("pyproject.toml", "README.md", "LICENSE", "constraints.txt")
HOSTILE = "raise ImportError('a file of the user, not of Foldrace')\n"
SETTINGS = {
    "dataset": "{name: digits, limit: 120, size: [8, 8]}",
    "epochs": "2",
    "search": "{sampler: random, trials: 2}",
    "name": "tiny",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked folders alone, in a copy, so that nothing is left in the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    for name in PACKAGED:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, place / "source" / name, symlinks=True, ignore=ignore)
    for name in FILES:
        shutil.copy(ROOT / name, place / "source")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(place),
    ]
    subprocess.run(
        [*command, "--no-build-isolation", str(place / "source")], check=True, timeout=200
    )
    [built] = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of an environment with the wheel, and with this one's dependencies."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = place / "lib" / version / "site-packages"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(ours) + "\n")
    script = place / "bin" / "foldrace"
    script.write_text(
        f"#!{place}/bin/python\nimport sys\nfrom foldrace.cli.app import main\nsys.exit(main())\n"
    )
    script.chmod(0o755)
    return place / "bin"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with modules that have the names of our folders and fail on import."""
    place = tmp_path_factory.mktemp("user")
    for name in ("search.py", "cluster.py", "analysis/__init__.py", "trainables/__init__.py"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(HOSTILE)
    return place


def test_a_wheel_holds_foldrace_and_nothing_beside_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"foldrace"}
    for name in (
        "foldrace/search/specs/quick.yaml",
        "foldrace/search/specs/schema.json",
        "foldrace/analysis/reports/templates/page.html.j2",
        "foldrace/cluster/templates/onprem.yaml",
        "foldrace/cluster/templates/Dockerfile",
        "foldrace/cluster/templates/constraints.txt",
    ):
        assert name in names
    constraints = zipfile.ZipFile(wheel).read("foldrace/cluster/templates/constraints.txt")
    assert constraints == (ROOT / "constraints.txt").read_bytes()
    sources = {
        path.relative_to(ROOT).as_posix()
        for top in PACKAGED
        for path in (ROOT / top).rglob("*.py")
    }
    inside = {name if name in sources else name.removeprefix("foldrace/") for name in names}
    assert {name for name in inside if name.endswith(".py")} == sources


CALLS = {
    "the script": (["foldrace"], {}),
    "the module": (["python", "-m", "foldrace"], {}),
    "the script with PYTHONPATH=.": (["foldrace"], {"PYTHONPATH": "."}),
    "the module with PYTHONPATH=.": (["python", "-m", "foldrace"], {"PYTHONPATH": "."}),
}
COMMANDS = (
    "schema",
    "data",
    "sweep {spec} {sets} --dir runs-{number}",
    "status tiny --dir runs-{number}",
    "resume tiny --dir runs-{number}",
    "sync tiny --dir runs-{number}",
    "replay tiny 0 --dir runs-{number}",
    "refit tiny --dir runs-{number}",
    "report tiny --dir runs-{number}",
    "--help",
)
COMMANDS_OF = {
    "the script": ("schema", "sweep {spec} {sets} --dir runs-{number}"),
    "the module": ("schema", "data"),
    "the script with PYTHONPATH=.": ("schema", "data"),
    "the module with PYTHONPATH=.": COMMANDS,
}
"""All where the user's folder comes first, for the workers too; what comes least far in the most
common way; and the imports in the others, which lie between."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", CALLS)
def test_commands_work_beside_files_of_the_same_names(
    way: str, installed: Path, hostile: Path
) -> None:
    call, extra = CALLS[way]
    left = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    number = list(CALLS).index(way)
    sets = [part for pair in SETTINGS.items() for part in ("--set", "=".join(pair))]
    spec = installed.parent / "lib"
    [spec] = spec.glob("python*/site-packages/foldrace/search/specs/quick.yaml")
    for command in COMMANDS_OF[way]:
        words = [
            part
            for word in command.format(spec=spec, sets="SETS", number=number).split()
            for part in (sets if word == "SETS" else [word])
        ]
        done = subprocess.run(
            [str(installed / call[0]), *call[1:], *words],
            cwd=hostile,
            env={**left, **extra, "PATH": os.pathsep.join([str(installed), left["PATH"]])},
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
