"""What a provider is told of its machines: keys, regions, GPUs on a head. Ray hands all of it on
unread."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from foldrace.cluster.check import PLACEHOLDER, Document, Finding, items, mapping, unknown_keys
from foldrace.errors import nearest

__all__ = ["PROVIDERS", "check_machines", "node_types"]

# What Ray's own providers read, and no more: a key that is not here changes nothing, or is refused
# by the cloud.
PROVIDERS = {
    "aws": {
        "type",
        "region",
        "availability_zone",
        "cache_stopped_nodes",
        "use_internal_ips",
        "security_group",
        "disable_node_updaters",
        "cloudwatch",
        "aws_credentials",
        "key_pair",
    },
    "gcp": {
        "type",
        "region",
        "availability_zone",
        "project_id",
        "cache_stopped_nodes",
        "use_internal_ips",
        "gcp_credentials",
        "disable_node_updaters",
        "_has_tpus",
    },
    "local": {
        "type",
        "head_ip",
        "external_head_ip",
        "worker_ips",
        "coordinator_address",
        "disable_node_updaters",
    },
}
_RAYS_OWN = {"SubnetIds"}  # which Ray turns into one SubnetId for each machine
# Of Google's instances.insert, what a machine that trains may want; nested ones by their last key.
_GCP = {
    "node_config": {
        "machineType",
        "disks",
        "scheduling",
        "guestAccelerators",
        "metadata",
        "networkInterfaces",
        "serviceAccounts",
        "labels",
        "tags",
        "minCpuPlatform",
        "sourceMachineImage",
        "shieldedInstanceConfig",
        "description",
        "hostname",
        "reservationAffinity",
        "advancedMachineFeatures",
        "canIpForward",
        "confidentialInstanceConfig",
        "params",
        "deletionProtection",
        "displayDevice",
        "networkPerformanceConfig",
        "resourcePolicies",
        "zone",
        "acceleratorType",
        "acceleratorConfig",
        "runtimeVersion",
        "networkConfig",
        "schedulingConfig",
    },
    "scheduling": {
        "provisioningModel",
        "preemptible",
        "onHostMaintenance",
        "automaticRestart",
        "instanceTerminationAction",
        "maxRunDuration",
        "minNodeCpus",
        "nodeAffinities",
        "localSsdRecoveryTimeout",
        "terminationTime",
    },
    "disks": {
        "boot",
        "autoDelete",
        "type",
        "initializeParams",
        "source",
        "mode",
        "interface",
        "deviceName",
        "diskSizeGb",
        "diskEncryptionKey",
        "kind",
        "index",
        "licenses",
        "guestOsFeatures",
    },
    "initializeParams": {
        "diskSizeGb",
        "sourceImage",
        "diskType",
        "diskName",
        "labels",
        "sourceSnapshot",
        "provisionedIops",
        "provisionedThroughput",
        "resourcePolicies",
        "description",
        "onUpdateAction",
        "architecture",
    },
    "guestAccelerators": {"acceleratorType", "acceleratorCount"},
    "serviceAccounts": {"email", "scopes"},
    "metadata": {"items", "kind", "fingerprint"},
}
_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")
_MARKETS, _MODELS = (
    ("spot", "capacity-block"),
    ("SPOT", "STANDARD", "RESERVATION_BOUND", "FLEX_START"),
)
_WITH_GPUS = {"aws": r"(?:g\d|gr\d|p\d|trn|inf)", "gcp": r"(?:a2|a3|a4|g2|g4)-"}


def check_machines(document: Document, kind: str) -> Iterator[Finding]:
    """All that a provider would not understand, and what it would understand otherwise than
    meant."""
    provider = document.values["provider"]
    yield from unknown_keys(document, ("provider",), provider, PROVIDERS[kind])
    for key in ("aws_credentials", "gcp_credentials"):
        if provider.get(key):
            rule = (
                "everyone who sees the file can use them; leave it out and log in with the cloud's"
                " own command"
            )
            yield document.finding(("provider", key), rule)
    yield from _check_zones(document, provider)
    for name, node in node_types(document):
        place = ("available_node_types", name, "node_config")
        given = mapping(node.get("node_config"))
        yield from _check_resources(
            document, (*place[:-1], "resources"), mapping(node.get("resources"))
        )
        yield from _check_words(document, place, given)
        if kind == "aws":
            yield from _check_aws(document, place, given)
        elif kind == "gcp":
            yield from _check_gcp(document, place, given)
    yield from _check_head(document, kind)


def node_types(document: Document) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, what is said of it) of each kind of machine."""
    for name, node in mapping(document.values.get("available_node_types")).items():
        if isinstance(node, Mapping):
            yield name, node


def _check_resources(
    document: Document, place: tuple[Any, ...], given: Mapping[str, Any]
) -> Iterator[Finding]:
    """Names that are nearly those which trials ask for."""
    for key in given:
        if key not in _RESOURCES and (
            key.rstrip("sS").upper() in _RESOURCES or key.lower() in map(str.lower, _RESOURCES)
        ):
            yield document.finding(
                (*place, key), f"no trial asks for it; {nearest(key, _RESOURCES)}"
            )


def _check_words(
    document: Document, place: tuple[Any, ...], given: Mapping[str, Any]
) -> Iterator[Finding]:
    """Values of which there are few, and which neither Ray nor botocore looks at; doors that a
    machine opens itself."""
    for key in ("SecurityGroupIds", "SecurityGroups"):
        if given.get(key):
            rule = (
                "opens what that group opens, which is not seen here; leave it out: Ray makes one"
                " that opens SSH alone"
            )
            yield document.finding((*place, key), rule)
    market = mapping(given.get("InstanceMarketOptions")).get("MarketType")
    if market is not None and market not in _MARKETS:
        where = (*place, "InstanceMarketOptions", "MarketType")
        yield document.finding(where, f"{market!r}: {nearest(market, _MARKETS)}")
    for i, one in enumerate(items(given.get("scheduling"))):
        model = mapping(one).get("provisioningModel")
        if model is not None and model not in _MODELS:
            where = (*place, "scheduling", i, "provisioningModel")
            yield document.finding(where, f"{model!r}: {nearest(model, _MODELS)}")


def _check_zones(document: Document, provider: Mapping[str, Any]) -> Iterator[Finding]:
    region, zones = provider.get("region"), provider.get("availability_zone")
    if (
        not isinstance(region, str)
        or not isinstance(zones, str)
        or PLACEHOLDER.search(region + " " + zones)
    ):
        return
    for zone in (part.strip() for part in zones.split(",")):
        if not zone.startswith(region):
            yield document.finding(
                ("provider", "availability_zone"), f"{zone!r}: is not in the region {region!r}"
            )


def _check_aws(
    document: Document, place: tuple[Any, ...], given: Mapping[str, Any]
) -> Iterator[Finding]:
    """Against what AWS says of RunInstances, of which botocore has a copy."""
    try:
        import botocore.validate  # type: ignore[import-untyped]
    except ImportError:
        yield document.finding(
            place, "cannot be checked without botocore: pip install 'foldrace[cluster]'"
        )
        return
    told = {"MinCount": 1, "MaxCount": 1} | {
        key: value for key, value in given.items() if key not in _RAYS_OWN
    }
    for what, where, more in (
        botocore.validate.ParamValidator().validate(told, _run_instances())._errors
    ):
        parts = [int(part) if part.isdigit() else part for part in re.findall(r"\w+", where)]
        if what == "unknown field":
            valid = {*more["valid_names"], *(() if parts else _RAYS_OWN)}
            yield from unknown_keys(document, (*place, *parts), [more["unknown_param"]], valid)
        else:
            yield document.finding((*place, *parts), f"{what}: {more.get('param', '')!r}")


@functools.cache
def _run_instances() -> Any:
    """The shape of RunInstances' input; read without a session, which would read the user's
    profile."""
    import botocore.loaders  # type: ignore[import-untyped]
    import botocore.model  # type: ignore[import-untyped]

    described = botocore.loaders.Loader().load_service_model("ec2", "service-2")
    return botocore.model.ServiceModel(described).operation_model("RunInstances").input_shape


def _check_gcp(
    document: Document, place: tuple[Any, ...], given: Mapping[str, Any]
) -> Iterator[Finding]:
    """Against the keys above, wherever one of them is nested."""
    yield from unknown_keys(document, place, given, _GCP["node_config"])
    for key, value in given.items():
        if key not in _GCP:
            continue
        nested = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for i, one in nested:
            where = (*place, key) if i is None else (*place, key, i)
            yield from unknown_keys(document, where, mapping(one), _GCP[key])
            if params := mapping(mapping(one).get("initializeParams")):
                yield from unknown_keys(
                    document, (*where, "initializeParams"), params, _GCP["initializeParams"]
                )


def _check_head(document: Document, kind: str) -> Iterator[Finding]:
    """A head that would train: it drives the sweeps, and costs money while nobody sweeps."""
    head = document.values.get("head_node_type")
    if kind == "local" or not isinstance(head, str):
        return
    node = dict(node_types(document)).get(head, {})
    given, resources = mapping(node.get("node_config")), mapping(node.get("resources"))
    place = ("available_node_types", head)
    if resources.get("CPU") != 0:
        yield document.finding(
            (*place, "resources", "CPU"),
            "must be 0, or trials run on the machine that drives them",
        )
    if resources.get("GPU"):
        rule = (
            f"{resources['GPU']}: the head trains nothing; GPUs belong to the other kinds of"
            " machines"
        )
        yield document.finding((*place, "resources", "GPU"), rule)
    machine = str(given.get("InstanceType", given.get("machineType", "")))
    if re.match(_WITH_GPUS[kind], machine) or items(given.get("guestAccelerators")):
        where = "InstanceType" if kind == "aws" else "machineType"
        rule = (
            f"{machine}: has GPUs, which the head would pay for and not use; take a machine"
            " without"
        )
        yield document.finding((*place, "node_config", where), rule)
