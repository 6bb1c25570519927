"""README and docs are true: files parse, commands exist, links lead somewhere, code runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from foldrace.cli.app import app
from foldrace.search.preparing.prepare import prepare
from foldrace.search.spec.sweep_spec import load_spec, parse_spec
from tests.helpers.sweeps import environment

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md"
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
AROUND = {
    "task": "autoencoder",
    "dataset": {"name": "digits"},
    "epochs": 9,
    "folds": {"splits": 3},
    "space": {"lr": {"log": [1e-4, 1e-2]}},
}
"""What a fragment of a sweep file is put into."""


def blocks(*languages: str) -> list[Any]:
    return [
        pytest.param(text, id=f"{path.relative_to(ROOT)}:{number}")
        for path in PAGES
        for number, (language, text) in enumerate(BLOCK.findall(path.read_text()))
        if language in languages
    ]


def lines() -> list[Any]:
    """Every command that a page tells its reader to type."""
    found = []
    for block in blocks("sh", "console", "bash"):
        for line in block.values[0].splitlines():
            command = line.partition(" #")[0].strip()
            if command:
                found.append(pytest.param(command, id=f"{block.id} {command}"))
    return found


def test_there_is_something_to_check() -> None:
    assert len(blocks("yaml")) >= 9 and len(lines()) >= 15 and len(blocks("python")) >= 3


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_sweep_file_is_valid_as_it_is_shown(text: str) -> None:
    shown = yaml.safe_load(text)
    if "auth" in shown or "apiVersion" in shown or "provider" in shown:
        pytest.skip("of a cluster")
    around = {} if {"task", "kind"} & shown.keys() else AROUND
    if str(shown.get("task", "")).startswith("./"):
        shown = {**shown, "task": "autoencoder", "space": {}}  # run by the tutorial's own test
    parse_spec({**around, **shown}, ROOT)


@pytest.mark.parametrize("command", lines())
def test_a_command_exists_with_its_options(command: str) -> None:
    words = [word for word in shlex.split(command.removesuffix("&").strip()) if word != "&&"]
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "python":
        assert rest[0] == "-m" and find_spec(rest[1]) is not None
    elif program == "foldrace":
        parse(typer.main.get_command(app), rest)
    else:
        assert program in {".", "pip", "ray", "cd", "git", "docker", "kubectl", "pre-commit"}


def parse(group: Any, words: list[str]) -> None:
    """Lets the command line read these words, without running them."""
    name, *rest = words
    assert name in group.commands, f"no command {name}"
    command = group.commands[name]
    if hasattr(command, "commands"):
        parse(command, rest)
    else:
        command.make_context(name, rest)


@pytest.mark.parametrize("text", blocks("python"))
def test_python_code_compiles(text: str) -> None:
    compile(text, "<docs>", "exec")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Pages that are made while the site is built are left to mkdocs."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    generated = {"command-line.md", "sweep-file.md"}
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and Path(target).name not in generated:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_exist(path: Path) -> None:
    """Paths in backticks that begin with a folder of the repository."""
    tops = "trainables|search|analysis|cluster|tests|docs|foldrace"
    for named in re.findall(rf"`((?:{tops})/[\w./-]*)`", path.read_text()):
        assert (ROOT / named).exists(), named


def test_definitions_that_are_named_exist() -> None:
    """``path.py``: ``Name`` or ``Name.method`` in the page on the architecture."""
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    named = re.findall(r"`([\w/]+\.py)`:\s+`([\w.]+)`", text)
    assert len(named) >= 12
    for path, name in named:
        code = (ROOT / path).read_text()
        for part in name.split("."):
            assert re.search(rf"^\s*(?:def |class )?{part}\b(?:\(|:| =|\[)", code, re.M), (
                path,
                name,
            )


def test_pages_that_code_and_templates_name_exist() -> None:
    files = [
        path
        for top in ("foldrace", "trainables", "search", "analysis", "cluster", "tests", "docs")
        for path in (ROOT / top).rglob("*")
        if path.suffix in {".py", ".yaml", ".md", ".css"}
    ]
    wrong = [
        f"{path.relative_to(ROOT)}: {named}"
        for path in [*files, ROOT / "CHANGELOG.md", ROOT / "Makefile"]
        for named in re.findall(r"\bdocs/[\w/-]+\.md", path.read_text())
        if not (ROOT / named).exists() and not named.endswith(("command-line.md", "sweep-file.md"))
    ]
    assert len(files) > 300 and not wrong


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


# --- the tutorials, run --------------------------------------------------------------------------


def tutorial(name: str, folder: Path) -> None:
    """Writes the files of a tutorial: each block is the file that the text before it names."""
    text = (ROOT / "docs" / "tutorial" / f"{name}.md").read_text()
    for file, body in re.findall(
        r"Save this as `([\w.]+)`.*?^```\w+\n(.*?)^```", text, re.M | re.S
    ):
        (folder / file).write_text(body)


def test_the_task_of_the_tutorial_is_prepared(tmp_path: Path) -> None:
    tutorial("own-task", tmp_path)
    prepared = prepare(load_spec(tmp_path / "denoise.yaml"), tmp_path / "data")
    assert prepared.task.complete({})["noise"] == 0.2


def test_the_task_of_the_readme_is_prepared(tmp_path: Path) -> None:
    [code] = [block.values[0] for block in blocks("python") if "README" in str(block.id)]
    (tmp_path / "my_models.py").write_text(code)
    spec = {**AROUND, "task": "./my_models.py:Classifier", "name": "linear"}
    (tmp_path / "linear.yaml").write_text(yaml.safe_dump(spec))
    assert prepare(load_spec(tmp_path / "linear.yaml"), tmp_path / "data").task.complete({})


@pytest.mark.slow
def test_the_first_tutorial_does_what_it_says(tmp_path: Path) -> None:
    tutorial("first-sweep", tmp_path)
    for command in ("sweep first.yaml", "refit first", "report first"):
        done = subprocess.run(
            [sys.executable, "-m", "foldrace", *command.split()],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=220,
        )
        assert done.returncode == 0, done.stderr
    assert list((tmp_path / "runs" / "first").rglob("*.html"))
    champion, code = [b.values[0] for b in blocks("python") if "use-the-best-model" in str(b.id)]
    code = code.replace("runs/conv-ae/", "runs/first/")
    assert (
        "torch.export.load" in code and (tmp_path / "runs/first/winner/fold-0/model.pt2").is_file()
    )
    loading = champion.replace("models:/conv-ae@", "models:/first@") + "\nprint(model)\n"
    done = subprocess.run(
        [sys.executable, "-c", loading], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0 and done.stdout, done.stderr
