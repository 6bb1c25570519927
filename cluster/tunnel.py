"""The tunnel from a laptop to a cluster's head: ``foldrace tunnel CLUSTER.yaml``."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

import yaml

from trainables.errors import InputError, StateError, first_line

__all__ = ["open_tunnel"]


def open_tunnel(path: Path, ports: Mapping[int, int]) -> None:
    """Brings ports of the head's loopback to this machine's, by SSH as `ray attach` does; returns when SSH ends.

    Args:
        path: the file that the cluster was brought up by.
        ports: {port here: port there}.

    Raises:
        InputError: the file cannot be read, or is none for ``ray up``.
        StateError: a port is taken here, or there is no such cluster, or SSH does not get there.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError("CLUSTER", str(path), f"cannot be read: {first_line(error)}") from error
    if not isinstance(values, Mapping) or not {"cluster_name", "provider"} <= set(values):
        raise InputError("CLUSTER", str(path), "must be a file for `ray up`", "cluster/onprem.yaml")
    for port in ports:
        _check_free(port)
    from ray.autoscaler._private.commands import exec_cluster

    try:
        exec_cluster(str(path), port_forward=list(ports.items()))
    except (Exception, SystemExit) as error:  # Ray's own, click's, a cloud's
        why = first_line(error) or type(error).__name__
        raise StateError(f"{path}: no tunnel to this cluster ({why}); is it up? `ray up {path}`") from error


def _check_free(port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError as error:
            rule = "something listens there; is a tunnel open already? --port and --mlflow-port take others"
            raise StateError(f"127.0.0.1:{port}: {rule}") from error
