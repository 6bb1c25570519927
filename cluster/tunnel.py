"""The SSH tunnel from a laptop to a cluster's head: ``foldrace tunnel CLUSTER.yaml``."""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foldrace.errors import InputError, StateError, first_line

__all__ = ["Forward", "open_tunnel", "ssh_command"]

log = logging.getLogger(__name__)

_OPTIONS = (
    "BatchMode=yes",
    "ExitOnForwardFailure=yes",
    "ControlMaster=no",
    "ControlPath=none",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "StrictHostKeyChecking=accept-new",
)


@dataclass(frozen=True)
class Forward:
    """A forwarded port: of this machine's loopback, to one of the head's loopback.

    Attributes:
        name: what answers there, for messages.
        local: the port here.
        remote: the port on the head.
    """

    name: str
    local: int
    remote: int


def open_tunnel(path: Path, forwards: Sequence[Forward]) -> None:
    """Forwards ports to a cluster's head by SSH until Ctrl-C; logs when they are open.

    Args:
        path: the file that the cluster was brought up with.
        forwards: the ports.

    Raises:
        InputError: the file cannot be read, or is not one for ``ray up``.
        StateError: a local port is in use, the cluster has no head, or SSH fails or ends.
    """
    values = _read(path)
    for forward in forwards:
        _check_free(forward.local)
    head, auth = _head(path, values)
    ssh = subprocess.Popen(ssh_command(head, auth, forwards), stdin=subprocess.DEVNULL)
    try:
        while ssh.poll() is None and not all(_answers(forward.local) for forward in forwards):
            time.sleep(0.1)
        if ssh.poll() is None:
            places = ", ".join(f"{one.name} at http://127.0.0.1:{one.local}" for one in forwards)
            log.info("%s; Ctrl-C closes the tunnel", places)
        ssh.wait()
    except KeyboardInterrupt:
        return
    finally:
        ssh.terminate()
        ssh.wait()
    raise StateError(
        f"{path}: the tunnel to {head} is closed: ssh ended with {ssh.returncode}; its own message"
        " is above"
    )


def ssh_command(head: str, auth: Mapping[str, Any], forwards: Sequence[Forward]) -> list[str]:
    """The ssh command of a tunnel.

    Args:
        head: the head's address.
        auth: the section of that name in a file for ``ray up``.
        forwards: the ports.
    """
    command = ["ssh", "-N"]
    for option in _OPTIONS:
        command += ["-o", option]
    if key := auth.get("ssh_private_key"):
        command += ["-i", str(Path(str(key)).expanduser()), "-o", "IdentitiesOnly=yes"]
    for forward in forwards:
        command += ["-L", f"127.0.0.1:{forward.local}:127.0.0.1:{forward.remote}"]
    user = auth.get("ssh_user")
    return [*command, f"{user}@{head}" if user else head]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("CLUSTER", str(path), f"cannot be read: {first_line(error)}") from error
    values = documents[0] if documents else None
    if isinstance(values, Mapping) and "apiVersion" in values:
        name = (values.get("metadata") or {}).get("name", "NAME")
        forward = f"kubectl port-forward service/{name}-head-svc 8265:8265"
        rule = "is a Kubernetes manifest, and Kubernetes has its own tunnel"
        raise InputError("CLUSTER", str(path), rule, forward)
    if not isinstance(values, Mapping) or not isinstance(values.get("provider"), Mapping):
        hint = "`foldrace cluster init` writes some"
        raise InputError("CLUSTER", str(path), "must be a file for `ray up`", hint)
    return values


def _head(path: Path, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The head's address, and the ``auth`` section to log in with. Raises: StateError."""
    provider = values["provider"]
    if provider.get("type") == "local":
        address = provider.get("external_head_ip") or provider.get("head_ip")
        return str(address), values.get("auth") or {}
    from ray.autoscaler._private.commands import _bootstrap_config, get_head_node_ip

    try:
        return get_head_node_ip(str(path)), _bootstrap_config(dict(values))["auth"]
    except (Exception, SystemExit) as error:  # of Ray, click or a cloud's client
        raise StateError(
            f"{path}: the head of this cluster is not found ({first_line(error)}); is it up?"
        ) from error


def _check_free(port: int) -> None:
    """Raises: StateError if something listens on a port of the loopback."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StateError(
                f"127.0.0.1:{port}: the port is in use; is a tunnel open already? --port and"
                " --mlflow-port choose others"
            ) from error


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
