"""The files that are sent to a cluster, and errors of a connection that does not work."""

from __future__ import annotations

import inspect
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foldrace.cli.app import main
from foldrace.cluster.connection import connect
from foldrace.cluster.jobs import (
    Job,
    find_job,
    job_to_stop,
    jobs_of,
    submitter,
    with_folders,
)
from foldrace.cluster.package import files_of, pack
from foldrace.cluster.submit import (
    Destination,
    check_versions,
    follow,
    keep_code,
    make_parcel,
    resume,
    submit,
)
from foldrace.cluster.tunnel import Forward, open_tunnel, ssh_command
from foldrace.errors import InputError, StateError
from foldrace.search.preparing.environment import versions


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path) -> Iterator[None]:
    """What a test's own modules leave in this process is taken back."""
    paths, known = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = paths
    for name in set(sys.modules) - known:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def write(root: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def names(root: Path) -> list[str]:
    return [str(path.relative_to(root.resolve())) for path in files_of(root)]


# --- what travels --------------------------------------------------------------------------------


def test_what_git_ignores_stays_here_as_git_means_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        "sweep.yaml",
        "my models.py",
        "runs/a/big.bin",
        "keep/runs.txt",
        "sub/notes.log",
        "sub/keep.log",
    )
    write(
        tmp_path,
        ".git/config",
        "pkg/__pycache__/a.pyc",
        ".venv/bin/python",
        "sub/deep/data/x.npy",
        "data/y.npy",
    )
    write(tmp_path, ".gitignore", text="/runs/\n*.log\n/data\n")
    write(tmp_path, "sub/.gitignore", text="!keep.log\ndeep/data/\n")
    kept = [
        ".gitignore",
        "keep/runs.txt",
        "my models.py",
        "sub/.gitignore",
        "sub/keep.log",
        "sweep.yaml",
    ]
    assert names(tmp_path) == kept


def test_files_arrive_as_they_are_and_an_inner_link_as_a_file(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write(here, "sweep.yaml", "tools/run.sh", text="content")
    (here / "tools/run.sh").chmod(0o755)
    (here / "again.yaml").symlink_to("sweep.yaml")
    there.mkdir()
    assert pack(here, there) == [Path("again.yaml"), Path("sweep.yaml"), Path("tools/run.sh")]
    assert (there / "again.yaml").read_text() == "content" and not (
        there / "again.yaml"
    ).is_symlink()
    assert (there / "tools/run.sh").stat().st_mode & 0o777 == 0o755


def test_what_is_ignored_further_up_in_the_repository_stays_here_too(tmp_path: Path) -> None:
    write(tmp_path, ".git/config", "sweeps/sweep.yaml", "sweeps/.env", "sweeps/keep.env")
    write(tmp_path, ".gitignore", text=".env\n*.env\n")
    write(tmp_path, "sweeps/.gitignore", text="!keep.env\n")
    assert names(tmp_path / "sweeps") == [".gitignore", "keep.env", "sweep.yaml"]


def test_a_link_to_a_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "real/model.py", "sweep.yaml")
    (tmp_path / "alias").symlink_to("real")
    with pytest.raises(InputError, match="is a link to a folder"):
        files_of(tmp_path)


def test_a_link_that_leads_out_is_refused_unless_it_is_ignored(tmp_path: Path) -> None:
    here = tmp_path / "here"
    write(tmp_path, "secret")
    write(here, "sweep.yaml")
    (here / "out").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is a link that leads out of"):
        files_of(here)
    write(here, ".gitignore", text="out\n")
    assert names(here) == [".gitignore", "sweep.yaml"]


def test_too_much_is_refused_and_the_largest_are_named(tmp_path: Path) -> None:
    here = tmp_path / "here"
    write(here, "small.py")
    write(here, "weights/large.pt", text="x" * 3_000_000)
    write(here, "larger.npz", text="x" * 5_000_000)
    with pytest.raises(InputError) as caught:
        pack(here, tmp_path / "there", limit=6_000_000)
    assert (
        "holds 8 MB, and at most 6 MB are sent; the largest: larger.npz (5.0 MB), weights/large.pt"
        " (3.0 MB)" in str(caught.value)
    )
    assert not (tmp_path / "there").exists()


def test_code_is_kept_once_and_under_its_digest(tmp_path: Path) -> None:
    write(tmp_path / "job", "task.py", text="one")
    kept = keep_code(tmp_path / "job", tmp_path / "shared", "abc")
    write(tmp_path / "job", "task.py", text="two")
    assert keep_code(tmp_path / "job", tmp_path / "shared", "abc") == kept
    assert (kept / "task.py").read_text() == "one"
    assert [path.name for path in kept.parent.iterdir()] == ["abc"]


# --- the way there -------------------------------------------------------------------------------


@contextmanager
def heard() -> Iterator[tuple[str, list[str]]]:
    """A server that should get no request: its address, and the requests that came."""
    came: list[str] = []
    with server(200, "[]", asked=came) as address:
        yield address, came


@contextmanager
def server(
    status: int,
    body: str,
    token: str | None = None,
    location: str = "",
    asked: list[str] | None = None,
) -> Iterator[str]:
    """A server on this machine; with a token, it answers only to those who have it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if asked is not None:
                asked.append(str(self.headers))
            known = token is None or self.headers.get("Authorization") == f"Bearer {token}"
            self.send_response(status if known else 401)
            if location:
                self.send_header("Location", location)
            self.end_headers()
            self.wfile.write(body.encode() if known else b"Unauthorized")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))


def refused(address: str) -> str:
    began = time.monotonic()
    with pytest.raises(StateError) as caught:
        connect(address)
    assert time.monotonic() - began < 10 and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_closed_tunnel_and_another_server_are_said_with_the_remedy() -> None:
    with server(200, "[]") as address:
        pass
    assert "nothing answers there" in refused(address) and "ray dashboard" in refused(address)
    with server(404, "not here") as address:
        assert "answers with 404, so it is no Ray dashboard; is the port right?" in refused(
            address
        )
    for body in ("<html>", "{}"):
        with server(200, body) as address:
            assert "something answers there that is no Ray dashboard" in refused(address)


def test_a_missing_and_a_wrong_token_are_said_with_the_remedy(tmp_path: Path) -> None:
    with server(200, "[]", token="right") as address:
        assert "asks for a token, and there is none in ~/.ray/auth_token" in refused(address)
        (tmp_path / "token").write_text("wrong\n")
        assert "does not know the token in ~/.ray/auth_token" in refused(address)
        assert "wrong" not in refused(address)


def test_nobody_else_is_shown_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    with heard() as (other, headers):
        monkeypatch.setenv("http_proxy", other)
        with server(200, "<html>") as address:
            assert "no Ray dashboard" in refused(address)
        with server(302, "", location=other) as address:
            assert "answers with 302, so it is no Ray dashboard" in refused(address)
        assert headers == []
        for wrong in (b"one\ntwo", b"\xff\xfe"):
            (tmp_path / "token").write_bytes(wrong)
            assert "holds no token" in refused(other) and "two" not in refused(other)
        assert headers == []


def test_something_else_that_listens_is_said_to_be_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(
            target=lambda: listener.accept()[0].sendall(b"SSH-2.0-x\r\n"), daemon=True
        ).start()
        assert "no web server" in refused(f"http://127.0.0.1:{listener.getsockname()[1]}")


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:abc",
        "http://[foo",
        "127.0.0.1:8265",
        "ray://head:10001",
        "ftp://x",
        "",
        "http://",
    ],
)
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="must be the address of Ray's dashboard"):
        connect(address)


# --- jobs ----------------------------------------------------------------------------------------


class Cluster:
    """A job server whose jobs end at once, with given output."""

    def __init__(self, printed: str = "", status: str = "SUCCEEDED") -> None:
        self.printed, self.status, self.deleted = (
            printed,
            SimpleNamespace(value=status),
            list[str](),
        )
        self.jobs: list[Any] = []

    def submit_job(self, entrypoint: str, submission_id: str) -> str:
        return submission_id

    def get_job_status(self, job: str) -> Any:
        return self.status

    def get_job_logs(self, job: str) -> str:
        return self.printed

    def delete_job(self, job: str) -> None:
        self.deleted.append(job)

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def add(
        self, name: str, sweep: str, began: int, status: str = "RUNNING", **owner: str
    ) -> None:
        self.jobs.append(
            SimpleNamespace(
                submission_id=name,
                metadata={"sweep": sweep, **owner},
                status=SimpleNamespace(value=status),
                message="",
                start_time=began,
                end_time=None,
                driver_exit_code=None,
            )
        )


def told(**other: str) -> str:
    return "a warning\nversions " + json.dumps(versions() | other)


def test_the_same_versions_are_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    cluster: Any = Cluster(told())
    check_versions(cluster, strict=True)
    assert caplog.messages == [] and len(cluster.deleted) == 1


def test_another_ray_or_python_stops_a_submission_and_other_packages_are_noted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster: Any = Cluster(told(ray="2.59.0", torch="2.13.0"))
    with pytest.raises(
        StateError,
        match=r"ray is \S+ here and 2\.59\.0 on the cluster; make them the same, or pass",
    ):
        check_versions(cluster, strict=True)
    check_versions(cluster, strict=False)
    assert any(line.startswith("Note: torch is ") for line in caplog.messages)
    assert any("Note: ray is" in line for line in caplog.messages)
    major, minor, _ = versions()["python"].split(".")
    caplog.clear()
    another: Any = Cluster(told(python=f"{major}.{minor}.99"))
    check_versions(another, strict=True)
    assert "python" in caplog.messages[0]
    older: Any = Cluster(told(python="3.9.1"))
    with pytest.raises(StateError, match="python is"):
        check_versions(older, strict=True)


def test_a_cluster_without_foldrace_is_said() -> None:
    clusters: list[Any] = [Cluster("No module named 'foldrace'", "FAILED"), Cluster("nothing")]
    for cluster in clusters:
        with pytest.raises(StateError, match="Foldrace is not installed on the cluster"):
            check_versions(cluster, strict=True)


def test_a_job_is_found_by_its_sweep_or_its_id_the_newest_first() -> None:
    cluster: Any = Cluster()
    with pytest.raises(StateError, match="no sweep has been submitted"):
        find_job(cluster, None)
    cluster.add("foldrace-a-1", "a", 1)
    cluster.add("foldrace-a-2", "a", 3)
    cluster.add("foldrace-b-1", "b", 2)
    cluster.add("somebody's", "", 9)
    found = [find_job(cluster, name) for name in (None, "a", "b", "foldrace-a-1")]
    assert [job.id for job in found] == [
        "foldrace-a-2",
        "foldrace-a-2",
        "foldrace-b-1",
        "foldrace-a-1",
    ]
    assert found[0] == Job("foldrace-a-2", "a", "RUNNING", "", 3, None, None)
    with pytest.raises(StateError, match="c: no such job on this cluster; it knows: a, b"):
        find_job(cluster, "c")


def test_a_job_that_is_stopped_is_the_one_that_is_meant_and_ones_own() -> None:
    class Logging(Cluster):
        """Whose jobs have logged their folders."""

        def get_job_logs(self, job: str) -> str:
            return f"checked\n{job.split('/')[1]}: in /shared/x\n" if "/" in job else ""

    cluster: Any = Logging()
    other = {"user": "ada", "host": "engine"}
    cluster.add("foldrace-1/same", "same", 1, **other)
    cluster.add("foldrace-2/same-2", "same", 2, **submitter())
    assert job_to_stop(cluster, "same-2").id == "foldrace-2/same-2"
    with pytest.raises(StateError, match="1/same: ada submitted it from engine; --force stops it"):
        job_to_stop(cluster, "same")
    assert job_to_stop(cluster, "same", force=True).id == "foldrace-1/same"
    assert find_job(cluster, "same").id == "foldrace-1/same"  # looking on is free
    listed = with_folders(cluster, jobs_of(cluster))
    assert [(job.sweep, job.is_mine) for job in listed] == [("same-2", True), ("same", False)]
    cluster.add("foldrace-3", "new", 3, **submitter())  # which has no folder yet
    cluster.add("foldrace-4", "new", 4, **submitter())
    with pytest.raises(
        StateError, match=r"new: 2 jobs of that name run: foldrace-4 \(.*; name one"
    ):
        job_to_stop(cluster, "new")
    assert job_to_stop(cluster, "foldrace-3").id == "foldrace-3"
    cluster.add("foldrace-5/over", "over", 5, status="SUCCEEDED", **other)
    assert job_to_stop(cluster, "over").status == "SUCCEEDED"  # and that is then said


DASHBOARD = Forward("Ray", 8265, 8265)


def test_a_tunnel_needs_a_clusters_file_and_free_ports(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "cluster" / "templates"
    spec = tmp_path / "sweep.yaml"
    spec.write_text("name: x\n")
    with pytest.raises(InputError, match="must be a file for `ray up`"):
        open_tunnel(spec, [DASHBOARD])
    with pytest.raises(
        InputError, match="kubectl port-forward service/foldrace-head-svc 8265:8265"
    ):
        open_tunnel(shipped / "kuberay.yaml", [DASHBOARD])
    with pytest.raises(InputError, match="cannot be read"):
        open_tunnel(tmp_path / "nowhere.yaml", [DASHBOARD])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StateError, match=f"127.0.0.1:{port}: the port is in use"):
            open_tunnel(shipped / "onprem.yaml", [Forward("Ray", port, 8265)])


def test_a_tunnel_is_ssh_alone_to_loopback_alone() -> None:
    command = ssh_command(
        "10.0.0.1", {"ssh_user": "me", "ssh_private_key": "/keys/id"}, [Forward("Ray", 8266, 8265)]
    )
    assert command[:2] == ["ssh", "-N"] and command[-1] == "me@10.0.0.1"
    assert command[-3:-1] == ["-L", "127.0.0.1:8266:127.0.0.1:8265"]
    assert command[command.index("-i") :][:2] == ["-i", "/keys/id"]


def test_a_followed_job_is_copied_to_the_given_stream() -> None:
    class Followed(Cluster):
        async def tail_job_logs(self, job: str) -> Any:
            for text in ("one\n", "[two]\n"):
                yield text

    cluster: Any = Followed()
    cluster.add("foldrace-a-1", "a", 1, status="SUCCEEDED")
    output = io.StringIO()
    job = follow(cluster, find_job(cluster, "a"), again="foldrace attach a", output=output)
    assert (job.status, output.getvalue()) == ("SUCCEEDED", "one\n[two]\n")


def test_a_submitted_sweep_gets_its_folders_its_options_and_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []

    class Accepting(Cluster):
        def submit_job(self, entrypoint: str, submission_id: str, **given: Any) -> str:
            folder = given["runtime_env"].get("working_dir")
            code = sorted(path.name for path in Path(folder).iterdir()) if folder else []
            sent.append(given | {"command": entrypoint, "code": code})
            self.add(submission_id, given["metadata"]["sweep"], 1)
            return submission_id

    cluster: Any = Accepting()
    write(tmp_path, "sweep.yaml", text="{name: mine, dataset: digits, space: {lr: 0.01}}")
    write(tmp_path, "helper.py")
    there = Destination(
        Path("/shared/runs"), tracking="http://127.0.0.1:5000", options=("--refit",)
    )
    with make_parcel(tmp_path / "sweep.yaml", ["epochs=2"]) as parcel:
        job = submit(cluster, parcel, there)
    assert job.sweep == "mine" and job.id.startswith("foldrace-mine-")
    [first] = sent
    assert first["code"] == ["helper.py", "sweep.yaml"]
    entry = "python -m foldrace.cluster.entry_point /shared/runs "
    rest = (
        " sweep.yaml --dir /shared/runs --data-dir /shared/runs/data --refit --set epochs=2"
        " --tracking-uri http://127.0.0.1:5000"
    )
    assert first["command"].startswith(entry) and first["command"].endswith(rest)
    resume(cluster, "mine", Destination(Path("/shared/runs"), Path("/data")))
    assert sent[1]["command"] == (
        "python -m foldrace resume mine --address auto --dir /shared/runs --data-dir /data"
    )
    assert "working_dir" not in sent[1]["runtime_env"]


TASK = """
import torch
import {helper}

class Task:
    parameters = {{}}
    def build(self, params, sample):
        return torch.nn.Linear(sample.shape[-1], 1)
    def losses(self, model, batch, params):
        return {helper}.terms(model(batch["x"]), batch["y"])
"""
HELPER = """
def terms(made, y):
    return {"loss": (made[:, 0] - y) ** 2}
"""
OWN_DATA = """
import numpy as np

def made():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    return {"x": x, "y": x.sum(1)}
"""


@pytest.mark.parametrize(
    ("task", "data"),
    [
        ("./models.py:Task", "./tables.py:made"),
        ("models.py:Task", "tables.py:made"),
        ("kept.models:Task", "kept.tables:made"),
        ("./models.py:Task", "./set.npz"),
        ("./models.py:Task", "set.npz"),
    ],
)
def test_a_task_of_ones_own_and_what_it_imports_and_its_data_are_sent(
    task: str, data: str, tmp_path: Path
) -> None:
    write(tmp_path, "models.py", text=TASK.format(helper="siblings_of_it"))
    write(tmp_path, "siblings_of_it.py", "kept/more.py", text=HELPER)
    (tmp_path / "kept/models.py").write_text(
        TASK.format(helper="siblings_of_it").replace(
            "import siblings_of_it", "from kept import more as siblings_of_it"
        )
    )
    write(tmp_path, "tables.py", "kept/tables.py", "kept/__init__.py", text=OWN_DATA)
    made = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
    np.savez(tmp_path / "set.npz", x=made, y=made.sum(1))
    write(tmp_path, "sweep.yaml", text=f"{{task: {task}, dataset: {{name: {data}, target: y}}}}")
    with make_parcel(tmp_path / "sweep.yaml") as parcel:
        assert {Path("models.py"), Path("siblings_of_it.py"), Path("set.npz")} < {*parcel.files}
        assert (parcel.folder / "kept/more.py").read_text() == HELPER


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("task", "../other.py:Task", "task: .*is outside .*, the folder that is sent"),
        ("task", "{here}/mine.py:Task", r"is not at this path on the cluster; \./mine\.py"),
        ("task", "./left_out.py:Task", "is named in .gitignore, so it would not be sent"),
        ("dataset", "../far.npz", "dataset: .*is outside"),
        ("dataset", "./big.npz", "dataset: .*is named in .gitignore"),
        ("metrics", "[../other.py:best]", r"metrics\[0\]: .*is outside"),
    ],
)
def test_code_and_data_that_would_not_be_sent_are_refused(
    field: str, value: str, told: str, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    write(tmp_path, "other.py", "far.npz", "here/mine.py", "here/left_out.py", "here/big.npz")
    write(here, ".gitignore", text="*.npz\nleft_out.py\n")
    keys = {"dataset": "digits", field: value.format(here=here)}
    write(here, "sweep.yaml", text="\n".join(f"{name}: {one}" for name, one in keys.items()))
    with pytest.raises(InputError, match=told), make_parcel(here / "sweep.yaml"):
        pass


def test_data_that_are_on_the_cluster_alone_are_named_by_their_path_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "foldrace")
    write(tmp_path, "sweep.yaml", text="dataset: /shared/somewhere/large.npz")
    with make_parcel(tmp_path / "sweep.yaml") as parcel:
        assert parcel.files == (Path("sweep.yaml"),)
    assert "not here, so it is looked for on the cluster" in caplog.text


def test_the_servers_of_a_sweep_file_and_of_the_command_are_both_heeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Destination] = []
    cluster: Any = Cluster(told())
    cluster.add("foldrace-mine-1", "mine", 1)
    monkeypatch.setattr("foldrace.cluster.connection.connect", lambda address: cluster)

    def note(client: Any, parcel: Any, destination: Destination) -> Job:
        sent.append(destination)
        return find_job(client, None)

    monkeypatch.setattr("foldrace.cluster.submit.submit", note)
    write(tmp_path, "none.yaml", text="dataset: digits")
    write(tmp_path, "own.yaml", text="{dataset: digits, tracking: {uri: 'http://own:5000'}}")
    for file, options in (("none", []), ("own", []), ("own", ["--tracking-uri", "http://o:1"])):
        assert main(["submit", str(tmp_path / f"{file}.yaml"), "--detach", *options]) == 0
    assert [one.tracking for one in sent] == ["http://127.0.0.1:5000", None, "http://o:1"]


def test_the_private_parts_of_ray_that_are_used_are_there() -> None:
    from ray.autoscaler._private.commands import _bootstrap_config, get_head_node_ip
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.job_submission import JobSubmissionClient

    first = {
        _bootstrap_config: ["config"],
        get_head_node_ip: ["config_file"],
        prepare_config: ["config"],
        validate_config: ["config"],
        JobSubmissionClient._do_request: ["self", "method", "endpoint"],
        JobSubmissionClient._raise_error: ["self", "r"],
    }
    for function, names in first.items():
        assert list(inspect.signature(function).parameters)[: len(names)] == names
