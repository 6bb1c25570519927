"""What is registered as champion where torch cannot export the model."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch

from foldrace.search.sweeps.champion import register_champion
from foldrace.search.sweeps.models import deployable, export_program
from foldrace.trainables.data.arrays import Dataset, Ragged, describe
from foldrace.trainables.data.sample import Roles
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan
from tests.helpers.stores import new_store


class DataDependent(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return super().forward(flat if float(flat.sum()) > 0 else -flat)


class Odd:
    def build(self, params: Any, sample: Any) -> torch.nn.Module:
        return DataDependent(4, 2)

    def losses(self, model: torch.nn.Module, images: torch.Tensor, params: Any) -> Any:
        return {"loss": model(images).square().mean(1)}


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_is_registered_by_its_weights_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = new_store(tmp_path)
    uri = str(client.tracking_uri)
    experiment = client.create_experiment(uuid.uuid4().hex, artifact_location=tmp_path.as_uri())
    run = client.create_run(experiment).info.run_id
    images = np.ones((4, 1, 2, 2), np.uint8)
    data = Dataset.of_images("ones", images, None, None, images, None, (), "", "")
    task = LoadedTask("odd", Odd(), {}, None)
    split = FoldPlan(4, splits=2).split()[0]
    samples = Samples.of_images(torch.from_numpy(images))
    fold = Fold(task, task.complete({}), samples, split, TrainingOptions(1))
    with caplog.at_level(logging.WARNING, "foldrace"):
        found = register_champion(client, uri, run, "odd", fold, data)
    assert found == "models:/odd@champion" and "cannot export this model" in caplog.text
    version = client.get_model_version_by_alias("odd", "champion")
    place = client.get_model_version_download_uri("odd", version.version)
    weights = torch.load(Path(place.removeprefix("file://")) / "state_dict.pt", weights_only=True)
    assert torch.equal(weights["weight"], fold.model.weight)


class Sexes:
    """Two inputs, and what it learns of the training part."""

    def prepare(self, train: Any, params: Any) -> Any:
        return {"mean": train["x"].mean(0)}

    def build(self, params: Any, sample: Any) -> torch.nn.Module:
        return torch.nn.Linear(4, 2)

    def predict(self, model: torch.nn.Module, batch: Any, params: Any, prepared: Any) -> Any:
        parts = [batch["x"] - prepared["mean"], batch["sex"][:, None].float()]
        return model(torch.cat(parts, 1))

    def losses(self, model: torch.nn.Module, batch: Any, params: Any, prepared: Any) -> Any:
        return {"loss": self.predict(model, batch, params, prepared).square().mean(1)}


@pytest.mark.slow
def test_a_model_of_several_inputs_is_registered_with_its_program_and_what_was_prepared(
    tmp_path: Path,
) -> None:
    client = new_store(tmp_path)
    uri = str(client.tracking_uri)
    experiment = client.create_experiment(uuid.uuid4().hex, artifact_location=tmp_path.as_uri())
    run = client.create_run(experiment).info.run_id
    x, sex = np.random.default_rng(0).random((6, 3)).astype(np.float32), np.arange(6) % 2
    fields = {"x": x, "sex": sex}
    data = Dataset("people", fields, fields, Roles(), {}, "", "")
    samples = Samples.of(fields, data.sample, torch.device("cpu"))
    task = LoadedTask("sexes", Sexes(), {}, None)
    split = FoldPlan(6, splits=2).split()[0]
    fold = Fold(task, task.complete({}), samples, split, TrainingOptions(1))
    assert register_champion(client, uri, run, "sexes", fold, data) == "models:/sexes@champion"
    mlflow.set_tracking_uri(uri)
    try:
        place = Path(mlflow.artifacts.download_artifacts("models:/sexes@champion"))
    finally:
        mlflow.set_tracking_uri("")
    model = torch.export.load(place / "model.pt2").module()
    batch = samples.take(torch.arange(6))
    torch.testing.assert_close(model(batch["x"], batch["sex"]), fold.call("predict", batch))
    prepared = torch.load(place / "prepared.pt", weights_only=True)
    torch.testing.assert_close(prepared["mean"], fold.prepared["mean"])


class Words:
    """The mean of embeddings over the length of a sequence."""

    def build(self, params: Any, sample: Any) -> torch.nn.Module:
        return torch.nn.Embedding(9, 2)

    def predict(self, model: torch.nn.Module, batch: Any, params: Any) -> Any:
        inside = torch.arange(batch["x"].shape[1]) < batch["x_length"][:, None]
        return (model(batch["x"]) * inside[..., None]).sum(1) / batch["x_length"][:, None]

    def losses(self, model: torch.nn.Module, batch: Any, params: Any) -> Any:
        return {"loss": self.predict(model, batch, params).square().mean(1)}


def test_a_model_of_sequences_is_exported_for_any_length() -> None:
    fields = {"x": Ragged.of([np.arange(1 + index % 4) for index in range(8)])}
    sample = describe(fields, {}, Roles(), {})
    samples = Samples.of(fields, sample, torch.device("cpu"))
    task = LoadedTask("words", Words(), {}, None)
    split = FoldPlan(8, splits=2).split()[0]
    fold = Fold(task, task.complete({}), samples, split, TrainingOptions(1))
    program = export_program(*deployable(fold, samples))
    assert program is not None
    model = program.module()
    for longest, count in ((1, 1), (6, 3), (9, 5)):
        x, lengths = torch.randint(9, (count, longest)), torch.full((count,), longest)
        expected = fold.call("predict", {"x": x, "x_length": lengths})
        torch.testing.assert_close(model(x, lengths), expected)
