"""Sweeps on three nodes brought up by `ray up`, from laptops that reach them by SSH alone."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from tests.cluster.conftest import Up
from tests.cluster.lan import PATIENCE, Host

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

SPEC = """
name: {name}
task: autoencoder
dataset: {{name: digits, limit: 900, seed: 0, size: [12, 12]}}
folds: {{splits: 3, seed: 0}}
epochs: {epochs}
space: {{lr: {{log: [1.0e-3, 1.0e-2]}}, batch_size: 32, latent_dim: 8}}
search: {{sampler: random, trials: 8, seed: 0, max_concurrent_trials: 4}}
scheduler: {{kind: fifo}}
resources: {{cpu: 1, gpu: 1}}
"""
NUMBERS = """
select r.name, m.key, m.step, m.value from metrics m
join runs r on r.run_uuid = m.run_uuid
join tags t on t.run_uuid = r.run_uuid and t.key = 'foldrace.sweep_key'
where r.name like 'trial %' and m.key <> 'train_seconds'
and t.value = (select value from tags where key = 'foldrace.sweep_key' and run_uuid =
(select run_uuid from runs where name = '{name}')) order by 1, 2, 3, 4
"""
RUNS = """
select t.value, r.status, count(*) from runs r
join tags t on t.run_uuid = r.run_uuid and t.key = 'foldrace.level'
group by 1, 2 order by 1, 2
"""
PLACES = """
select n.value, g.value from tags n
join tags g on g.run_uuid = n.run_uuid and g.key = 'foldrace.gpus'
where n.key = 'foldrace.node'
"""


def submit(
    up: Up, laptop: Host, name: str, *options: str, epochs: int = 6, check: bool = True
) -> Any:
    folder = up.net.common / name
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(SPEC.format(name=name, epochs=epochs))
    arguments = " ".join(["--dir", str(up.runs), *options])
    return laptop.run(f"python -m foldrace submit {folder}/sweep.yaml {arguments}", check=check)


def flat(text: str) -> str:
    return " ".join(text.split())


def result(up: Up, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((up.runs / name / "result.json").read_text())
    return told


@pytest.fixture(scope="module")
def undisturbed(up: Up) -> list[list[str]]:
    """The numbers of every trial and fold of an undisturbed sweep."""
    done = submit(up, up.laptop, "calm")
    assert "calm: done" in done.stderr and done.returncode == 0
    return up.query(flat(NUMBERS.format(name="calm")))


def test_a_sweep_uses_all_machines_and_all_their_gpus_and_its_record_is_whole(
    up: Up, undisturbed: list[list[str]]
) -> None:
    assert up.query(flat(RUNS)) == [
        ["fold", "FINISHED", "24"],
        ["sweep", "FINISHED", "1"],
        ["trial", "FINISHED", "8"],
    ]
    assert {tuple(place) for place in up.query(flat(PLACES))} == {
        (n, g) for n in ("one", "two") for g in "01"
    }
    keys = [tuple(row[:3]) for row in undisturbed]
    assert len(keys) == len(set(keys)) > 8 * 3 * 6 * 3
    assert result(up, "calm")["trials"] == {"completed": 8, "pruned": 0, "failed": 0}


def test_the_jobs_are_listed_and_their_logs_are_there(
    up: Up, undisturbed: list[list[str]]
) -> None:
    [job] = [
        job
        for job in json.loads(up.laptop.run("python -m foldrace list --json").stdout)
        if job["sweep"] == "calm"
    ]
    assert (job["status"], job["exit_status"]) == ("SUCCEEDED", 0)
    logs = up.laptop.run("python -m foldrace logs calm").stdout
    assert logs.count(" completed ") >= 8 and "Best configurations by cross-validation" in logs


def test_its_state_is_shown_on_the_laptop(up: Up, undisturbed: list[list[str]]) -> None:
    shown = up.laptop.run(
        "python -m foldrace status calm --address http://127.0.0.1:8265 --json"
    ).stdout
    told = json.loads(shown.splitlines()[-1])
    assert (told["state"], told["trials"]["completed"], told["job"]["status"]) == (
        "finished",
        8,
        "SUCCEEDED",
    )


def test_its_report_is_drawn_on_the_laptop(up: Up, undisturbed: list[list[str]]) -> None:
    folder = up.net.common / "report"
    up.laptop.run(
        f"python -m foldrace report calm --tracking-uri http://127.0.0.1:5000 -o {folder} --dir"
        " /nowhere"
    )
    assert list(folder.glob("*.html"))


def test_a_sweep_with_failed_trials_does_not_end_as_a_success(up: Up) -> None:
    done = submit(
        up,
        up.laptop,
        "failing",
        "--set space.lr=1.0e+6",
        "--set search.trials=1",
        epochs=2,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "failing: done, with failed trials" in done.stderr
    [job] = [
        job
        for job in json.loads(up.laptop.run("python -m foldrace list --json").stdout)
        if job["sweep"] == "failing"
    ]
    assert job["status"] == "FAILED"


# --- a node and a laptop that die ----------------------------------------------------------------


def follow_until(laptop: Host, command: str, pattern: str) -> Iterator[str]:
    """Runs a command until a line matches; yields its output so far, and kills it at the end."""
    process = laptop.spawn(command)
    assert process.stdout is not None
    said, until = "", time.monotonic() + PATIENCE
    for line in process.stdout:
        said += line
        if re.search(pattern, line):
            break
        assert time.monotonic() < until, said
    else:
        raise AssertionError(f"it ended before {pattern!r}:\n{said}")
    yield said
    process.kill()
    process.wait()


def test_a_machine_that_dies_changes_no_number(up: Up, undisturbed: list[list[str]]) -> None:
    submit(up, up.laptop, "hurt", "--detach")
    [_] = zip(
        follow_until(up.laptop, "python -m foldrace attach hurt", " completed "),
        [None],
        strict=False,
    )
    up.workers["two"].kill()
    done = up.laptop.run("python -m foldrace attach hurt")
    assert "hurt: done" in done.stderr
    assert result(up, "hurt")["trials"] == {"completed": 8, "pruned": 0, "failed": 0}
    assert up.query(flat(NUMBERS.format(name="hurt"))) == undisturbed
    assert result(up, "hurt")["best"] == result(up, "calm")["best"]
    assert not [row for row in up.query(flat(RUNS)) if row[1] == "RUNNING"]


def test_a_laptop_that_dies_leaves_the_sweep_and_another_attaches(up: Up) -> None:
    laptop = up.net.add("second", serves=False)
    (laptop.files / "root/.ray").mkdir()
    token = (up.laptop.files / "root/.ray/auth_token").read_text()
    (laptop.files / "root/.ray/auth_token").write_text(token)
    up.tunnel(laptop)
    folder = up.net.common / "long"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SPEC.format(name="long", epochs=12))
    command = f"python -m foldrace submit {folder}/sweep.yaml --dir {up.runs}"
    [_] = zip(follow_until(laptop, command, "long: in "), [None], strict=False)
    laptop.kill()
    state = json.loads(up.laptop.run("python -m foldrace list --json").stdout)[0]
    assert (state["sweep"], state["status"]) == ("long", "RUNNING")
    [said] = [
        said
        for said, _ in zip(
            follow_until(up.laptop, "python -m foldrace attach long", "fold-epochs"),
            [0],
            strict=False,
        )
    ]
    assert "long: in " in said  # from its beginning
    stopped = up.laptop.run("python -m foldrace stop long --force")
    assert "foldrace submit --resume long" in stopped.stderr
    assert not (up.runs / "long/result.json").exists()
    resumed = up.laptop.run(f"python -m foldrace submit --resume long --dir {up.runs}")
    assert "long: done" in resumed.stderr
    assert result(up, "long")["trials"] == {"completed": 8, "pruned": 0, "failed": 0}


# --- a task and data of one's own ----------------------------------------------------------------

OWN = """
name: own
task: kept.models:Least
dataset: {name: ./set.npz, target: y}
folds: {splits: 3, seed: 0}
epochs: 200
space: {lr: {log: [1.0e-3, 1.0e-2]}, batch_size: 4, rate: {uniform: [0.0, 0.1]}}
search: {sampler: random, trials: 4, seed: 0, max_concurrent_trials: 2}
scheduler: {kind: fifo}
resources: {cpu: 1, gpu: 1}
"""
MODELS = """
import torch
from kept.beside import squared

class Least:
    parameters = {"rate": 0.0}

    def build(self, params, sample):
        return torch.nn.Sequential(torch.nn.Dropout(params["rate"]), torch.nn.Linear(3, 1))

    def losses(self, model, batch, params):
        return {"loss": squared(model(batch["x"])[:, 0], batch["y"])}
"""
BESIDE = "def squared(one, other):\n    return (one - other) ** 2\n"


def test_a_task_of_ones_own_with_what_it_imports_and_its_data_is_stopped_and_resumed(
    up: Up,
) -> None:
    folder = up.net.common / "project"
    (folder / "kept").mkdir(parents=True)
    (folder / "kept" / "models.py").write_text(MODELS)
    (folder / "kept" / "beside.py").write_text(BESIDE)
    (folder / "own.yaml").write_text(OWN)
    x = np.random.default_rng(0).normal(size=(240, 3)).astype("float32")
    np.savez(folder / "set.npz", x=x, y=x.sum(1))
    command = f"python -m foldrace submit {folder}/own.yaml --dir {up.runs}"
    [_] = zip(follow_until(up.laptop, command, " completed "), [None], strict=False)
    up.laptop.run("python -m foldrace stop own")
    for path in folder.rglob("*.py"):
        path.unlink()  # what was sent is there
    resumed = up.laptop.run(f"python -m foldrace submit --resume own --dir {up.runs}")
    assert "own: done" in resumed.stderr
    assert result(up, "own")["trials"] == {"completed": 4, "pruned": 0, "failed": 0}
    assert result(up, "own")["best"]["score"]["mean"] < 0.5


def test_two_people_stop_and_list_their_own(up: Up) -> None:
    """Of one name, which the second one's folder could not have."""
    submit(up, up.laptop, "same", "--detach", epochs=200)
    folder = up.net.common / "ada"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SPEC.format(name="same", epochs=200))
    began = time.monotonic()
    while "same: in " not in up.laptop.run("python -m foldrace logs same").stdout:
        assert time.monotonic() < began + PATIENCE
        time.sleep(0.5)
    ada = {"USER": "ada", "LOGNAME": "ada"}
    command = f"python -m foldrace submit {folder}/sweep.yaml --dir {up.runs}"
    process = up.laptop.spawn(command, **ada)
    assert process.stdout is not None
    for line in process.stdout:
        if "same-2: in " in line:
            break
    process.kill()
    process.wait()
    mine = json.loads(up.laptop.run("python -m foldrace list --mine --json", **ada).stdout)
    assert [job["sweep"] for job in mine] == ["same-2"]
    refused = up.laptop.run("python -m foldrace stop same", check=False, **ada)
    assert refused.returncode == 2 and "root submitted it from laptop" in refused.stderr
    up.laptop.run("python -m foldrace stop same-2", **ada)
    jobs = json.loads(up.laptop.run("python -m foldrace list --json").stdout)
    states = {job["sweep"]: job["status"] for job in jobs if job["sweep"].startswith("same")}
    assert states == {"same": "RUNNING", "same-2": "STOPPED"}
    up.laptop.run("python -m foldrace stop same")


def test_a_machine_with_notice_and_two_that_die_cost_no_trial_at_one_failure(up: Up) -> None:
    """Each loss is followed by a checkpoint, so that none counts for the next."""
    machines = [up.workers["one"], up.join("three")]
    limits = "--set limits.max_failures=1 --set search.trials=2"
    submit(up, up.laptop, "lossy", "--detach", limits, epochs=2000)
    checkpoints = up.runs / "lossy" / "tune"

    def wait_for_checkpoints(newer_than: float) -> None:
        until = time.monotonic() + PATIENCE
        while len([p for p in newest() if p > newer_than]) < 2:
            assert time.monotonic() < until, list(newest())
            time.sleep(0.5)

    def newest() -> list[float]:
        found = [
            list(trial.glob("checkpoint_*/trial.pt")) for trial in checkpoints.glob("trial-*")
        ]
        return [max(path.stat().st_mtime for path in paths) for paths in found if paths]

    wait_for_checkpoints(0.0)
    nodes = json.loads(up.head.run("ray list nodes --format json", RAY_AUTH_MODE="token").stdout)
    there = next(node for node in nodes if node["node_ip"] == machines[0].address)
    notice = "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message spot"
    given = time.time()
    up.head.run(
        f"ray drain-node --address {up.head.address}:6379 --node-id {there['node_id']} {notice}"
        " --deadline-remaining-seconds 600"
    )
    wait_for_checkpoints(given)
    machines.append(up.join("four"))
    machines.pop(0).kill()  # which counts for no trial
    for name in ("five", "six"):
        lost = time.time()
        machines.append(up.join(name))
        machines.pop(0).kill()
        wait_for_checkpoints(lost)
    up.workers["one"] = machines[-1]
    told = up.laptop.run("python -m foldrace status lossy --address http://127.0.0.1:8265 --json")
    trials = json.loads(told.stdout.splitlines()[-1])["trials"]
    assert (trials["running"], trials["failed"]) == (2, 0), trials
    up.laptop.run("python -m foldrace stop lossy")


# --- what a laptop is told -----------------------------------------------------------------------


def refusal(laptop: Host, options: str = "", **environment: str) -> str:
    """The message of a refused command."""
    done = laptop.run(
        f"unset RAY_AUTH_MODE; python -m foldrace list {options}", check=False, **environment
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_a_token_that_is_wrong_or_missing_is_said_with_the_remedy(up: Up) -> None:
    said = refusal(up.laptop, RAY_AUTH_TOKEN_PATH="/nowhere")
    assert (
        "asks for a token, and there is none" in said
        and "copy it from where `ray up` was run" in said
    )
    said = refusal(up.laptop, RAY_AUTH_TOKEN="0" * 64)
    assert "does not know the token" in said and "copy the cluster's" in said


def test_no_tunnel_no_server_and_another_server_are_said_with_the_remedy(up: Up) -> None:
    said = refusal(up.laptop, "--address http://127.0.0.1:8266")
    assert "nothing answers there" in said and "foldrace tunnel" in said
    assert "nothing answers there" in refusal(up.laptop, "--address http://10.77.0.200:8265")
    assert "no Ray dashboard" in refusal(up.laptop, "--address http://127.0.0.1:5000")
    assert "must be the address of Ray's dashboard" in refusal(
        up.laptop, "--address 127.0.0.1:8265"
    )


def test_other_versions_are_said_before_anything_is_submitted(up: Up) -> None:
    before = up.laptop.run("python -m foldrace list --json").stdout
    fake = up.net.common / "fake"
    (fake / "ray-2.59.0.dist-info").mkdir(parents=True)
    (fake / "ray-2.59.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n"
    )
    folder = up.net.common / "calm"
    command = (
        f"PYTHONPATH={fake}:$PYTHONPATH python -m foldrace submit {folder}/sweep.yaml --dir"
        f" {up.runs}"
    )
    done = up.laptop.run(command, check=False)
    assert done.returncode == 2
    assert "ray is 2.59.0 here and 2.60.0 on the cluster; make them the same" in done.stderr
    assert up.laptop.run("python -m foldrace list --json").stdout == before


# --- who may reach what --------------------------------------------------------------------------

SCAN = """
import socket, sys
open_ones = []
for port in range(1, 65536):
    with socket.socket() as one:
        one.settimeout(0.5)
        if one.connect_ex((sys.argv[1], port)) == 0:
            open_ones.append(port)
print(*open_ones)
"""


def test_from_outside_only_ssh_and_what_rays_machines_need_answers(up: Up) -> None:
    scan = up.net.common / "scan.py"
    scan.write_text(SCAN)
    found = up.outside.run(f"python {scan} {up.head.address}").stdout.split()
    assert {"22", "6379"} <= set(found)
    assert not {"8265", "5000", "5432"} & set(found)
    for host in (up.head, up.workers["one"]):
        foreign = {
            port: owner for port, owner in listeners(host).items() if not RAYS.search(owner)
        }
        assert set(foreign) <= {"22", RAY_CLIENT}, foreign
    assert set(found) <= set(listeners(up.head))


def test_rays_client_server_asks_strangers_for_the_token(up: Up) -> None:
    code = f"import ray; ray.init('ray://{up.head.address}:{RAY_CLIENT}'); print('in')"
    token = (up.laptop.files / "root/.ray/auth_token").read_text().strip()
    for given, said in (
        ({}, []),
        ({"RAY_AUTH_TOKEN": "0" * 64}, []),
        ({"RAY_AUTH_TOKEN": token}, ["in"]),
    ):
        mode = {"RAY_AUTH_MODE": "token"} if given else {}
        done = up.outside.run(f'python -c "{code}"', check=False, **given, **mode)
        assert done.stdout.split() == said, done.stderr[-2000:]


RAY_CLIENT = "10001"  # which `ray start` opens, and cannot be told not to


RAYS = re.compile(r"/ray/core/src/ray/|/ray/dashboard/agent|/ray/_private/|^ray::")


def listeners(host: Host) -> dict[str, str]:
    """{port: command} of the processes that listen on more than the loopback."""
    found = {}
    for line in host.run("ss -ltnpH").stdout.splitlines():
        address, process = line.split()[3], re.search(r"pid=(\d+)", line)
        if not address.startswith(("127.", "[::1]")) and process:
            found[address.rpartition(":")[2]] = host.run(
                f"tr '\\0' ' ' < /proc/{process[1]}/cmdline"
            ).stdout
    return found


def test_the_dashboard_asks_for_the_token(up: Up) -> None:
    code = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8265"
    for path in ("/api/jobs/", "/api/cluster_status", "/nodes?view=summary", "/logical/actors"):
        assert up.laptop.run(f"{code}{path}").stdout == "401", path


def test_the_token_is_in_no_log_no_process_list_and_no_record(
    up: Up, undisturbed: list[list[str]]
) -> None:
    token = (up.laptop.files / "root/.ray/auth_token").read_text().strip()
    assert len(token) > 20
    for host in (up.head, up.workers["one"], up.laptop):
        found = host.run(
            f"grep -rlF {token} /tmp/ray /root/mlflow 2>/dev/null", check=False
        ).stdout.split()
        assert found == [], found
        assert not [command for command in commands(host) if token in command]
    for table, column in (("tags", "value"), ("params", "value"), ("metrics", "key")):
        assert up.query(f"select count(*) from {table} where {column} like '%{token}%'") == [["0"]]


# --- the end -------------------------------------------------------------------------------------


def test_ray_down_and_what_docs_say_beside_it_leave_nothing(up: Up) -> None:
    up.laptop.run(f"cd {up.yaml.parent} && ray down -y onprem.yaml")
    up.head.run("python -m foldrace.cluster.mlflow_server stop")
    up.workers["one"].run("ray stop --grace-period 20")
    until = time.monotonic() + PATIENCE
    while left := [
        line
        for host in (up.head, up.workers["one"])
        for line in commands(host)
        if OURS.search(line)
    ]:
        assert time.monotonic() < until, left
        time.sleep(0.5)


OURS = re.compile(RAYS.pattern + "|mlflow")


def commands(host: Host) -> list[str]:
    """The commands of a host's processes."""
    found = []
    for process in host.processes():
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found
