"""The winner on all training data, tested once, registered as champion."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from search.artifacts import WEIGHTS, deployable, export_program
from search.prepare import count_gpus, prepare
from search.recorder import REFIT_DONE, Recorder, now_ms
from search.spec import load_spec
from search.store import connect, find_sweep
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
_RESULT = "refit.json"
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
    result = folder.read_result()
    if result["best"] is None:
        raise StateError(f"{folder.name}: no trial was evaluated to the end; there is nothing to refit")
    state = folder.read_state()
    client = connect(state.tracking_uri)
    recorder = Recorder(client, state.experiment_id, folder.name, state.key)
    if recorder.finished_refit is not None:
        return _recorded(state.tracking_uri, recorder.finished_refit)
    prepared = prepare(load_spec(folder.spec), data_dir, notify=notify)
    state.check_data(prepared.dataset.name, prepared.dataset.digest, folder.name)
    epochs = best_epoch_count(result["best"]["best_epochs"])
    notify(f"{folder.name}: refitting trial {result['best']['trial']} on all training data for {epochs} epochs")
    work = make_work(prepared)
    params = prepared.task.complete(result["best"]["params"])
    run_id = recorder.refit_run({**params, "epochs": epochs})
    try:
        run = _train(work, params, epochs, client, run_id)
        test_images = shared_tensor(prepared.dataset.test_images).to(run.device)
        test = run.evaluate(torch.arange(len(test_images), device=run.device), test_images)
        client.log_batch(run_id, metrics=_metrics({f"test_{key}": value for key, value in test.items()}, epochs))
        uri = _save(client, state.tracking_uri, run_id, folder.name, run, prepared.dataset.test_images)
        refitted = RefitResult(
            folder.name, run_id, epochs, len(prepared.dataset), len(test_images), test,
            result["best"]["val_loss"]["mean"], uri,
        )  # fmt: skip
        client.log_text(run_id, json.dumps(refitted.to_json(), indent=2), _RESULT)
        client.set_tag(run_id, REFIT_DONE, "true")
    except BaseException:
        client.set_terminated(run_id, status="FAILED")
        raise
    client.set_terminated(run_id, status="FINISHED")
    return refitted


def _recorded(uri: str, run_id: str) -> RefitResult:
    """What an earlier refit has found."""
    import mlflow

    path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=_RESULT, tracking_uri=uri)
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


def _save(
    client: MlflowClient, uri: str, run_id: str, name: str, run: FoldRun, images: np.ndarray[Any, np.dtype[np.uint8]]
) -> str | None:
    """Logs the weights, and the model as champion: its address, or None for one that torch cannot export."""
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
    """Within this block MLflow's module-level functions write to ``uri``; afterwards to what they wrote to before."""
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


def _register(client: MlflowClient, run_id: str, name: str, model: torch.nn.Module, sample: torch.Tensor) -> str:
    """Logs and registers the model, loads it back, checks that it computes the same, and then calls it champion."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

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
    loaded = mlflow.pytorch.load_model(f"models:/{name}/{version.version}")
    with torch.inference_mode():
        difference = float((loaded(sample) - expected).abs().max())
    if difference > 1e-5:
        raise StateError(f"models:/{name}/{version.version}: loaded back, it differs by {difference:g}")
    client.set_registered_model_alias(name, _ALIAS, version.version)
    return f"models:/{name}@{_ALIAS}"
