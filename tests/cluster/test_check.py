"""`foldrace cluster check`: a planted problem is found where it is; other files are refused."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from foldrace.cli.app import main
from foldrace.cluster.check import check_file
from foldrace.errors import InputError

pytest.importorskip("jsonschema")

TEMPLATES = Path(__file__).parents[2] / "cluster" / "templates"


def rule_for(port: int, who: str) -> str:
    rule = f"{{FromPort: {port}, ToPort: {port}, IpProtocol: tcp, IpRanges: [{{CidrIp: {who}}}]}}"
    return f"{{GroupName: foldrace, IpPermissions: [{rule}]}}"


NEWEST = "setup_commands[1]: installs what is newest"
WHEEL = "foldrace-0.1.0-py3-none-any.whl[cluster]"
ONPREM = f'--constraint ~/foldrace/constraints.txt "$HOME/foldrace/{WHEEL}"'
MLFLOW = "python -m foldrace.cluster.mlflow_server start"
RAY_UP = [  # file, what is replaced, by what, what is said
    ("cluster.yaml", "max_workers: 8  ", "max_worker: 8  ", "max_worker: no such key; did you me"),
    ("cluster.yaml", "type: aws", "tpye: aws", "Ray refuses it"),
    ("onprem.yaml", "head_ip:", "head_pi:", "Ray refuses it"),
    ("cluster.yaml", "idle_timeout_minutes: 10", "idle_timeout_minutes: ten", "'ten' is not of t"),
    ("cluster.yaml", "{GroupName: foldrace}", rule_for(8265, "0.0.0.0/0"), "only SSH (22) may"),
    ("cluster.yaml", "{GroupName: foldrace}", rule_for(22, "0.0.0.0/0"), ""),
    ("gcp.yaml", "    - --env RAY_AUTH_MODE=token\n", "", "RAY_AUTH_MODE=token is set nowhere"),
    ("gcp.yaml", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "switches the token off"),
    (
        "cluster.yaml",
        ":0.1.0-ray2.60.0",
        ":latest",
        "docker.image: YOUR_REGISTRY/foldrace:latest: ",
    ),
    (
        "cluster.yaml",
        ":0.1.0-ray2.60.0",
        ":0.1.0-ray2.49.0",
        "has Ray 2.49.0, and constraints.txt",
    ),
    (
        "gcp.yaml",
        "YOUR_REGISTRY/foldrace:0.1.0",
        "rayproject/ray-ml:2.60.0",
        "ray-ml has not been",
    ),
    ("onprem.yaml", ONPREM, "mlflow", NEWEST),
    (
        "cluster.yaml",
        "--dashboard-host=127.0.0.1",
        "--dashboard-host=0.0.0.0",
        "the dashboard must",
    ),
    ("onprem.yaml", MLFLOW, "mlflow server --host 0.0.0.0", "MLflow must listen on 127.0.0.1"),
    (
        "cluster.yaml",
        "--env RAY_USAGE",
        "--env A=AKIAABCDEFGHIJKLMNOP -e",
        "holds an AWS access key",
    ),
    ("cluster.yaml", "type: aws", "type: aws\n  aws_credentials: {a: b}", "holds credentials"),
]
KUBERNETES = [
    ("sqlite:////shared/mlflow.db", "postgresql://me:verysecret@db/x", "a password in an address"),
    ("authOptions: {mode: token}", "suspend: false", "spec.authOptions: must be {mode: token}"),
    ("serviceType: ClusterIP", "serviceType: LoadBalancer", "is reachable from outside"),
    ("rayVersion: 2.60.0", "rayVersion: 2.9.0", "spec.rayVersion: 2.9.0: constraints.txt pins"),
    ("FOLDRACE_MLFLOW_ARTIFACTS, value", "AWS_SECRET_ACCESS_KEY, value", "value: holds a secret"),
    (
        "- from: [{podSelector: {matchLabels: {ray.io/cluster: foldrace}}}]",
        "- {}",
        "lets everybody",
    ),
    (
        '{num-cpus: "0"}',
        '{num-cpus: "0", dashboard-host: 0.0.0.0}',
        "is reachable from",
    ),
    (MLFLOW, "mlflow server --host 0.0.0.0", "MLflow must listen on 127.0.0.1"),
]
DOCKERFILE = [
    ("rayproject/ray:2.60.0-py311-gpu", "rayproject/ray", "FROM: rayproject/ray: is not pinned"),
    ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "ENV: switches the token off"),
    ("constraints.txt foldrace", "auth_token", "COPY: puts the token into an image"),
    ("WORKDIR /home/ray\n", "EXPOSE 8265\n", "EXPOSE: is reachable from outside"),
    (
        f"--constraint constraints.txt '{WHEEL}'",
        "mlflow",
        "RUN: installs what is",
    ),
]


def plant(name: str, right: str, wrong: str, told: str, folder: Path) -> None:
    text = (TEMPLATES / name).read_text()
    assert right in text
    (folder / name).write_text(text.replace(right, wrong))
    found = [problem for problem in check_file(folder / name) if not problem.placeholder]
    if not told:
        assert found == []
        return
    near = [problem for problem in found if told in str(problem)]
    assert near, [str(problem) for problem in found]
    if wrong and "Ray refuses" not in told:
        line = text[: text.index(right)].count("\n") + 1
        assert min(abs(problem.line - line) for problem in near) <= 4 or "nowhere" in told


@pytest.mark.parametrize(("name", "right", "wrong", "told"), RAY_UP, ids=lambda v: str(v)[:24])
def test_a_problem_of_a_file_for_ray_up(
    name: str, right: str, wrong: str, told: str, tmp_path: Path
) -> None:
    plant(name, right, wrong, told, tmp_path)


@pytest.mark.parametrize(("right", "wrong", "told"), KUBERNETES, ids=lambda v: str(v)[:24])
def test_a_problem_of_a_manifest(right: str, wrong: str, told: str, tmp_path: Path) -> None:
    plant("kuberay.yaml", right, wrong, told, tmp_path)


@pytest.mark.parametrize(("right", "wrong", "told"), DOCKERFILE, ids=lambda v: str(v)[:24])
def test_a_problem_of_a_dockerfile(right: str, wrong: str, told: str, tmp_path: Path) -> None:
    plant("Dockerfile", right, wrong, told, tmp_path)


def test_a_dockerfile_in_the_forms_that_people_write(tmp_path: Path) -> None:
    right = """
FROM --platform=linux/amd64 rayproject/ray:2.60.0-py311-gpu AS base

# a comment
RUN python -m pip install --quiet \\
    # another
    --constraint constraints.txt foldrace && \\
    echo done
FROM base
CMD ["mlflow", "server", "--host", "127.0.0.1"]
"""
    path = tmp_path / "gpu.Dockerfile"
    path.write_text(right)
    assert check_file(path) == []
    path.write_text(right.replace("    --constraint constraints.txt foldrace", "    foldrace"))
    assert [problem.line for problem in check_file(path)] == [5]
    path.write_text(right.replace("127.0.0.1", "0.0.0.0"))
    assert [problem.field for problem in check_file(path)] == ["CMD"]


def test_merged_yaml_values_are_understood(tmp_path: Path) -> None:
    text = (TEMPLATES / "cluster.yaml").read_text()
    first, second = text.index("    node_config:\n"), text.rindex("    node_config:\n")
    key = "    node_config:\n"
    text = text[:second] + key + "      <<: *machine\n" + text[second + len(key) :]
    text = text[:first] + "    node_config: &machine\n" + text[first + len(key) :]
    (tmp_path / "x.yaml").write_text(text)
    found = check_file(tmp_path / "x.yaml")
    assert [str(problem) for problem in found if not problem.placeholder] == []


def variants(value: Any, odd: Any) -> Iterator[Any]:
    """Each value in turn replaced."""
    yield odd
    pairs: Any = value.items() if isinstance(value, dict) else ()
    for key, below in enumerate(value) if isinstance(value, list) else pairs:
        for variant in variants(below, odd):
            changed = copy.copy(value)
            changed[key] = variant
            yield changed


@pytest.mark.parametrize("odd", [None, 0, "x", [None], {"x": {"y": 0}}], ids=str)
@pytest.mark.parametrize("name", ["cluster.yaml", "gcp.yaml", "onprem.yaml", "kuberay.yaml"])
def test_whatever_shape_its_values_have_there_are_problems_and_no_traceback(
    name: str, odd: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.yaml"
    for document in yaml.safe_load_all((TEMPLATES / name).read_text()):
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
        ("", "is empty"),
        ("? [a]\n: 1", "unhashable key"),
    ],
)
def test_what_is_no_cluster_file_is_refused(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        check_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        check_file(tmp_path / "nowhere.yaml")


def test_the_command_line_names_the_line_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onprem = TEMPLATES / "onprem.yaml"
    assert main(["cluster", "check", str(onprem), str(TEMPLATES / "Dockerfile")]) == 0
    assert "2 files: no problem found" in capsys.readouterr().err
    assert main(["cluster", "check", "--ready", str(onprem)]) == 2
    line = 1 + onprem.read_text().splitlines().index(
        next(text for text in onprem.read_text().splitlines() if "HEAD_ADDRESS" in text)
    )
    said = capsys.readouterr().err
    assert f"onprem.yaml:{line}: HEAD_ADDRESS is still to be filled in\n" in said
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(onprem.read_text().replace("127.0.0.1", "0.0.0.0"))
    assert main(["cluster", "check", "--json", str(wrong)]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "head_start_ray_commands[2]" in {problem["field"] for problem in told}
