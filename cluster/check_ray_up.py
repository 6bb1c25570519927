"""Files for ``ray up``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from foldrace.cluster.check import (
    LONGEST,
    Document,
    Finding,
    items,
    listens_outside,
    mapping,
    unknown_keys,
)
from foldrace.cluster.check_image import check_images, install_faults
from foldrace.cluster.check_machines import PROVIDERS, check_machines, node_types
from foldrace.errors import nearest

__all__ = ["check_cluster"]

_TOKEN = "~/.ray/auth_token"
_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def check_cluster(document: Document) -> list[Finding]:
    """All that is amiss in a file for ``ray up``."""
    kind = mapping(document.values.get("provider")).get("type")
    if not isinstance(kind, str) or kind not in PROVIDERS:
        rule = f"{kind!r}: no such provider here; {nearest(kind, PROVIDERS)}"
        return [document.finding(("provider", "type"), rule)]
    rules = (
        _check_schema,
        check_machines,
        _check_counts,
        _check_ingress,
        _check_listeners,
        _check_token,
        _check_pins,
    )
    return [finding for rule in rules for finding in rule(document, kind)]


def _check_schema(document: Document, kind: str) -> Iterator[Finding]:
    """Ray's own validation."""
    import jsonschema  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    values = copy.deepcopy(document.values)
    for node in mapping(values.get("available_node_types")).values():
        if isinstance(node, dict):
            node.setdefault("resources", {})
    try:
        validate_config(prepare_config(values))
    except jsonschema.ValidationError as error:
        unknown = (
            re.findall(r"'([^']+)'", error.message)
            if error.validator == "additionalProperties"
            else []
        )
        if unknown and isinstance(error.schema, Mapping):
            known = error.schema.get("properties", {})
            yield from unknown_keys(document, tuple(error.absolute_path), unknown[:1], known)
        else:
            yield document.finding(tuple(error.absolute_path), error.message[:LONGEST])
    except Exception as error:  # Ray raises what comes to hand
        why = str(error) or type(error).__name__
        yield document.finding((), f"Ray refuses it: {why[:LONGEST]}")


def _check_counts(document: Document, kind: str) -> Iterator[Finding]:
    values = document.values
    most, least = values.get("max_workers"), 0
    for name, node in node_types(document):
        few, many = node.get("min_workers", 0), node.get("max_workers", most)
        if isinstance(few, int):
            least += few
            if isinstance(many, int) and few > many:
                where = ("available_node_types", name, "min_workers")
                yield document.finding(where, f"{few}: more than the {many} of max_workers")
    if kind == "local":
        least, there = values.get("min_workers", 0), values["provider"].get("worker_ips")
        if isinstance(there, list) and isinstance(most, int) and most != len(there):
            many = "more than" if most > len(there) else "fewer than"
            yield document.finding(
                ("max_workers",), f"{most}: {many} there are worker_ips ({len(there)})"
            )
        if isinstance(there, list) and values["provider"].get("head_ip") in there:
            yield document.finding(
                ("provider", "worker_ips"), "has the head in it, which trains nothing"
            )
    if isinstance(most, int) and isinstance(least, int) and least > most:
        yield document.finding(
            ("max_workers",), f"{most}: fewer than the {least} of min_workers together"
        )
    if "idle_timeout_minutes" not in values:
        rule = (
            "idle_timeout_minutes is missing: machines that idle would cost money for Ray's"
            " default"
        )
        yield document.finding((), rule)


def _check_ingress(document: Document, kind: str) -> Iterator[Finding]:
    """Who may come in. SSH from everywhere is what Ray allows by itself; nothing else may be."""
    group = ("provider", "security_group", "IpPermissions")
    rules = mapping(document.values["provider"].get("security_group")).get("IpPermissions")
    for i, rule in enumerate(items(rules)):
        given = mapping(rule)
        if (given.get("FromPort"), given.get("ToPort")) == (22, 22):
            continue
        for name, address, world in (
            ("IpRanges", "CidrIp", "0.0.0.0/0"),
            ("Ipv6Ranges", "CidrIpv6", "::/0"),
        ):
            for j, one in enumerate(items(given.get(name))):
                where = (*group, i, name, j)
                if mapping(one).get(address) == world:
                    yield document.finding(
                        where, "opens the machines to everybody; only SSH (22) may be reached"
                    )
                else:
                    rest = (
                        "nothing but SSH (22) is to be reached from outside; the rest through it"
                    )
                    yield document.finding(where, rest)
        if given.get("PrefixListIds"):
            yield document.finding(
                (*group, i, "PrefixListIds"), "nothing but SSH (22) is to be reached from outside"
            )


def _check_listeners(document: Document, kind: str) -> Iterator[Finding]:
    """What listens where, and what a head says of itself."""
    for place, command in _commands(document):
        for rule in listens_outside(command):
            yield document.finding(place, rule)
        if not re.search(r"\bray start\b.*--head\b", command, re.DOTALL):
            continue
        if "--autoscaling-config" not in command:
            rule = (
                "say --autoscaling-config=~/ray_bootstrap_config.yaml, or no machine is ever added"
            )
            yield document.finding(place, rule)
        if "--dashboard-host" not in command:
            yield document.finding(
                place, "say --dashboard-host=127.0.0.1; it is not the default everywhere"
            )
        if kind == "local" and not re.search(r"--num-cpus[ =]0\b", command):
            yield document.finding(
                place, "say --num-cpus=0, or trials run on the machine that drives them"
            )
        if re.search(r"--num-gpus[ =][1-9]", command) or (
            kind == "local" and "--num-gpus" not in command
        ):
            yield document.finding(
                place, "say --num-gpus=0, or Ray offers the head's own GPUs to trials"
            )


def _commands(document: Document) -> Iterator[tuple[tuple[Any, ...], str]]:
    places: list[tuple[str, ...]] = [(name,) for name in _COMMANDS]
    places += [
        ("available_node_types", node, name)
        for node, _ in node_types(document)
        for name in _COMMANDS
    ]
    for place in places:
        found: Any = document.values
        for part in place:
            found = mapping(found).get(part)
        for i, command in enumerate(items(found)):
            if isinstance(command, str):
                yield (*place, i), command


def _check_token(document: Document, kind: str) -> Iterator[Finding]:
    mounts = mapping(document.values.get("file_mounts"))
    if not any(target.endswith(".ray/auth_token") for target in mounts):
        rule = f"must bring the token: {_TOKEN}: {_TOKEN}; anybody could run code else"
        yield document.finding(("file_mounts",), rule)
    if not any(
        re.search(r"chmod\s+0?600\s+\S*\.ray/auth_token", command)
        for _, command in _commands(document)
    ):
        yield document.finding(("setup_commands",), f"must have: chmod 600 {_TOKEN}")
    docker = mapping(document.values.get("docker"))
    for role in ("head", "worker"):
        if not any(_switches_on(document, role)):
            inside = (
                " in the container (docker.run_options: --env RAY_AUTH_MODE=token)"
                if docker
                else ""
            )
            rule = (
                f"RAY_AUTH_MODE=token is set nowhere for the {role}{inside}: Ray would ask nobody"
                " for a token"
            )
            yield document.finding(("docker",) if docker else (), rule)
    for place, text in document.walk():
        if isinstance(text, str) and re.search(r"\bRAY_AUTH_MODE=['\"]?(?!token\b)\w", text):
            yield document.finding(place, "switches the token off; RAY_AUTH_MODE=token")


def _switches_on(document: Document, role: str) -> Iterator[bool]:
    """Whether each of the places that Ray on the head, or on a worker, has its environment from
    asks for the token.

    Where there is a container, what is said outside of it (initialization_commands) does not reach
    Ray.
    """
    docker = mapping(document.values.get("docker"))
    for name in ("run_options", f"{role}_run_options"):
        yield any("RAY_AUTH_MODE=token" in str(option) for option in items(docker.get(name)))
    lasting = {"setup_commands", f"{role}_setup_commands"} | (
        set() if docker else {"initialization_commands"}
    )
    for place, command in _commands(document):
        if "RAY_AUTH_MODE=token" not in command:
            continue
        yield place[-2] in lasting and bool(re.search(r"rc\b|profile|/etc/environment", command))
        yield place[-2] == f"{role}_start_ray_commands" and "ray start" in command


def _check_pins(document: Document, kind: str) -> Iterator[Finding]:
    yield from check_images(document)
    for place, command in _commands(document):
        for fault in install_faults(command):
            yield document.finding(place, fault)
