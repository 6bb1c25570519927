"""Logs a refitted model to MLflow and registers it as champion."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from foldrace.errors import StateError
from foldrace.search.sweeps.models import (
    PROGRAM,
    WEIGHTS,
    deployable,
    export_program,
    save_model,
)
from foldrace.trainables.data.arrays import Dataset, taken
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.samples import Samples

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["register_champion"]

log = logging.getLogger(__name__)

_ALIAS = "champion"
_FOLDER = "model"
_CHECKED = 16


def register_champion(
    client: MlflowClient,
    uri: str,
    run_id: str,
    name: str,
    fold: Fold,
    dataset: Dataset,
) -> str:
    """Logs the weights of a refitted model, and registers the model as champion.

    Args:
        uri: of the tracking store.
        name: of the registered model.
        fold: the refitted model, as a fold that trained on everything.
        dataset: the registered model is checked on its test part.

    Returns:
        The model's URI. It is a folder of files, ``state_dict.pt`` and ``prepared.pt``, and
        ``model.pt2`` if it has several inputs, where it cannot be one of MLflow's models: with
        several inputs, if torch cannot export it, or of fewer than two samples.

    Raises:
        StateError: the registered model, loaded back, computes something else.
    """
    chosen = np.arange(min(_CHECKED, dataset.test_count))
    fields = {of: taken(array, chosen) for of, array in dataset.test.items()}
    samples = Samples.of(fields, dataset.sample, torch.device("cpu"))
    model, arguments = deployable(fold, samples)
    program = export_program(model, arguments)
    several = len(arguments) != 1  # MLflow's PyTorch models take one tensor
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), fold, program if several else None)
        client.log_artifacts(run_id, folder)
        if several or program is None:
            client.log_artifacts(run_id, folder, _FOLDER)
    if program is None:
        text = "torch.export cannot export this model: models:/%s has its weights (%s) alone"
        log.warning(text, name, WEIGHTS)
    elif several:
        text = "models:/%s is a folder with %s, which takes %s: torch.export.load(…).module()"
        log.info(text, name, PROGRAM, ", ".join(getattr(model, "names", ())))
    if several or program is None:
        return _register_files(client, run_id, name)
    with _default_store(uri):
        return _register(client, run_id, name, model, arguments[0])


def _create(client: MlflowClient, name: str) -> None:
    """Creates the registered model if it does not exist."""
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)


def _register_files(client: MlflowClient, run_id: str, name: str) -> str:
    """Registers the logged folder of files, and sets the alias."""
    _create(client, name)
    source = f"{client.get_run(run_id).info.artifact_uri}/{_FOLDER}"
    version = client.create_model_version(name, source, run_id)
    client.set_registered_model_alias(name, _ALIAS, version.version)
    return f"models:/{name}@{_ALIAS}"


@contextmanager
def _default_store(uri: str) -> Iterator[None]:
    """Within the block, MLflow's module-level functions use ``uri``; afterwards as before."""
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
    """Logs and registers the model, loads it back, checks its output, and sets the alias."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        expected = model(sample)
    shapes = [TensorSpec(t.numpy().dtype, (-1, *t.shape[1:])) for t in (sample, expected)]
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
    _create(client, name)
    version = client.create_model_version(name, info.model_uri, run_id, model_id=info.model_id)
    loaded = mlflow.pytorch.load_model(f"models:/{name}/{version.version}")
    with torch.inference_mode():
        difference = float((loaded(sample) - expected).abs().max())
    if not difference <= 1e-5:  # NaN must fail too
        raise StateError(
            f"models:/{name}/{version.version}: loaded back, it differs by {difference:g}"
        )
    client.set_registered_model_alias(name, _ALIAS, version.version)
    return f"models:/{name}@{_ALIAS}"
