"""What is registered as champion where torch cannot export the model."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from foldrace.search.recording.tracking import connect
from foldrace.search.sweeps.champion import register_champion


class DataDependent(torch.nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return super().forward(flat if float(flat.sum()) > 0 else -flat)


@pytest.mark.slow
def test_a_model_that_cannot_be_exported_is_registered_by_its_weights_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    experiment = client.create_experiment(uuid.uuid4().hex, artifact_location=tmp_path.as_uri())
    run = client.create_run(experiment).info.run_id
    fold = SimpleNamespace(task=SimpleNamespace(reconstructs=False), model=None, params={})
    fold.model = DataDependent(4, 2)
    images = np.ones((4, 1, 2, 2), np.uint8)
    with caplog.at_level(logging.WARNING, "foldrace"):
        found = register_champion(client, uri, run, "odd", fold, images)  # type: ignore[arg-type]
    assert found == "models:/odd@champion" and "cannot export this model" in caplog.text
    version = client.get_model_version_by_alias("odd", "champion")
    place = client.get_model_version_download_uri("odd", version.version)
    weights = torch.load(place.removeprefix("file://"), weights_only=True)
    assert torch.equal(weights["weight"], fold.model.weight)
