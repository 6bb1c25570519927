"""The shipped cluster files pass our check and Ray's; a mistake that is planted in one is found,
where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from foldrace.cli.app import main
from foldrace.cluster.check import check_file

pytest.importorskip("jsonschema")
pytest.importorskip("botocore")

CLUSTER = Path(__file__).parents[2] / "cluster" / "templates"
FILES = ("cluster.yaml", "gcp.yaml", "onprem.yaml", "kuberay.yaml", "Dockerfile")


@pytest.mark.parametrize("name", FILES)
def test_what_is_shipped_is_right_but_for_what_is_to_be_filled_in(name: str) -> None:
    found = check_file(CLUSTER / name)
    assert [str(finding) for finding in found if not finding.open] == []
    marked = {
        i
        for i, line in enumerate((CLUSTER / name).read_text().splitlines(), 1)
        if "# CHANGE" in line
    }
    assert {finding.line for finding in found} <= marked


@pytest.mark.parametrize("name", ["cluster.yaml", "gcp.yaml", "onprem.yaml"])
def test_ray_itself_accepts_what_is_shipped(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((CLUSTER / name).read_text())))


def rule_for(port: int, who: str) -> str:
    rule = f"{{FromPort: {port}, ToPort: {port}, IpProtocol: tcp, IpRanges: [{{CidrIp: {who}}}]}}"
    return f"{{GroupName: foldrace, IpPermissions: [{rule}]}}"


PLANTED = [
    (
        "cluster.yaml",
        "max_workers: 8  ",
        "max_worker: 8  ",
        "max_worker: no such key; did you mean 'max_workers'?",
    ),
    (
        "cluster.yaml",
        "type: aws",
        "type: awss",
        "provider.type: 'awss': no such provider here; did you mean 'aws'?",
    ),
    (
        "cluster.yaml",
        "region: us",
        "regoin: us",
        "provider.regoin: no such key; did you mean 'region'?",
    ),
    (
        "gcp.yaml",
        "project_id:",
        "projectid:",
        "provider.projectid: no such key; did you mean 'project_id'?",
    ),
    (
        "cluster.yaml",
        "InstanceType: g5",
        "InstanceTyp: g5",
        "gpu.node_config.InstanceTyp: no such key; did you mean 'Inst",
    ),
    (
        "cluster.yaml",
        "{MarketType:",
        "{MarketTyp:",
        "InstanceMarketOptions.MarketTyp: no such key; did you mean 'Mark",
    ),
    (
        "cluster.yaml",
        "VolumeSize: 150",
        "VolumeSize: big",
        "Ebs.VolumeSize: invalid type: 'big'",
    ),
    (
        "gcp.yaml",
        "machineType: g2",
        "machinetype: g2",
        "gpu.node_config.machinetype: no such key; did you mean 'machineT",
    ),
    (
        "gcp.yaml",
        "provisioningModel",
        "provisionModel",
        "scheduling[0].provisionModel: no such key; did you mean 'provis",
    ),
    (
        "cluster.yaml",
        "min_workers: 0",
        "min_workers: 9",
        "gpu.min_workers: 9: more than the 8 of max_workers",
    ),
    (
        "onprem.yaml",
        "max_workers: 1",
        "max_workers: 2",
        "max_workers: 2: more than there are worker_ips (1)",
    ),
    (
        "cluster.yaml",
        "{GroupName: foldrace}",
        rule_for(22, "0.0.0.0/0"),
        None,
    ),
    (
        "cluster.yaml",
        "{GroupName: foldrace}",
        rule_for(8265, "0.0.0.0/0"),
        "opens the machines to everybody; only SSH (22) may be reached",
    ),
    (
        "cluster.yaml",
        "{GroupName: foldrace}",
        rule_for(5000, "203.0.113.7/32"),
        "nothing but SSH (22) is to be reached from outside",
    ),
    (
        "cluster.yaml",
        "  ~/.ray/auth_token: ~/.ray/auth_token\n",
        "  ~/x: ~/x\n",
        "file_mounts: must bring the token",
    ),
    (
        "onprem.yaml",
        "  - chmod 600 ~/.ray/auth_token\n",
        "",
        "setup_commands: must have: chmod 600",
    ),
    (
        "gcp.yaml",
        "    - --env RAY_AUTH_MODE=token\n",
        "",
        "RAY_AUTH_MODE=token is set nowhere",
    ),
    (
        "cluster.yaml",
        ":0.1.0-ray2.60.0",
        ":latest",
        "docker.image: YOUR_REGISTRY/foldrace:latest: is not pinned",
    ),
    (
        "cluster.yaml",
        ":0.1.0-ray2.60.0",
        ":0.1.0-ray2.49.0",
        "has Ray 2.49.0, and constraints.txt pins 2.60.0",
    ),
    (
        "gcp.yaml",
        "YOUR_REGISTRY/foldrace:0.1.0-ray2.60.0",
        "rayproject/ray-ml:2.60.0",
        "ray-ml has not been built since",
    ),
    (
        "onprem.yaml",
        " --constraint ~/foldrace/constraints.txt",
        "",
        "setup_commands[1]: installs what is newest that day",
    ),
    (
        "cluster.yaml",
        "--dashboard-host=127.0.0.1",
        "--dashboard-host=0.0.0.0",
        "the dashboard is to listen on 127.0.0.1",
    ),
    (
        "onprem.yaml",
        "python -m foldrace.cluster.mlflow_server start",
        "mlflow server --host 0.0.0.0",
        "MLflow is to listen on 127.0.0.1",
    ),
    (
        "gcp.yaml",
        "idle_timeout_minutes: 10\n",
        "",
        "idle_timeout_minutes is missing",
    ),
    (
        "gcp.yaml",
        "resources: {CPU: 0, GPU: 0}",
        "resources: {CPU: 4, GPU: 0}",
        "head.resources.CPU: must be 0",
    ),
    (
        "onprem.yaml",
        "--num-cpus=0",
        "--num-cpus=4",
        "say --num-cpus=0, or trials run on the machine that drives them",
    ),
    (
        "cluster.yaml",
        "    - --env RAY_USAGE",
        "    - --env AWS_ACCESS_KEY_ID=AKIAABCDEFGHIJKLMNOP\n    - --env RAY_USAGE",
        "holds an AWS access key",
    ),
    (
        "kuberay.yaml",
        "sqlite:////shared/mlflow.db",
        "postgresql://me:verysecret@db/mlflow",
        "holds a password in an address",
    ),
    (
        "kuberay.yaml",
        "authOptions: {mode: token}",
        "suspend: false",
        "spec.authOptions: must be {mode: token}",
    ),
    (
        "kuberay.yaml",
        "minReplicas: 0",
        "minReplicas: 9",
        "workerGroupSpecs[0].minReplicas: 9 ≤ 0 ≤ 8 does not hold",
    ),
    (
        "kuberay.yaml",
        "serviceType: ClusterIP",
        "serviceType: LoadBalancer",
        "opens it to the outside",
    ),
    (
        "kuberay.yaml",
        "enableInTreeAutoscaling",
        "enableInTreeAutoscaler",
        "did you mean 'enableInTreeAutoscaling'?",
    ),
    (
        "kuberay.yaml",
        "rayVersion: 2.60.0",
        "rayVersion: 2.9.0",
        "spec.rayVersion: 2.9.0: constraints.txt pins 2.60.0",
    ),
    (
        "kuberay.yaml",
        "kind: RayJob",
        "kind: RayJobs",
        "kind: 'RayJobs': no such kind here; did you mean 'RayJob'?",
    ),
    (
        "Dockerfile",
        "rayproject/ray:2.60.0-py311-gpu",
        "rayproject/ray",
        "FROM: rayproject/ray: is not pinned",
    ),
    (
        "Dockerfile",
        " --constraint constraints.txt",
        "",
        "RUN: installs what is newest that day",
    ),
    (
        "Dockerfile",
        "RAY_AUTH_MODE=token",
        "RAY_AUTH_MODE=disabled",
        "ENV: switches the token off",
    ),
    (
        "cluster.yaml",
        "resources: {CPU: 0, GPU: 0}",
        "resources: {CPU: 0, GPU: 1}",
        "head.resources.GPU: 1: the head trains nothing",
    ),
    (
        "cluster.yaml",
        "InstanceType: m7i.xlarge",
        "InstanceType: g5.xlarge",
        "g5.xlarge: has GPUs, which the head would pay for",
    ),
    (
        "gcp.yaml",
        "region: us-central1 ",
        "region: us-west1 ",
        "'us-central1-a': is not in the region 'us-west1'",
    ),
    (
        "cluster.yaml",
        "    - --env RAY_AUTH_MODE=token\n",
        "",
        "RAY_AUTH_MODE=token is set nowhere for the worker in the container",
    ),
    (
        "onprem.yaml",
        "python -m pip install --quiet --constraint ~/foldrace/constraints.txt",
        "python -c 'import ray' && pip install",
        "setup_commands[1]: installs what is newest that day",
    ),
    (
        "onprem.yaml",
        "max_workers: 1 ",
        "max_workers: 1\nmax_workers: 1 ",
        "max_workers: stands here twice, and only the last one counts",
    ),
    (
        "kuberay.yaml",
        'rayStartParams: {num-cpus: "0"}',
        "rayStartParams: {num-cpus: 0}",
        "rayStartParams.num-cpus: 0: must be a string; put it in quotes",
    ),
    (
        "kuberay.yaml",
        "shutdownAfterJobFinishes: false",
        "shutdownAfterJobFinishes: true",
        "must be false with a clusterSelector",
    ),
    (
        "kuberay.yaml",
        "submissionMode: HTTPMode",
        "submissionMode: HttpMode",
        "'HttpMode': one of: HTTPMode, ",
    ),
    (
        "kuberay.yaml",
        "name: FOLDRACE_MLFLOW_ARTIFACTS, value: /shared/artifacts",
        "name: AWS_SECRET_ACCESS_KEY, value: abc",
        "AWS_SECRET_ACCESS_KEY in plain text",
    ),
    (
        "Dockerfile",
        "COPY --chown=ray cluster cluster",
        "COPY auth_token /home/ray/.ray/auth_token",
        "COPY: puts the token into an image",
    ),
    (
        "onprem.yaml",
        " --autoscaling-config=~/ray_bootstrap_config.yaml",
        "",
        "or no machine is ever added",
    ),
    (
        "onprem.yaml",
        "max_workers: 1",
        "max_workers: 0",
        "max_workers: 0: fewer than there are worker_ips (1)",
    ),
    (
        "cluster.yaml",
        "resources: {CPU: 4, GPU: 1}",
        "resources: {CPU: 4, GPUS: 1}",
        "resources.GPUS: no trial asks for it; one of: CPU, GPU",
    ),
    (
        "cluster.yaml",
        "MarketType: spot",
        "MarketType: spott",
        "MarketType: 'spott': did you mean 'spot'?",
    ),
    (
        "cluster.yaml",
        "      InstanceType: g5.xlarge",
        "      SecurityGroupIds: [sg-1]\n      InstanceType: g5.xlarge",
        "SecurityGroupIds: opens what that group opens",
    ),
    (
        "kuberay.yaml",
        "    - from: [{podSelector: {matchLabels: {ray.io/cluster: foldrace}}}]",
        "    - {}",
        "spec.ingress[0]: lets everybody in",
    ),
    (
        "kuberay.yaml",
        'rayStartParams: {num-cpus: "0"}',
        'rayStartParams: {num-cpus: "0", dashboard-host: 0.0.0.0}',
        "the dashboard is to listen on 127.0.0.1",
    ),
]


@pytest.mark.parametrize(
    ("name", "right", "wrong", "told"), PLANTED, ids=lambda value: str(value)[:30]
)
def test_a_planted_mistake_is_found_where_it_stands(
    name: str, right: str, wrong: str, told: str | None, tmp_path: Path
) -> None:
    text = (CLUSTER / name).read_text()
    assert right in text
    (tmp_path / name).write_text(text.replace(right, wrong))
    found = [finding for finding in check_file(tmp_path / name) if not finding.open]
    if told is None:  # SSH from everywhere is what Ray does by itself; nothing else may be
        assert found == []
        return
    assert any(told in str(finding) for finding in found), [str(finding) for finding in found]
    if wrong:
        planted = text.replace(right, wrong)[: text.index(right)].count("\n") + 1
        named = [finding.line for finding in found if told in str(finding)]
        assert min(abs(line - planted) for line in named) <= 4 or "file_mounts" in told


def test_the_command_line_names_the_line_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["cluster", "check", str(CLUSTER / "onprem.yaml"), str(CLUSTER / "Dockerfile")]) == 0
    )
    assert "2 files: nothing is wrong" in capsys.readouterr().err
    assert main(["cluster", "check", "--ready", str(CLUSTER / "onprem.yaml")]) == 2
    assert "onprem.yaml:9: HEAD_ADDRESS has still to be filled in" in capsys.readouterr().err
    broken = tmp_path / "broken.yaml"
    broken.write_text((CLUSTER / "onprem.yaml").read_text().replace("head_ip:", "head_pi:"))
    assert main(["cluster", "check", "--json", str(broken)]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"provider.head_pi"} <= {finding["field"] for finding in told}
