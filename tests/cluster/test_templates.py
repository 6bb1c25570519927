"""Our own cluster files: right but for placeholders, safe, consistent, and in the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from foldrace.cli.app import main
from foldrace.cluster.check import check_file
from foldrace.cluster.template_files import NAMES, pinned

pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "cluster" / "templates"
RAY_UP = ("cluster.yaml", "gcp.yaml", "onprem.yaml")
CLOUDS = ("cluster.yaml", "gcp.yaml")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((TEMPLATES / name).read_text())
    return loaded


def manifest(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((TEMPLATES / "kuberay.yaml").read_text())
    [found] = [document for document in documents if document["kind"] == kind]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", [name for name in NAMES if name != "constraints.txt"])
def test_they_are_right_but_for_the_marked_lines(name: str) -> None:
    found = check_file(TEMPLATES / name)
    assert [str(problem) for problem in found if not problem.placeholder] == []
    lines = (TEMPLATES / name).read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# CHANGE" in line}
    assert {problem.line for problem in found} <= marked


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_itself_accepts_them(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".yaml")])
def test_no_key_is_there_twice(name: str) -> None:
    for node in yaml.compose_all((TEMPLATES / name).read_text(), yaml.SafeLoader):
        stack = [node]
        while stack:
            one = stack.pop()
            if isinstance(one, yaml.MappingNode):
                keys = [key.value for key, _ in one.value]
                assert len(keys) == len(set(keys)), keys
                stack += [value for _, value in one.value]
            elif isinstance(one, yaml.SequenceNode):
                stack += one.value


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_asks_for_the_token_on_the_head_and_on_the_workers(name: str) -> None:
    values = load(name)
    assert values["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in values["setup_commands"]
    if "docker" in values:  # the commands outside the container do not reach Ray
        assert "--env RAY_AUTH_MODE=token" in values["docker"]["run_options"]
    else:
        [command] = values["initialization_commands"]
        assert "RAY_AUTH_MODE=token" in command and command.endswith("~/.bashrc")


@pytest.mark.parametrize("name", RAY_UP)
def test_the_head_adds_nodes_listens_on_its_loopback_and_trains_nothing(name: str) -> None:
    values = load(name)
    [start] = [line for line in values["head_start_ray_commands"] if "ray start" in line]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert "--dashboard-host=127.0.0.1" in start and "--num-cpus=0" in start
    assert "idle_timeout_minutes" in values
    if name == "onprem.yaml":
        assert "--num-gpus=0" in start
        workers = values["provider"]["worker_ips"]
        assert values["min_workers"] == values["max_workers"] == len(workers)
        assert values["provider"]["head_ip"] not in workers
        return
    nodes = values["available_node_types"]
    assert nodes["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert set(nodes["gpu"]["resources"]) == {"CPU", "GPU"}
    assert nodes["gpu"]["min_workers"] <= nodes["gpu"]["max_workers"] == values["max_workers"]


def test_aws_accepts_the_nodes() -> None:
    """Against AWS's own description of RunInstances, of which botocore has a copy."""
    validate = pytest.importorskip("botocore.validate")
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    described = ServiceModel(Loader().load_service_model("ec2", "service-2"))
    shape = described.operation_model("RunInstances").input_shape
    for node in load("cluster.yaml")["available_node_types"].values():
        given = {"MinCount": 1, "MaxCount": 1} | node["node_config"]
        assert not validate.ParamValidator().validate(given, shape).generate_report()
    gpu = load("cluster.yaml")["available_node_types"]["gpu"]["node_config"]
    assert gpu["InstanceMarketOptions"] == {"MarketType": "spot"}
    group = load("cluster.yaml")["provider"]["security_group"]
    assert group == {"GroupName": "foldrace"}  # Ray opens SSH in it, and nothing else


def test_google_knows_the_keys_of_the_nodes() -> None:
    """Of Google's instances.insert, those that the file uses."""
    values = load("gcp.yaml")
    assert values["provider"]["availability_zone"].startswith(values["provider"]["region"])
    known = {"machineType", "disks", "scheduling"}
    disk = {"boot", "autoDelete", "type", "initializeParams"}
    spot = {"provisioningModel", "onHostMaintenance", "automaticRestart"}
    for node in values["available_node_types"].values():
        config = node["node_config"]
        assert set(config) <= known
        for one in config["disks"]:
            assert set(one) == disk
            assert set(one["initializeParams"]) == {"diskSizeGb", "sourceImage"}
        assert all(set(one) == spot for one in config.get("scheduling", []))


@pytest.mark.parametrize("name", CLOUDS)
def test_only_known_settings_of_a_provider_are_given(name: str) -> None:
    known = {"type", "region", "availability_zone", "project_id"}
    assert set(load(name)["provider"]) <= known | {"cache_stopped_nodes", "security_group"}


def test_the_manifests_have_the_keys_that_kuberay_knows() -> None:
    """Of ray.io/v1, KubeRay 1.5.1 to 1.7, those that the file uses."""
    cluster, job = manifest("RayCluster"), manifest("RayJob")
    assert {cluster["apiVersion"], job["apiVersion"]} == {"ray.io/v1"}
    spec = cluster["spec"]
    groups = {"headGroupSpec", "workerGroupSpecs"}
    options = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions"}
    assert set(spec) == groups | options
    assert spec["rayVersion"] == pinned("ray") and spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"] == {"idleTimeoutSeconds": 600}
    head, [workers] = spec["headGroupSpec"], spec["workerGroupSpecs"]
    assert set(head) == {"serviceType", "rayStartParams", "template"}
    assert head["serviceType"] == "ClusterIP" and head["rayStartParams"] == {"num-cpus": "0"}
    counts = {"replicas", "minReplicas", "maxReplicas"}
    assert set(workers) == counts | {"groupName", "rayStartParams", "template"}
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert job["spec"]["shutdownAfterJobFinishes"] is False  # the cluster is not the job's own
    assert job["spec"]["submissionMode"] == "HTTPMode"
    assert set(job["spec"]) - {"entrypoint", "clusterSelector"} == {
        "submissionMode",
        "shutdownAfterJobFinishes",
    }


def test_the_pods_have_the_keys_that_kubernetes_knows() -> None:
    spec = manifest("RayCluster")["spec"]
    known = {"name", "image", "command", "env", "resources", "volumeMounts"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert set(pod) == {"securityContext", "containers", "volumes"}
        for container in pod["containers"]:
            assert set(container) <= known
            assert set(container["resources"]) == {"limits", "requests"}
            is_worker = "groupName" in group
            assert ("nvidia.com/gpu" in container["resources"]["limits"]) == is_worker


def test_only_the_clusters_own_pods_and_the_operator_may_come_in() -> None:
    policy = manifest("NetworkPolicy")["spec"]
    own = {"podSelector": {"matchLabels": {"ray.io/cluster": "foldrace"}}}
    assert policy["podSelector"] == own["podSelector"] and policy["policyTypes"] == ["Ingress"]
    inside, operator = policy["ingress"]
    assert inside == {"from": [own]}
    assert operator["ports"] == [{"port": 8265}]
    assert "kuberay-operator" in str(operator["from"])


def test_versions_are_those_of_this_project_and_of_the_pins() -> None:
    for name in (*RAY_UP, "kuberay.yaml", "Dockerfile"):
        text = (TEMPLATES / name).read_text()
        tags = re.findall(r"foldrace:([\d.]+)-ray([\d.]+)", text)
        assert set(tags) <= {(VERSION, pinned("ray"))}, name
        assert set(re.findall(r"foldrace-([\d.]+)-py3", text)) <= {VERSION}, name
        assert set(re.findall(r"rayproject/ray:([\d.]+)-", text)) <= {pinned("ray")}, name


def test_the_pins_at_the_root_are_the_same_file() -> None:
    assert (ROOT / "constraints.txt").resolve() == (TEMPLATES / "constraints.txt").resolve()


def test_init_writes_them_and_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert main(["cluster", "init", str(folder)]) == 0
    said = capsys.readouterr().err
    assert f"foldrace-{VERSION}-py3-none-any.whl" in said and "CHANGE" in said
    assert f"foldrace cluster check --ready {folder}/onprem.yaml" in said
    assert sorted(path.name for path in folder.iterdir()) == sorted(NAMES)
    for name in NAMES:
        assert (folder / name).read_bytes() == (TEMPLATES / name).read_bytes()
        assert not (folder / name).is_symlink()
    yamls = [str(folder / name) for name in NAMES if name != "constraints.txt"]
    assert main(["cluster", "check", *yamls]) == 0


def test_init_overwrites_only_when_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Dockerfile").write_text("mine")
    assert main(["cluster", "init", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "has Dockerfile already" in said and "--force" in said
    assert [path.name for path in tmp_path.iterdir()] == ["Dockerfile"]
    assert main(["cluster", "init", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "Dockerfile").read_text() != "mine"
    assert main(["cluster", "init", str(tmp_path / "Dockerfile")]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_a_built_package_holds_them(kind: str, tmp_path: Path) -> None:
    """Built without the network, from the files that git knows."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if name.split("/")[0] not in ("tests", "docs") and (ROOT / name).exists():
            target = tmp_path / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_symlink():
                target.symlink_to((ROOT / name).readlink())
            else:
                target.write_bytes((ROOT / name).read_bytes())
    build = f"from setuptools import build_meta as b; print(b.build_{kind}({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build],
        cwd=tmp_path / "source",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    archive = tmp_path / done.stdout.split()[-1]
    wanted = {name: (TEMPLATES / name).read_bytes() for name in NAMES}
    if kind == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            found = {name: wheel.read(f"foldrace/cluster/templates/{name}") for name in NAMES}
            tops = {name.split("/")[0] for name in wheel.namelist()}
            assert tops == {"foldrace", f"foldrace-{VERSION}.dist-info"}
    else:
        with tarfile.open(archive) as source:
            found = {}
            for name in NAMES:
                file = source.extractfile(f"foldrace-{VERSION}/cluster/templates/{name}")
                assert file is not None
                found[name] = file.read()
    assert found == wanted
