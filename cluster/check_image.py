"""Images: pinned, alive, and of the Ray that everything else is pinned to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from foldrace.cluster.check import Document, Finding, listens_outside, pinned

__all__ = ["check_dockerfile", "check_images", "image_faults", "install_faults"]

_IMAGES = ("image", "worker_image", "head_image")
_MOVING = ("latest", "nightly", "main", "master")


def image_faults(image: str) -> Iterator[str]:
    """What is wrong with an image's name."""
    name, _, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    if repository.endswith("rayproject/ray-ml"):
        yield (
            f"{image}: ray-ml has not been built since Ray 2.50; use"
            f" rayproject/ray:{pinned('ray')}-py311-gpu"
        )
        return
    if not digest and (not tag or tag.split("-")[0] in _MOVING):
        yield (
            f"{image}: is not pinned: give it a tag with a version, as"
            f" {repository}:{pinned('ray')}-py311-gpu"
        )
        return
    mark = r"^(\d+\.\d+\.\d+)" if repository.endswith("rayproject/ray") else r"ray(\d+\.\d+\.\d+)"
    found = re.search(mark, tag)
    if found and found[1] != pinned("ray"):
        yield f"{image}: has Ray {found[1]}, and constraints.txt pins {pinned('ray')}"


def check_images(document: Document) -> Iterator[Finding]:
    """What is wrong with the images that a YAML document names."""
    for place, value in document.walk():
        if place and place[-1] in _IMAGES and isinstance(value, str):
            for fault in image_faults(value):
                yield document.finding(place, fault)


def install_faults(command: str) -> Iterator[str]:
    """What is wrong with a shell command that installs."""
    for part in re.split(r"&&|\|\||[;\n]", command):
        found = re.search(r"\bpip3? install\b(.*)", part)
        if not found:
            continue
        packages = [word.strip("'\"") for word in found[1].split() if not word.startswith("-")]
        exact = bool(packages) and all(
            re.search(r"==[\w.]+$|\.whl$|@ ", word) for word in packages
        )
        if not exact and not re.search(
            r"\s(?:--constraints?|-c|--requirements?|-r)(?:[ =]|$)", found[1]
        ):
            yield "installs what is newest that day; add --constraint constraints.txt"
        named = re.search(r"\bray(?:\[[^\]]*\])?==([\w.]+)", found[1])
        if named and named[1] != pinned("ray"):
            yield f"installs Ray {named[1]}, and constraints.txt pins {pinned('ray')}"


def check_dockerfile(path: Path, text: str) -> list[Finding]:
    """What is wrong with a Dockerfile."""
    found = []
    values: dict[str, str] = {}
    stages: set[str] = set()
    for number, word, rest in _instructions(text):
        faults: list[str] = []
        if word == "ARG" and "=" in rest:
            name, _, value = rest.partition("=")
            values[name.strip()] = value.strip().strip("'\"")
        elif word == "FROM":
            faults = [*_base_faults(rest, values, stages)]
        elif word == "RUN":
            faults = [*install_faults(rest)]
        elif word == "ENV" and re.search(r"\bRAY_AUTH_MODE[= ]['\"]?(?!token\b)", rest):
            faults = ["switches the token off; RAY_AUTH_MODE=token"]
        elif word in ("COPY", "ADD") and re.search(r"\bauth_token\b", rest):
            faults = ["puts the token into an image that others pull; mount it where it runs"]
        elif word == "EXPOSE":
            faults = ["nothing is to be reached but through a tunnel; leave it out"]
        elif word in ("CMD", "ENTRYPOINT"):
            faults = [*listens_outside(" ".join(re.sub(r"[\[\]\"',]+", " ", rest).split()))]
        found += [Finding(str(path), number, word, fault) for fault in faults]
    return found


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, word, rest) of each instruction; a backslash goes on in the next line, comments
    between are nothing."""
    began, whole = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):  # an empty line ends what is open
        if line.lstrip().startswith("#") or not (whole or line.strip()):
            continue
        began = began or number
        whole += line.strip().removesuffix("\\") + " "
        if line.rstrip().endswith("\\"):
            continue
        word, _, rest = whole.strip().partition(" ")
        yield began, word.upper(), rest.strip()
        began, whole = 0, ""


def _base_faults(rest: str, values: dict[str, str], stages: set[str]) -> Iterator[str]:
    """Of a FROM; remembers the stage that it names."""
    words = [word for word in rest.split() if not word.startswith("--")]
    if not words:
        yield "names no image"
        return
    image = re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], found[0]), words[0])
    if image not in stages and image != "scratch" and "$" not in image:
        yield from image_faults(image)
    if len(words) == 3 and words[1].upper() == "AS":
        stages.add(words[2])
