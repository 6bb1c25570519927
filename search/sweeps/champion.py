"""A refitted model in MLflow: its weights as an artifact, and the model itself registered as
champion."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foldrace.errors import StateError
from foldrace.search.sweeps.models import WEIGHTS, deployable, export_program
from foldrace.trainables.ray.work import shared_tensor
from foldrace.trainables.training.fold import Fold

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["register_champion"]

_ALIAS = "champion"
_CHECKED = 16


def register_champion(
    client: MlflowClient,
    uri: str,
    run_id: str,
    name: str,
    run: Fold,
    images: np.ndarray[Any, np.dtype[np.uint8]],
) -> str | None:
    """Logs the weights, and the model as champion: its address, or None for one that torch cannot
    export."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        torch.save({key: value.cpu() for key, value in run.model.state_dict().items()}, path)
        client.log_artifact(run_id, str(path))
    model = deployable(run.task, run.model.cpu(), run.params)
    sample = shared_tensor(images[:_CHECKED]).float().div(255)
    if len(sample) < 2 or export_program(model, sample) is None:
        return None
    with _default_store(uri):
        return _register(client, run_id, name, model, sample)


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """Within this block MLflow's module-level functions write to ``uri``; afterwards to what they
    wrote to before."""
    import mlflow

    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ.get(name) for name in names}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before["MLFLOW_TRACKING_URI"] or "")
        mlflow.set_registry_uri(before["MLFLOW_REGISTRY_URI"] or "")
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _register(
    client: MlflowClient, run_id: str, name: str, model: torch.nn.Module, sample: torch.Tensor
) -> str:
    """Logs and registers the model, loads it back, checks that it computes the same, and then
    calls it champion."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        expected = model(sample)
    shapes = [TensorSpec(np.dtype(np.float32), (-1, *t.shape[1:])) for t in (sample, expected)]
    signature = ModelSignature(inputs=Schema(shapes[:1]), outputs=Schema(shapes[1:]))
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pytorch.log_model(
            model,
            name="model",
            signature=signature,
            input_example=sample[:2].numpy(),
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, info.model_uri, run_id, model_id=info.model_id)
    loaded = mlflow.pytorch.load_model(f"models:/{name}/{version.version}")
    with torch.inference_mode():
        difference = float((loaded(sample) - expected).abs().max())
    if not difference <= 1e-5:  # not a number is no agreement
        raise StateError(
            f"models:/{name}/{version.version}: loaded back, it differs by {difference:g}"
        )
    client.set_registered_model_alias(name, _ALIAS, version.version)
    return f"models:/{name}@{_ALIAS}"
