"""What people write differently is understood; what is no cluster's file at all is refused,
without a traceback."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from foldrace.cluster.check import check_file
from foldrace.errors import InputError

pytest.importorskip("jsonschema")
pytest.importorskip("botocore")

CLUSTER = Path(__file__).parents[2] / "cluster" / "templates"
RIGHT = """
ARG RAY=2.60.0
FROM --platform=linux/amd64 rayproject/ray:${RAY}-py311-gpu AS base

# a comment
RUN python -m pip install --quiet \\
    # another
    --constraint constraints.txt foldrace && \\
    echo done
FROM base
CMD ["mlflow", "server", "--host", "127.0.0.1"]
"""


def test_a_dockerfile_in_the_forms_that_people_write(tmp_path: Path) -> None:
    path = tmp_path / "gpu.Dockerfile"
    path.write_text(RIGHT)
    assert check_file(path) == []
    path.write_text(RIGHT.replace("    --constraint constraints.txt foldrace", "    foldrace"))
    assert [finding.line for finding in check_file(path)] == [6]
    path.write_text(RIGHT.replace("127.0.0.1", "0.0.0.0"))
    assert [finding.field for finding in check_file(path)] == ["CMD"]


def test_what_ray_and_yaml_allow_is_allowed(tmp_path: Path) -> None:
    """Ray's own `SubnetIds`, and values that are merged in."""
    text = (CLUSTER / "cluster.yaml").read_text()
    first, second = text.index("    node_config:\n"), text.rindex("    node_config:\n")
    text = (
        text[:second]
        + "    node_config:\n      <<: *machine\n"
        + text[second + len("    node_config:\n") :]
    )
    text = (
        text[:first]
        + "    node_config: &machine\n      SubnetIds: [subnet-1]\n"
        + text[first:].split("\n", 1)[1]
    )
    (tmp_path / "x.yaml").write_text(text)
    assert [str(finding) for finding in check_file(tmp_path / "x.yaml") if not finding.open] == []


def variants(value: Any, odd: Any) -> Iterator[Any]:
    """Each value in turn replaced."""
    yield odd
    parts = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, below in parts:
        for variant in variants(below, odd):
            changed = copy.copy(value)
            changed[key] = variant
            yield changed


@pytest.mark.parametrize("odd", [None, 0, "x", [None], {"x": {"y": 0}}], ids=str)
@pytest.mark.parametrize("name", ["cluster.yaml", "gcp.yaml", "onprem.yaml", "kuberay.yaml"])
def test_whatever_shape_its_values_have_there_are_findings_and_no_traceback(
    name: str, odd: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.yaml"
    for document in yaml.safe_load_all((CLUSTER / name).read_text()):
        for variant in variants(document, odd):
            path.write_text(yaml.safe_dump(variant))
            with contextlib.suppress(InputError):
                check_file(path)


def test_a_file_that_unfolds_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    for text in ("\n".join(lines), "provider: &p {type: *p}\n", "[" * 2000):
        path.write_text(text)
        with pytest.raises(InputError, match="no YAML"):
            check_file(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "is no YAML: line"),
        ("a: 1", "is neither a file for `ray up`"),
        ("- 1", "is neither"),
    ],
)
def test_what_is_no_cluster_file_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        check_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        check_file(tmp_path / "nowhere.yaml")
