"""Files for ``ray up``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cluster.check import Document, Finding
from cluster.check_image import image_faults, install_faults
from trainables.errors import nearest

__all__ = ["check_cluster"]

_PROVIDER = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips", "security_group",
            "disable_node_updaters", "cloudwatch", "aws_credentials"},
    "gcp": {"type", "region", "availability_zone", "project_id", "cache_stopped_nodes", "use_internal_ips",
            "gcp_credentials", "disable_node_updaters", "_has_tpus"},
    "local": {"type", "head_ip", "worker_ips", "coordinator_address", "disable_node_updaters"},
}  # fmt: skip
_GCP_NODE = {
    "machineType", "disks", "scheduling", "guestAccelerators", "metadata", "networkInterfaces", "serviceAccounts",
    "labels", "tags", "minCpuPlatform", "sourceMachineImage", "shieldedInstanceConfig", "description",
    "reservationAffinity",
}  # fmt: skip
_GCP_SCHEDULING = {
    "provisioningModel",
    "preemptible",
    "onHostMaintenance",
    "automaticRestart",
    "instanceTerminationAction",
}
_TOKEN = "~/.ray/auth_token"
_COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip


def check_cluster(document: Document) -> list[Finding]:
    """All that is amiss in a file for ``ray up``."""
    values = document.values
    provider = values.get("provider")
    kind = provider.get("type") if isinstance(provider, Mapping) else None
    if kind not in _PROVIDER:
        return [document.finding(("provider", "type"), f"{kind!r}: no such provider here; {nearest(kind, _PROVIDER)}")]
    rules = (_check_schema, _check_keys, _check_nodes, _check_counts, _check_open, _check_token, _check_commands)
    return [finding for rule in rules for finding in rule(document, kind)]


def _unknown(
    document: Document, place: tuple[Any, ...], given: Iterable[str], known: Iterable[str]
) -> Iterator[Finding]:  # fmt: skip
    for key in given:
        if key not in set(known):
            yield document.finding((*place, key), f"no such key; {nearest(key, known)}")


def _check_schema(document: Document, kind: str) -> Iterator[Finding]:
    """Ray's own validation."""
    import jsonschema  # type: ignore[import-untyped]
    from ray.autoscaler._private.util import prepare_config, validate_config

    values = copy.deepcopy(document.values)
    for node in (values.get("available_node_types") or {}).values():
        if isinstance(node, dict):
            node.setdefault("resources", {})
    try:
        validate_config(prepare_config(values))
    except jsonschema.ValidationError as error:
        unknown = re.findall(r"'([^']+)'", error.message) if error.validator == "additionalProperties" else []
        if unknown and isinstance(error.schema, Mapping):
            yield from _unknown(document, tuple(error.absolute_path), unknown[:1], error.schema.get("properties", {}))
        else:
            yield document.finding(tuple(error.absolute_path), error.message)
    except Exception as error:  # Ray raises what comes to hand
        yield document.finding((), f"Ray refuses it: {error}")


def _check_keys(document: Document, kind: str) -> Iterator[Finding]:
    yield from _unknown(document, ("provider",), document.values["provider"], _PROVIDER[kind])


def _node_types(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    types = document.values.get("available_node_types")
    for name, node in (types if isinstance(types, Mapping) else {}).items():
        if isinstance(node, Mapping):
            yield name, node


def _check_nodes(document: Document, kind: str) -> Iterator[Finding]:
    """What a provider is told of a machine."""
    for name, node in _node_types(document):
        place, given = ("available_node_types", name, "node_config"), node.get("node_config")
        if not isinstance(given, Mapping):
            continue
        if kind == "aws":
            yield from _check_aws(document, place, given)
        elif kind == "gcp":
            yield from _unknown(document, place, given, _GCP_NODE)
            for i, one in enumerate(given.get("scheduling") or []):
                yield from _unknown(document, (*place, "scheduling", i), one, _GCP_SCHEDULING)


def _check_aws(document: Document, place: tuple[Any, ...], given: Mapping[str, Any]) -> Iterator[Finding]:
    """Against what AWS says of RunInstances, of which botocore has a copy."""
    try:
        import botocore.session  # type: ignore[import-untyped]
        import botocore.validate  # type: ignore[import-untyped]
    except ImportError:
        yield document.finding(place, "cannot be checked without botocore: pip install botocore")
        return
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = botocore.validate.ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **given}, shape)
    for what, where, more in report._errors:
        parts = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", where)]
        if what == "unknown field":
            yield from _unknown(document, (*place, *parts), [more["unknown_param"]], more["valid_names"])
        else:
            yield document.finding((*place, *parts), f"{what}: {more.get('param', '')!r}")


def _check_counts(document: Document, kind: str) -> Iterator[Finding]:
    values = document.values
    most, least = values.get("max_workers"), 0
    for name, node in _node_types(document):
        few, many = node.get("min_workers", 0), node.get("max_workers", most)
        if isinstance(few, int):
            least += few
            if isinstance(many, int) and few > many:
                where = ("available_node_types", name, "min_workers")
                yield document.finding(where, f"{few}: more than the {many} of max_workers")
    if kind == "local":
        least, there = values.get("min_workers", 0), values["provider"].get("worker_ips")
        if isinstance(there, list) and isinstance(most, int) and most > len(there):
            yield document.finding(("max_workers",), f"{most}: more than there are worker_ips ({len(there)})")
    if isinstance(most, int) and isinstance(least, int) and least > most:
        yield document.finding(("max_workers",), f"{most}: fewer than the {least} of min_workers together")
    if "idle_timeout_minutes" not in values:
        yield document.finding(
            (), "idle_timeout_minutes is missing: machines that idle would cost money for Ray's default"
        )
    head = values.get("head_node_type")
    resources = (dict(_node_types(document)).get(head) or {}).get("resources") or {}
    if kind != "local" and resources.get("CPU") != 0:
        place = ("available_node_types", head, "resources", "CPU")
        yield document.finding(place, "must be 0, or trials run on the machine that drives them")


def _check_open(document: Document, kind: str) -> Iterator[Finding]:
    """Who may come in, and what listens where."""
    for place, value in document.walk():
        if isinstance(value, Mapping) and {"CidrIp", "CidrIpv6"} & set(value):
            world = value.get("CidrIp") == "0.0.0.0/0" or value.get("CidrIpv6") == "::/0"
            rule = document.values
            for part in place[: place.index("IpPermissions") + 2] if "IpPermissions" in place else ():
                rule = rule[part]
            ports = (rule.get("FromPort"), rule.get("ToPort")) if isinstance(rule, Mapping) else (None, None)
            if world and ports != (22, 22):
                yield document.finding(
                    place, "opens the machines to everybody; give your own address, as 203.0.113.7/32"
                )
            elif ports != (22, 22):
                yield document.finding(place, "nothing but SSH (22) is to be reached from outside; the rest through it")
    for place, command in _commands(document):
        if re.search(r"--dashboard-host[ =](?!127\.0\.0\.1|localhost)", command):
            yield document.finding(place, "the dashboard is to listen on 127.0.0.1; SSH leads there")
        if re.search(r"mlflow (?:server|ui)\b.*(?:--host|-h)[ =](?!127\.0\.0\.1|localhost)", command):
            yield document.finding(place, "MLflow is to listen on 127.0.0.1; SSH leads there")
        if "ray start --head" in command and "--dashboard-host" not in command:
            yield document.finding(place, "say --dashboard-host=127.0.0.1; it is not the default everywhere")
        if kind == "local" and "ray start --head" in command and not re.search(r"--num-cpus[ =]0\b", command):
            yield document.finding(place, "say --num-cpus=0, or trials run on the machine that drives them")


def _commands(document: Document) -> Iterator[tuple[tuple[Any, ...], str]]:
    places: list[tuple[str, ...]] = [(name,) for name in _COMMANDS]
    places += [("available_node_types", node, name) for node, _ in _node_types(document) for name in _COMMANDS]
    for place in places:
        found: Any = document.values
        for part in place:
            found = found.get(part) if isinstance(found, Mapping) else None
        for i, command in enumerate(found if isinstance(found, list) else []):
            if isinstance(command, str):
                yield (*place, i), command


def _check_token(document: Document, kind: str) -> Iterator[Finding]:
    values = document.values
    mounts = values.get("file_mounts")
    if not isinstance(mounts, Mapping) or _TOKEN not in mounts:
        yield document.finding(
            ("file_mounts",), f"must bring the token: {_TOKEN}: {_TOKEN}; anybody could run code else"
        )
    said = [command for _, command in _commands(document)]
    if not any(re.search(r"chmod\s+0?600\s+\S*\.ray/auth_token", command) for command in said):
        yield document.finding(("setup_commands",), f"must have: chmod 600 {_TOKEN}")
    docker = values.get("docker") or {}
    options = [str(option) for name in docker if name.endswith("run_options") for option in docker[name] or ()]
    if not any("RAY_AUTH_MODE=token" in text for text in [*said, *options]):
        yield document.finding((), "RAY_AUTH_MODE=token is set nowhere: Ray would ask nobody for a token")


def _check_commands(document: Document, kind: str) -> Iterator[Finding]:
    for place, value in document.walk():
        if place and place[-1] in ("image", "worker_image", "head_image") and isinstance(value, str):
            for fault in image_faults(value):
                yield document.finding(place, fault)
    for place, command in _commands(document):
        for fault in install_faults(command):
            yield document.finding(place, fault)
