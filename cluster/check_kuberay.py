"""KubeRay's manifests, and what stands beside them."""

from __future__ import annotations

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
    pinned,
    unknown_keys,
)
from foldrace.cluster.check_image import check_images, install_faults
from foldrace.cluster.check_kuberay_schema import SCHEMAS
from foldrace.errors import nearest

__all__ = ["check_manifest"]

_SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN$|ACCESS_KEY")
Place = tuple[Any, ...]


def check_manifest(document: Document) -> list[Finding]:
    """All that is amiss in a Kubernetes manifest. Of kinds that are not Ray's: what is open,
    unpinned or secret."""
    kind, version = document.values["kind"], document.values["apiVersion"]
    found = [*_check_open(document), *_check_pins(document), *_check_secrets(document)]
    if isinstance(kind, str) and kind in SCHEMAS:
        if version != "ray.io/v1":
            found.append(document.finding(("apiVersion",), f"{version!r}: must be ray.io/v1"))
        spec = mapping(document.values.get("spec"))
        found += [*_check_schema(document, SCHEMAS[kind])]
        rules = _check_cluster if kind == "RayCluster" else _check_job
        found += [*rules(document, ("spec",), spec)]
    elif str(version).startswith("ray.io/") or str(kind).startswith("Ray"):
        found.append(
            document.finding(("kind",), f"{kind!r}: no such kind here; {nearest(kind, SCHEMAS)}")
        )
    return found


def _check_schema(document: Document, schema: Mapping[str, Any]) -> Iterator[Finding]:
    import jsonschema  # type: ignore[import-untyped]

    for error in jsonschema.Draft202012Validator(schema).iter_errors(document.values):
        place = tuple(error.absolute_path)
        if error.validator == "additionalProperties" and isinstance(
            error.schema.get("properties"), Mapping
        ):
            yield from unknown_keys(document, place, error.instance, error.schema["properties"])
        elif error.validator == "enum":
            yield document.finding(
                place, f"{error.instance!r}: {nearest(error.instance, error.validator_value)}"
            )
        elif error.validator == "type" and error.validator_value == "string":
            yield document.finding(
                place, f"{error.instance!r}: must be a string; put it in quotes"
            )
        else:
            yield document.finding(place, error.message[:LONGEST])


def _check_cluster(document: Document, place: Place, spec: Mapping[str, Any]) -> Iterator[Finding]:
    if (version := str(spec.get("rayVersion", ""))) != pinned("ray"):
        yield document.finding(
            (*place, "rayVersion"), f"{version}: constraints.txt pins {pinned('ray')}"
        )
    if mapping(spec.get("authOptions")).get("mode") != "token":
        rule = "must be {mode: token}; anybody in the cluster could run code else"
        yield document.finding((*place, "authOptions"), rule)
    if not mapping(spec.get("autoscalerOptions")).get("idleTimeoutSeconds"):
        rule = "idleTimeoutSeconds is missing: machines that idle cost money"
        yield document.finding((*place, "autoscalerOptions"), rule)
    if spec.get("enableInTreeAutoscaling") is not True:
        rule = "must be true, or no machine comes when a sweep wants it, and none goes"
        yield document.finding((*place, "enableInTreeAutoscaling"), rule)
    yield from _check_head(document, (*place, "headGroupSpec"), mapping(spec.get("headGroupSpec")))
    for i, group in enumerate(items(spec.get("workerGroupSpecs"))):
        few, now, many = (
            mapping(group).get(name) for name in ("minReplicas", "replicas", "maxReplicas")
        )
        numbers = [number for number in (few, now, many) if isinstance(number, int)]
        if numbers != sorted(numbers):
            where = (*place, "workerGroupSpecs", i, "minReplicas")
            yield document.finding(where, f"{few} ≤ {now} ≤ {many} does not hold (min, now, max)")


def _check_head(document: Document, place: Place, head: Mapping[str, Any]) -> Iterator[Finding]:
    if str(mapping(head.get("rayStartParams")).get("num-cpus")) != "0":
        rule = 'must have num-cpus: "0", or trials run on the machine that drives them'
        yield document.finding((*place, "rayStartParams"), rule)
    containers = items(mapping(mapping(head.get("template")).get("spec")).get("containers"))
    for i, container in enumerate(containers):
        resources = mapping(mapping(container).get("resources"))
        for part in ("limits", "requests"):
            for name, amount in mapping(resources.get(part)).items():
                if name.endswith("/gpu") and str(amount) != "0":
                    where = (*place, "template", "spec", "containers", i, "resources", part, name)
                    yield document.finding(
                        where,
                        f"{amount}: the head trains nothing; GPUs belong to workerGroupSpecs",
                    )


def _check_job(document: Document, place: Place, spec: Mapping[str, Any]) -> Iterator[Finding]:
    own, chosen = spec.get("rayClusterSpec"), spec.get("clusterSelector")
    if isinstance(own, Mapping):
        yield from _check_cluster(document, (*place, "rayClusterSpec"), own)
    elif not chosen:
        yield document.finding(
            place, "needs a clusterSelector {ray.io/cluster: NAME}, or a rayClusterSpec of its own"
        )
    if isinstance(chosen, Mapping) and "ray.io/cluster" not in chosen:
        yield document.finding(
            (*place, "clusterSelector"), "KubeRay looks for the key ray.io/cluster in it"
        )
    if chosen and spec.get("shutdownAfterJobFinishes"):
        where = (*place, "shutdownAfterJobFinishes")
        yield document.finding(
            where, "must be false with a clusterSelector: the cluster is not the job's own"
        )


def _check_open(document: Document) -> Iterator[Finding]:
    """What can be reached from outside, or from more than the pod."""
    if document.values["kind"] == "NetworkPolicy":
        yield from _check_policy(document, mapping(document.values.get("spec")))
    if document.values["kind"] == "Ingress":
        yield document.finding(
            ("kind",), "Ingress: opens it to the outside; use `kubectl port-forward`"
        )
    for place, value in document.walk():
        last = place[-1] if place else None
        if last in ("serviceType", "type") and value in ("LoadBalancer", "NodePort"):
            yield document.finding(
                place, f"{value}: opens it to the outside; ClusterIP, and `kubectl port-forward`"
            )
        elif last == "enableIngress" and value:
            yield document.finding(place, "opens the dashboard to the outside; leave it out")
        elif last == "dashboard-host" and value not in ("127.0.0.1", "localhost"):
            yield document.finding(
                place,
                "the dashboard is to listen on 127.0.0.1; `kubectl port-forward` leads there",
            )
        elif last in ("hostNetwork", "hostPort") and value:
            yield document.finding(place, "listens on the machine's own address; leave it out")
        elif last in ("command", "args") and isinstance(value, list):
            for rule in listens_outside(" ".join(map(str, value))):
                yield document.finding(place, rule)


def _check_policy(document: Document, spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether a NetworkPolicy keeps anybody out."""
    if "Ingress" not in items(spec.get("policyTypes")):
        yield document.finding(
            ("spec", "policyTypes"), "must have Ingress, or everybody may come in"
        )
    for i, rule in enumerate(items(spec.get("ingress"))):
        who = items(mapping(rule).get("from"))
        if not who or any(not one or mapping(one).get("ipBlock") for one in who):
            yield document.finding(
                ("spec", "ingress", i), "lets everybody in, or addresses; name pods (podSelector)"
            )


def _check_pins(document: Document) -> Iterator[Finding]:
    yield from check_images(document)
    for place, value in document.walk():
        if place and place[-1] in ("command", "args") and isinstance(value, list):
            for fault in install_faults(" ".join(map(str, value))):
                yield document.finding(place, fault)


def _check_secrets(document: Document) -> Iterator[Finding]:
    """Values that have no business in a file."""
    for place, value in document.walk():
        name, given = mapping(value).get("name"), mapping(value).get("value")
        if isinstance(name, str) and isinstance(given, str):
            if _SECRET.search(name) and not given.startswith(("$", "YOUR_")):
                yield document.finding(
                    (*place, "value"), f"{name} in plain text; valueFrom: {{secretKeyRef: …}}"
                )
            elif name == "RAY_AUTH_MODE" and given != "token":
                yield document.finding((*place, "value"), f"{given}: switches the token off")
        elif (
            place in (("stringData",), ("data",)) and document.values["kind"] == "Secret" and value
        ):
            yield document.finding(
                place, "a secret in a file; make it with `kubectl create secret`"
            )
