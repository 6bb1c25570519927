"""Hosts simulated on this machine, each with its own network, processes, files and SSH server."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

__all__ = ["PATIENCE", "Host", "Lan", "lan", "missing"]

PATIENCE = 900.0
"""Seconds that anything is waited for: a busy machine needs them, and an idle one never does."""

ROOT = Path(__file__).parents[2]
_PRIVATE = ("tmp", "run", "root", "home", "var/tmp")
_NETWORK = "10.77.0"
_TOOLS = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync", "initdb")
_POSTGRES = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
_SSHD = """\
Port 22
ListenAddress {address}
HostKey /run/ssh_host_key
PidFile none
PermitRootLogin prohibit-password
AuthorizedKeysFile /root/.ssh/authorized_keys
StrictModes no
UsePAM no
PrintMotd no
AcceptEnv LANG
Subsystem sftp internal-sftp
"""
_START = """\
set -e
mount --make-rprivate /
for name in {private}; do mount --rbind {own}/$name /$name; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
hostname {name}
cd /root
exec {first}
"""


def missing() -> list[str]:
    """The tools and rights that this machine lacks for simulated hosts."""
    lacks = [f"the command {tool}" for tool in _TOOLS if _which(tool) is None]
    if os.geteuid() != 0:
        return [*lacks, "the rights of root"]
    separate = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"]
    if not lacks and subprocess.run(separate, capture_output=True).returncode:
        lacks.append("the right to make namespaces")
    return lacks


def _which(tool: str) -> str | None:
    return shutil.which(
        tool, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *_POSTGRES])
    )


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")


class Host:
    """A simulated host.

    Attributes:
        name, address: its own.
        files: its private folders (`_PRIVATE`), as they are seen from outside.
    """

    def __init__(self, lan: Lan, name: str, number: int, *, serves: bool) -> None:
        self.lan, self.name, self.address = lan, name, f"{_NETWORK}.{number}"
        self.files = lan.folder / name
        self.network = f"{lan.prefix}{name}"
        self._serves = serves
        self._process: subprocess.Popen[bytes] | None = None
        self._furnish()
        _run("ip", "netns", "add", self.network)
        end = f"{lan.prefix}v{number}"
        _run(
            "ip",
            "-n",
            lan.switch,
            "link",
            "add",
            end,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            self.network,
        )
        _run("ip", "-n", lan.switch, "link", "set", end, "master", "br0", "up")
        _run("ip", "-n", self.network, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _run("ip", "-n", self.network, "link", "set", "lo", "up")
        _run("ip", "-n", self.network, "link", "set", "eth0", "up")
        # It leads nowhere; without a route, no process could tell its own address.
        _run("ip", "-n", self.network, "route", "add", "default", "via", f"{_NETWORK}.254")

    def _furnish(self) -> None:
        """Creates its private folders."""
        for name in _PRIVATE:
            (self.files / name).mkdir(parents=True)
        for name in ("tmp", "var/tmp"):
            (self.files / name).chmod(0o1777)
        (self.files / "run/sshd").mkdir()
        ssh = self.files / "root/.ssh"
        ssh.mkdir(mode=0o700)
        shutil.copy(self.lan.folder / "key.pub", ssh / "authorized_keys")
        shutil.copy(self.lan.folder / "host_key", self.files / "run/ssh_host_key")
        (self.files / "run/ssh_host_key").chmod(0o600)
        (self.files / "run/sshd_config").write_text(_SSHD.format(address=self.address))
        path = os.pathsep.join(
            [
                str(Path(sys.executable).parent),
                "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
                *_POSTGRES,
            ]
        )
        self.set(
            PATH=path,
            PYTHONPATH=str(ROOT),
            RAY_USAGE_STATS_ENABLED="0",
            MLFLOW_DISABLE_TELEMETRY="true",
        )

    def set(self, **variables: str) -> None:
        """Sets environment variables for every process that will be started on it."""
        for name in (".bashrc", ".profile"):
            with (self.files / "root" / name).open("a") as file:
                file.writelines(
                    f"export {variable}={shlex.quote(value)}\n"
                    for variable, value in variables.items()
                )

    def start(self) -> None:
        """Starts it; returns once it answers."""
        for shared in self.lan.shared:  # what lies below a private folder would be hidden by it
            inside = self.files / shared.relative_to("/")
            if any(shared.is_relative_to(f"/{name}") for name in _PRIVATE) and not os.path.ismount(
                inside
            ):
                inside.mkdir(parents=True, exist_ok=True)
                _run("mount", "--bind", str(shared), str(inside))
        first = f"{_which('sshd')} -D -e -f /run/sshd_config" if self._serves else "sleep infinity"
        script = _START.format(
            private=" ".join(_PRIVATE), own=self.files, name=self.name, first=first
        )
        separate = [
            "unshare",
            "--mount",
            "--uts",
            "--ipc",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]
        with (self.files / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self.network, *separate, "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while self.run("true", check=False).returncode:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise RuntimeError((self.files / "log").read_text())
            time.sleep(0.05)

    @property
    def _first(self) -> int | None:
        """The process that has number 1 on it, by its number outside."""
        if self._process is None:
            return None
        try:
            children = psutil.Process(self._process.pid).children()
        except psutil.NoSuchProcess:
            return None
        return children[0].pid if children else None

    def _inside(self, command: str, environment: Mapping[str, str]) -> list[str]:
        own = {"HOME": "/root", "USER": "root", "TERM": "dumb", "LANG": "C.UTF-8", **environment}
        settings = [f"{name}={value}" for name, value in own.items()]
        enter = [
            "nsenter",
            "--target",
            str(self._first or 0),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
        ]
        return [
            *enter,
            "env",
            "--ignore-environment",
            *settings,
            "bash",
            "--login",
            "-c",
            f"cd; {command}",
        ]

    def run(
        self, command: str, *, check: bool = True, timeout: float = PATIENCE, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a shell on it. Raises: RuntimeError if it fails and ``check``."""
        done = subprocess.run(
            self._inside(command, environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: {command}:"
                f" {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            )
        return done

    def spawn(self, command: str, **environment: str) -> subprocess.Popen[str]:
        """Starts a command in the background, its output in one stream."""
        return subprocess.Popen(
            self._inside(command, environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def processes(self) -> list[psutil.Process]:
        """All its processes."""
        first = self._first
        return (
            []
            if first is None
            else [psutil.Process(first), *psutil.Process(first).children(recursive=True)]
        )

    def kill(self) -> None:
        """Kills it, as a power failure would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Removes every trace of it."""
        self.kill()
        subprocess.run(["ip", "netns", "del", self.network], capture_output=True)
        mounts = [
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ]
        for place in sorted(
            (m for m in mounts if Path(m).is_relative_to(self.files)), reverse=True
        ):
            _run("umount", place)


class Lan:
    """A network of hosts that nothing else on this machine can reach.

    Attributes:
        shared: folders that every host has at the same path: Python, this project, and ``common``.
        common: an empty folder, the same on all hosts.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="foldrace-hosts-", dir="/var/tmp"))
        self.prefix = f"fr{os.getpid() % 100_000}"
        self.switch = f"{self.prefix}lan"
        self.common = self.folder / "common"
        self.common.mkdir()
        needed = {
            Path(sys.prefix),
            Path(sys.base_prefix),
            ROOT,
            self.common,
            *(Path(entry) for entry in sys.path),
        }
        self.shared = {
            path
            for path in needed
            if path.is_dir() and not any(other in path.parents for other in needed)
        }
        self.hosts: list[Host] = []
        for name in ("key", "host_key"):
            _run(
                "ssh-keygen",
                "-q",
                "-t",
                "ed25519",
                "-N",
                "",
                "-C",
                name,
                "-f",
                str(self.folder / name),
            )
        _run("ip", "netns", "add", self.switch)
        _run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self.switch, "link", "set", "br0", "up")

    def add(self, name: str, *, serves: bool = True) -> Host:
        """Starts a new host: one that ``serves`` SSH, or a laptop with the key to all others."""
        host = Host(self, name, len(self.hosts) + 1, serves=serves)
        self.hosts.append(host)
        if not serves:
            ssh = host.files / "root/.ssh"
            shutil.copy(self.folder / "key", ssh / "id_ed25519")
            (ssh / "id_ed25519").chmod(0o600)
            kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
            (ssh / "known_hosts").write_text(f"{_NETWORK}.* {kind} {key}\n")
        host.start()
        return host

    def remove(self) -> None:
        """Removes every trace of it."""
        for host in self.hosts:
            host.remove()
        subprocess.run(["ip", "netns", "del", self.switch], capture_output=True)
        shutil.rmtree(self.folder)


@contextmanager
def lan() -> Iterator[Lan]:
    """A network that is removed at the end, with its hosts."""
    made = Lan()
    try:
        yield made
    finally:
        made.remove()
