"""The winner on all training data, tested once, registered as champion."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from search.artifacts import export_program
from search.prepare import count_gpus, prepare
from search.recorder import Recorder, now_ms
from search.spec import load_spec
from search.store import SweepFolder, connect, find_sweep
from search.sweep import make_work
from trainables.errors import StateError
from trainables.fold_run import FoldRun
from trainables.folds import Split
from trainables.parameters import Value
from trainables.ray_trainable import Work, shared_tensor

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["RefitResult", "best_epoch_count", "refit"]

_ALIAS = "champion"
_CHECKED = 16
_GENERIC = ("loss", "criterion")  # names for the objective and for what is minimised, beside their own


@dataclass(frozen=True)
class RefitResult:
    """What the winner scores on the test set, and where its model is.

    Attributes:
        test: the task's terms on the test part; ``loss`` is the objective.
        model_uri: of the registered champion; None for a model that torch cannot export.
        repeated: these figures were recorded by an earlier refit; the test set was not used again.
    """

    sweep: str
    run_id: str
    epochs: int
    samples: int
    test_samples: int
    test: Mapping[str, float]
    val_loss: float
    model_uri: str | None
    repeated: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def rows(self) -> list[tuple[str, str]]:
        """Labels and values for people."""
        figures = [(f"test {name}", f"{value:.5f}") for name, value in self.test.items() if name not in _GENERIC]
        rows = [
            ("trained on", f"{self.samples:,} images, {self.epochs} epochs"),
            ("cross-validation loss", f"{self.val_loss:.5f}"),
            *(figures or [("test loss", f"{self.test['loss']:.5f}")]),
            ("tested on", f"{self.test_samples:,} images, once" + (" (by an earlier refit)" if self.repeated else "")),
        ]
        return rows + ([("model", self.model_uri)] if self.model_uri else [])


def best_epoch_count(best_epochs: list[int]) -> int:
    """The epochs to train on all data: the mean of the folds' best epochs, rounded half up, at least 1."""
    return max(1, math.floor(sum(best_epochs) / len(best_epochs) + 0.5))


def refit(
    name: str | None, root: Path, data_dir: Path, *, notify: Callable[[str], None] = lambda _: None
) -> RefitResult:
    """Refits the best configuration of a sweep, or of the latest one.

    The test set is used once a sweep: a second call returns what the first has recorded.

    Raises:
        StateError: no such sweep, no winner, or a data set that is not the one the sweep ran on.
        InputError: the data set or the task cannot be read any more.
    """
    folder = find_sweep(root, name)
    result = _read_result(folder)
    spec = load_spec(folder.spec)
    client = connect(result["tracking_uri"])
    sweep_run = client.get_run(result["run_id"])
    recorder = Recorder(client, sweep_run.info.experiment_id, folder.name, sweep_run.data.tags["foldrace.key"])
    epochs = best_epoch_count(result["best"]["best_epochs"])
    known = _recorded(client, folder, result, recorder)
    if known is not None:
        return known
    prepared = prepare(spec, data_dir, notify=notify)
    if prepared.dataset.digest != sweep_run.data.tags["foldrace.dataset_digest"]:
        raise StateError(f"{spec.dataset.name}: not the data that {folder.name} ran on (its digest differs)")
    notify(f"{folder.name}: refitting trial {result['best']['trial']} on all training data for {epochs} epochs")
    work = make_work(prepared)
    params = prepared.task.complete(result["best"]["params"])
    run_id = recorder.refit_run({**params, "epochs": epochs})
    try:
        run = _train(work, params, epochs, client, run_id)
        test_images = shared_tensor(prepared.dataset.test_images).to(run.device)
        test = run.evaluate(torch.arange(len(test_images), device=run.device), test_images)
        client.log_batch(run_id, metrics=_metrics({f"test_{key}": value for key, value in test.items()}, epochs))
        uri = _register(client, result["tracking_uri"], run_id, folder.name, run, prepared.dataset.test_images)
    except BaseException:
        client.set_terminated(run_id, status="FAILED")
        raise
    refitted = RefitResult(
        folder.name, run_id, epochs, len(prepared.dataset), len(test_images), test,
        result["best"]["val_loss"]["mean"], uri,
    )  # fmt: skip
    client.log_text(run_id, json.dumps(refitted.to_json(), indent=2), "refit.json")
    client.set_terminated(run_id, status="FINISHED")
    return refitted


def _read_result(folder: SweepFolder) -> dict[str, Any]:
    if not folder.result.is_file():
        raise StateError(f"{folder.name}: the sweep has not ended; there is no winner to refit yet")
    result: dict[str, Any] = json.loads(folder.result.read_text())
    if result["best"] is None:
        raise StateError(f"{folder.name}: no trial was evaluated to the end; there is nothing to refit")
    return result


def _recorded(
    client: MlflowClient, folder: SweepFolder, result: Mapping[str, Any], recorder: Recorder
) -> RefitResult | None:
    run_id = recorder.finished_refit
    if run_id is None:
        return None
    import mlflow

    path = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path="refit.json", tracking_uri=result["tracking_uri"]
    )
    return RefitResult(**{**json.loads(Path(path).read_text()), "repeated": True})


def _train(work: Work, params: Mapping[str, Value], epochs: int, client: MlflowClient, run_id: str) -> FoldRun:
    """Trains on everything; the schedule spans the epochs that it spanned in the search."""
    torch.set_num_threads(work.threads)
    device = torch.device("cuda" if work.gpu and count_gpus() else "cpu")
    everything = np.arange(len(work.images), dtype=np.int64)
    run = FoldRun(
        work.task, params, shared_tensor(work.images).to(device), Split(everything, everything[:0]),
        epochs=max(work.epochs, epochs), seed=work.seed, fold=len(work.splits), objective=work.objective,
    )  # fmt: skip
    for epoch in range(1, epochs + 1):
        client.log_batch(run_id, metrics=_metrics(run.train_only_epoch(), epoch))
    return run


def _metrics(values: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, now_ms(), step) for name, value in values.items()]


def _register(
    client: MlflowClient, uri: str, run_id: str, name: str, run: FoldRun, images: np.ndarray[Any, np.dtype[np.uint8]]
) -> str | None:
    """Logs and registers the model, loads it back, and checks that it computes the same."""
    model = run.model.cpu().eval()
    sample = shared_tensor(images[:_CHECKED]).float().div(255)
    if export_program(model, sample) is None:
        return None
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    with torch.inference_mode():
        expected = model(sample)
    shapes = [TensorSpec(np.dtype(np.float32), (-1, *t.shape[1:])) for t in (sample, expected)]
    signature = ModelSignature(inputs=Schema(shapes[:1]), outputs=Schema(shapes[1:]))
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pytorch.log_model(
            model, name="model", signature=signature, input_example=sample[:2].numpy(), serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )  # fmt: skip
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, info.model_uri, run_id, model_id=info.model_id)
    client.set_registered_model_alias(name, _ALIAS, version.version)
    model_uri = f"models:/{name}@{_ALIAS}"
    loaded = mlflow.pytorch.load_model(model_uri)
    with torch.inference_mode():
        difference = float((loaded(sample) - expected).abs().max())
    if difference > 1e-5:
        raise StateError(f"{model_uri}: loaded back, it differs from the trained model by {difference:g}")
    return model_uri
