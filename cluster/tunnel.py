"""The tunnel from a laptop to a cluster's head: ``foldrace tunnel CLUSTER.yaml``."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from foldrace.errors import InputError, StateError, first_line

__all__ = ["open_tunnel", "ssh_command"]

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


def open_tunnel(path: Path, ports: Mapping[int, int], opened: Callable[[], None]) -> None:
    """Brings ports of the head's loopback to this machine's, by SSH; returns when somebody presses
    Ctrl-C.

    Args:
        path: the file that the cluster was brought up by.
        ports: {port here: port there}.
        opened: called once, when it is open.

    Raises:
        InputError: the file cannot be read, or is none for ``ray up``.
        StateError: a port is taken here, there is no such cluster, or SSH does not get there or
            breaks off.
    """
    values = _read(path)
    for port in ports:
        _check_free(port)
    head, auth = _head(path, values)
    ssh = subprocess.Popen(ssh_command(head, auth, ports), stdin=subprocess.DEVNULL)
    try:
        while ssh.poll() is None and not all(map(_answers, ports)):
            time.sleep(0.1)
        if ssh.poll() is None:
            opened()
        ssh.wait()
    except KeyboardInterrupt:
        return
    finally:
        ssh.terminate()
        ssh.wait()
    raise StateError(
        f"{path}: the tunnel to {head} is closed: ssh ended with {ssh.returncode}, and says"
        " above why"
    )


def ssh_command(head: str, auth: Mapping[str, Any], ports: Mapping[int, int]) -> list[str]:
    """What opens it; ``auth`` as in a file for ``ray up``."""
    command = ["ssh", "-N"]
    for option in _OPTIONS:
        command += ["-o", option]
    if key := auth.get("ssh_private_key"):
        command += ["-i", str(Path(str(key)).expanduser()), "-o", "IdentitiesOnly=yes"]
    for here, there in ports.items():
        command += ["-L", f"127.0.0.1:{here}:127.0.0.1:{there}"]
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
        rule = "is Kubernetes', which has its own tunnel"
        raise InputError(
            "CLUSTER", str(path), rule, f"kubectl port-forward service/{name}-head-svc 8265:8265"
        )
    if not isinstance(values, Mapping) or not isinstance(values.get("provider"), Mapping):
        raise InputError(
            "CLUSTER", str(path), "must be a file for `ray up`", "cluster/templates/onprem.yaml"
        )
    return values


def _head(path: Path, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The head's address, and how one logs in there. Raises: StateError."""
    provider = values["provider"]
    if provider.get("type") == "local":
        return (
            str(provider.get("external_head_ip") or provider.get("head_ip")),
            values.get("auth") or {},
        )
    from ray.autoscaler._private.commands import _bootstrap_config, get_head_node_ip

    try:
        return get_head_node_ip(str(path)), _bootstrap_config(dict(values))["auth"]
    except (Exception, SystemExit) as error:  # Ray's own, click's, a cloud's
        raise StateError(
            f"{path}: the head of this cluster is not found ({first_line(error)}); is it up?"
        ) from error


def _check_free(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            rule = (
                "something listens there; is a tunnel open already? --port and --mlflow-port take"
                " others"
            )
            raise StateError(f"127.0.0.1:{port}: {rule}") from error


def _answers(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex(("127.0.0.1", port)) == 0
