"""KubeRay's manifests, and what stands beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cluster.check import Document, Finding, pinned
from cluster.check_image import image_faults
from trainables.errors import nearest

__all__ = ["check_manifest"]

_SPEC = {
    "RayCluster": {
        "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions", "headGroupSpec",
        "workerGroupSpecs", "headServiceAnnotations", "gcsFaultToleranceOptions", "suspend", "managedBy",
        "upgradeStrategy",
    },
    "RayJob": {
        "entrypoint", "clusterSelector", "rayClusterSpec", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "activeDeadlineSeconds", "backoffLimit", "runtimeEnvYAML", "jobId", "submissionMode", "submitterPodTemplate",
        "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "metadata", "suspend", "managedBy",
        "deletionStrategy", "submitterConfig", "preRunningDeadlineSeconds",
    },
}  # fmt: skip
_HEAD = {"serviceType", "rayStartParams", "template", "headService", "enableIngress", "resources", "labels"}
_WORKERS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "rayStartParams", "template",
    "numOfHosts", "scaleStrategy", "suspend", "resources", "labels",
}  # fmt: skip
_OTHERS = {
    "NetworkPolicy",
    "Secret",
    "PersistentVolumeClaim",
    "ConfigMap",
    "ServiceAccount",
    "Service",
    "Role",
    "RoleBinding",
}


def check_manifest(document: Document) -> list[Finding]:
    """All that is amiss in a Kubernetes manifest."""
    values = document.values
    kind, version = values["kind"], values["apiVersion"]
    if kind in _OTHERS:
        return [*_check_services(document)]
    if kind not in _SPEC:
        rule = f"{kind!r}: no such kind here; {nearest(kind, [*_SPEC, *_OTHERS])}"
        return [document.finding(("kind",), rule)]
    found = []
    if version != "ray.io/v1":
        found.append(document.finding(("apiVersion",), f"{version!r}: must be ray.io/v1"))
    spec = values.get("spec")
    if not isinstance(spec, Mapping):
        return [*found, document.finding(("spec",), "is missing")]
    found += _unknown(document, ("spec",), spec, _SPEC[kind])
    if kind == "RayCluster":
        found += _check_cluster(document, ("spec",), spec)
    elif isinstance(own := spec.get("rayClusterSpec"), Mapping):
        found += _unknown(document, ("spec", "rayClusterSpec"), own, _SPEC["RayCluster"])
        found += _check_cluster(document, ("spec", "rayClusterSpec"), own)
    return [*found, *_check_services(document), *_check_images(document)]


def _unknown(document: Document, place: tuple[Any, ...], given: Iterable[str], known: set[str]) -> Iterator[Finding]:
    for key in given:
        if key not in known:
            yield document.finding((*place, key), f"no such key; {nearest(key, known)}")


def _check_cluster(document: Document, place: tuple[Any, ...], spec: Mapping[str, Any]) -> Iterator[Finding]:
    if (version := str(spec.get("rayVersion", ""))) != pinned("ray"):
        yield document.finding((*place, "rayVersion"), f"{version}: constraints.txt pins {pinned('ray')}")
    if (spec.get("authOptions") or {}).get("mode") != "token":
        yield document.finding(
            (*place, "authOptions"), "must be {mode: token}; anybody in the cluster could run code else"
        )
    if not (spec.get("autoscalerOptions") or {}).get("idleTimeoutSeconds"):
        yield document.finding(
            (*place, "autoscalerOptions"), "idleTimeoutSeconds is missing: machines that idle cost money"
        )
    head = spec.get("headGroupSpec") or {}
    yield from _unknown(document, (*place, "headGroupSpec"), head, _HEAD)
    if str((head.get("rayStartParams") or {}).get("num-cpus")) != "0":
        where = (*place, "headGroupSpec", "rayStartParams")
        yield document.finding(where, 'must have num-cpus: "0", or trials run on the machine that drives them')
    for i, group in enumerate(spec.get("workerGroupSpecs") or []):
        where = (*place, "workerGroupSpecs", i)
        yield from _unknown(document, where, group, _WORKERS)
        few, now, many = (group.get(name) for name in ("minReplicas", "replicas", "maxReplicas"))
        numbers = [number for number in (few, now, many) if isinstance(number, int)]
        if numbers != sorted(numbers):
            yield document.finding((*where, "minReplicas"), f"{few} ≤ {now} ≤ {many} does not hold (min, now, max)")


def _check_services(document: Document) -> Iterator[Finding]:
    for place, value in document.walk():
        if place and place[-1] in ("serviceType", "type") and value in ("LoadBalancer", "NodePort"):
            yield document.finding(place, f"{value}: opens it to the outside; ClusterIP, and `kubectl port-forward`")
        if place and place[-1] == "enableIngress" and value:
            yield document.finding(place, "opens the dashboard to the outside; leave it out")


def _check_images(document: Document) -> Iterator[Finding]:
    for place, value in document.walk():
        if place and place[-1] == "image" and isinstance(value, str):
            for fault in image_faults(value):
                yield document.finding(place, fault)
