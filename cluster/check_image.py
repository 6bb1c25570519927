"""Images: pinned, alive, and of the Ray that everything else is pinned to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cluster.check import Finding, pinned

__all__ = ["check_dockerfile", "image_faults", "install_faults"]

_MOVING = ("latest", "nightly", "main", "master")


def image_faults(image: str) -> Iterator[str]:
    """What is wrong with an image's name."""
    name, _, digest = image.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    if repository.endswith("rayproject/ray-ml"):
        yield f"{image}: ray-ml has not been built since Ray 2.50; use rayproject/ray:{pinned('ray')}-py311-gpu"
        return
    if not digest and (not tag or tag.split("-")[0] in _MOVING):
        yield f"{image}: is not pinned: give it a tag with a version, as {repository}:{pinned('ray')}-py311-gpu"
        return
    mark = r"^(\d+\.\d+\.\d+)" if repository.endswith("rayproject/ray") else r"ray(\d+\.\d+\.\d+)"
    found = re.search(mark, tag)
    if found and found[1] != pinned("ray"):
        yield f"{image}: has Ray {found[1]}, and constraints.txt pins {pinned('ray')}"


def install_faults(command: str) -> Iterator[str]:
    """What is wrong with a shell command that installs."""
    if re.search(r"\bpip3? install\b", command) and not re.search(r"(?:--constraint|-c|--requirement|-r)[ =]", command):
        yield "installs what is newest that day; add --constraint constraints.txt"


def check_dockerfile(path: Path, text: str) -> list[Finding]:
    """What is wrong with a Dockerfile."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        word, _, rest = line.strip().partition(" ")
        faults: list[str] = []
        if word.upper() == "FROM":
            faults = [*image_faults(rest.split()[0])]
        elif word.upper() == "RUN":
            faults = [*install_faults(rest)]
        elif word.upper() == "ENV" and re.search(r"RAY_AUTH_MODE=(?!token\b)", rest):
            faults = ["switches the token off; RAY_AUTH_MODE=token"]
        elif word.upper() == "EXPOSE":
            faults = ["nothing is to be reached but through a tunnel; leave it out"]
        found += [Finding(str(path), number, word.upper(), fault) for fault in faults]
    return found
