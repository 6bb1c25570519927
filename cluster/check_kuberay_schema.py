"""The part of KubeRay's API that clusters for sweeps use, as JSON schemas: ray.io/v1, KubeRay
1.5.1 to 1.7.

Written from KubeRay's API reference. Pods are Kubernetes' own: of them only the keys that one
meets here are known to be keys; what is below those is left to the API server.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCHEMAS"]

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "integer", "minimum": 0}
_YES_NO: Schema = {"type": "boolean"}
_ANY: Schema = {}
_MAP: Schema = {"type": "object"}
_LIST: Schema = {"type": "array"}
_WORDS: Schema = {
    "type": "object",
    "additionalProperties": {"type": "string"},
}  # "0", not 0: the API server refuses it


def _closed(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _each(one: Schema) -> Schema:
    return {"type": "array", "items": one}


_CONTAINER = _closed(
    ("name",),
    name=_TEXT,
    image=_TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    command=_each(_TEXT),
    args=_each(_TEXT),
    workingDir=_TEXT,
    env=_each(_closed(("name",), name=_TEXT, value=_TEXT, valueFrom=_MAP)),
    envFrom=_LIST,
    resources=_closed(limits=_MAP, requests=_MAP, claims=_LIST),
    volumeMounts=_each(_MAP),
    volumeDevices=_LIST,
    ports=_each(_MAP),
    lifecycle=_MAP,
    livenessProbe=_MAP,
    readinessProbe=_MAP,
    startupProbe=_MAP,
    securityContext=_MAP,
    stdin=_YES_NO,
    stdinOnce=_YES_NO,
    tty=_YES_NO,
    terminationMessagePath=_TEXT,
    terminationMessagePolicy=_TEXT,
    resizePolicy=_LIST,
    restartPolicy=_TEXT,
)
_POD = _closed(
    ("spec",),
    metadata=_MAP,
    spec=_closed(
        ("containers",),
        containers=_each(_CONTAINER) | {"minItems": 1},
        initContainers=_each(_CONTAINER),
        volumes=_each(_MAP),
        nodeSelector=_WORDS,
        tolerations=_each(_MAP),
        affinity=_MAP,
        serviceAccountName=_TEXT,
        serviceAccount=_TEXT,
        automountServiceAccountToken=_YES_NO,
        securityContext=_MAP,
        imagePullSecrets=_each(_MAP),
        restartPolicy=_TEXT,
        terminationGracePeriodSeconds=_NUMBER,
        activeDeadlineSeconds=_NUMBER,
        priorityClassName=_TEXT,
        schedulerName=_TEXT,
        runtimeClassName=_TEXT,
        topologySpreadConstraints=_LIST,
        hostNetwork=_YES_NO,
        hostPID=_YES_NO,
        hostIPC=_YES_NO,
        dnsPolicy=_TEXT,
        dnsConfig=_MAP,
        hostAliases=_LIST,
        hostname=_TEXT,
        subdomain=_TEXT,
        shareProcessNamespace=_YES_NO,
        enableServiceLinks=_YES_NO,
        nodeName=_TEXT,
        overhead=_MAP,
        preemptionPolicy=_TEXT,
        readinessGates=_LIST,
        resourceClaims=_LIST,
        schedulingGates=_LIST,
        os=_MAP,
        hostUsers=_YES_NO,
        setHostnameAsFQDN=_YES_NO,
    ),
)
_HEAD = _closed(
    ("template",),
    template=_POD,
    rayStartParams=_WORDS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    headService=_MAP,
    enableIngress=_YES_NO,
    resources=_WORDS,
    labels=_WORDS,
)
_WORKERS = _closed(
    ("groupName", "template"),
    groupName=_TEXT,
    template=_POD,
    rayStartParams=_WORDS,
    replicas=_NUMBER,
    minReplicas=_NUMBER,
    maxReplicas=_NUMBER,
    idleTimeoutSeconds=_NUMBER,
    numOfHosts=_NUMBER,
    scaleStrategy=_closed(workersToDelete=_each(_TEXT)),
    suspend=_YES_NO,
    resources=_WORDS,
    labels=_WORDS,
)
_AUTOSCALER = _closed(
    idleTimeoutSeconds=_NUMBER,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    version={"enum": ["v1", "v2"]},
    image=_TEXT,
    imagePullPolicy=_TEXT,
    resources=_MAP,
    env=_LIST,
    envFrom=_LIST,
    volumeMounts=_LIST,
    securityContext=_MAP,
)
_CLUSTER = _closed(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    enableInTreeAutoscaling=_YES_NO,
    autoscalerOptions=_AUTOSCALER,
    authOptions=_closed(
        mode={"enum": ["token", "disabled"]}, secretName=_TEXT, enableK8sTokenAuth=_YES_NO
    ),
    headGroupSpec=_HEAD,
    workerGroupSpecs=_each(_WORKERS),
    headServiceAnnotations=_WORDS,
    gcsFaultToleranceOptions=_MAP,
    suspend=_YES_NO,
    managedBy=_TEXT,
    upgradeStrategy=_MAP,
    networkPolicy=_MAP,
)
_JOB = _closed(
    ("entrypoint",),
    entrypoint=_TEXT,
    clusterSelector=_WORDS,
    rayClusterSpec=_CLUSTER,
    runtimeEnvYAML=_TEXT,
    jobId=_TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterPodTemplate=_POD,
    submitterConfig=_closed(backoffLimit=_NUMBER),
    shutdownAfterJobFinishes=_YES_NO,
    ttlSecondsAfterFinished=_NUMBER,
    activeDeadlineSeconds=_NUMBER,
    preRunningDeadlineSeconds=_NUMBER,
    backoffLimit=_NUMBER,
    deletionStrategy=_MAP,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=_TEXT,
    metadata=_WORDS,
    suspend=_YES_NO,
    managedBy=_TEXT,
)


def _kind(spec: Schema) -> Schema:
    named = {"type": "object", "required": ["name"], "properties": {"name": _TEXT}}
    return _closed(
        ("metadata", "spec"), apiVersion=_ANY, kind=_TEXT, metadata=named, spec=spec, status=_MAP
    )


SCHEMAS: dict[str, Schema] = {"RayCluster": _kind(_CLUSTER), "RayJob": _kind(_JOB)}
