"""The winner on all training data, tested once, registered as champion."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foldrace.errors import InputError, StateError, first_line
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.resources import count_gpus
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.events import now_ms
from foldrace.search.recording.outbox import waiting_records
from foldrace.search.recording.store import connect, find_sweep
from foldrace.search.recording.writer import REFIT_DONE, MlflowWriter
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.search.sweeps.champion import register_champion
from foldrace.search.sweeps.evidence import Codec, log_evidence
from foldrace.search.sweeps.models import WEIGHTS
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.ray.process import prepare_process
from foldrace.trainables.ray.work import Work, shared_tensor
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.seeds import derive_seed, seeded
from foldrace.trainables.training.splits import Split

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["RefitResult", "best_epoch_count", "refit"]

_RESULT = "refit.json"
_BOUND_BATCH = 250
_GENERIC = re.compile(
    r"loss|criterion|negative_elbo|(?!iwae_).*_\d+"
)  # other names' doubles, and one dimension's own


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
        figures = [
            (f"test {name}", f"{value:.5f}")
            for name, value in self.test.items()
            if not _GENERIC.fullmatch(name)
        ]
        rows = [
            ("trained on", f"{self.samples:,} images, {self.epochs} epochs"),
            ("cross-validation loss", f"{self.val_loss:.5f}"),
            *(figures or [("test loss", f"{self.test['loss']:.5f}")]),
            (
                "tested on",
                f"{self.test_samples:,} images, once"
                + (" (by an earlier refit)" if self.repeated else ""),
            ),
        ]
        return rows + ([("model", self.model_uri)] if self.model_uri else [])


def best_epoch_count(best_epochs: list[int]) -> int:
    """The epochs to train on all data: the mean of the folds' best epochs, rounded half up, at
    least 1."""
    return max(1, math.floor(sum(best_epochs) / len(best_epochs) + 0.5))


def refit(
    name: str | None,
    root: Path,
    data_dir: Path,
    *,
    epochs: int | None = None,
    bound_samples: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> RefitResult:
    """Refits the best configuration of a sweep, or of the latest one.

    The test set is used once a sweep: a second call returns what the first has recorded.

    Args:
        epochs: to train for; None: the mean of the folds' best epochs.
        bound_samples: codes an image for the importance-weighted bound on log p(x); None: leave
            the bound out.

    Raises:
        StateError: no such sweep, no winner, or a data set that is not the one the sweep ran on.
        InputError: the data set or the task cannot be read any more.
    """
    folder = find_sweep(root, name)
    result = folder.read_result()
    if result["best"] is None:
        raise StateError(
            f"{folder.name}: no trial was evaluated to the end; there is nothing to refit"
        )
    if waiting := waiting_records(folder.path):
        raise StateError(
            f"{folder.name}: {waiting} records wait to be delivered; `foldrace sync {folder.name}`"
            " first"
        )
    state = folder.read_state()
    client = connect(state.tracking_uri)
    recorder = MlflowWriter(client, state.experiment_id, folder.name, state.key)
    if recorder.finished_refit is not None:
        return _recorded(state.tracking_uri, recorder.finished_refit)
    prepared = prepare(load_spec(folder.spec), data_dir)
    state.check_data(prepared.dataset.name, prepared.dataset.digest, folder.name)
    if bound_samples is not None and not prepared.task.can("bound"):
        raise InputError(
            "--bound-samples", bound_samples, f"{prepared.task.reference} has no bound on log p(x)"
        )
    epochs = epochs or best_epoch_count(result["best"]["best_epochs"])
    notify(
        f"{folder.name}: refitting trial {result['best']['trial']} on all training data for"
        f" {epochs} epochs"
    )
    work = make_work(prepared)
    params = prepared.task.complete(result["best"]["params"])
    run_id = recorder.refit_run({**params, "epochs": epochs})
    try:
        run = _train(work, params, epochs, client, run_id)
        test_images = shared_tensor(prepared.dataset.test_images).to(run.device)
        test = run.evaluate(torch.arange(len(test_images), device=run.device), test_images)
        if bound_samples is not None:
            test[f"iwae_{bound_samples}"] = mean_bound(run, test_images, bound_samples)
        client.log_batch(
            run_id, metrics=_metrics({f"test_{key}": value for key, value in test.items()}, epochs)
        )
        _log_evidence(client, run_id, run, prepared.dataset, folder.winner, test, notify)
        uri = register_champion(
            client, state.tracking_uri, run_id, folder.name, run, prepared.dataset.test_images
        )
        refitted = RefitResult(
            folder.name,
            run_id,
            epochs,
            len(prepared.dataset),
            len(test_images),
            test,
            result["best"]["val_loss"]["mean"],
            uri,
        )
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

    path = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path=_RESULT, tracking_uri=uri
    )
    return RefitResult(**{**json.loads(Path(path).read_text()), "repeated": True})


def _train(
    work: Work, params: Mapping[str, Value], epochs: int, client: MlflowClient, run_id: str
) -> Fold:
    """Trains on everything; the schedule spans the epochs that it spanned in the search."""
    prepare_process(work.threads, work.options.precision)
    device = torch.device("cuda" if work.gpu and count_gpus() else "cpu")
    everything = np.arange(len(work.images), dtype=np.int64)
    run = Fold(
        work.task,
        params,
        shared_tensor(work.images).to(device),
        Split(everything, everything[:0]),
        replace(work.options, epochs=max(work.options.epochs, epochs)),
        number=len(work.splits),
    )
    for epoch in range(1, epochs + 1):
        figures = run.train_only_epoch()
        if not all(math.isfinite(value) for value in figures.values()):
            raise StateError(
                f"the winner diverged on all training data, in epoch {epoch}; it was not tested"
            )
        client.log_batch(run_id, metrics=_metrics(figures, epoch))
    return run


def mean_bound(run: Fold, images: torch.Tensor, samples: int) -> float:
    """The importance-weighted bound on log p(x), in nats, mean over ``images`` (N, C, H, W)
    uint8."""
    run.model.eval()
    total = 0.0
    with torch.inference_mode(), seeded(derive_seed(run.options.seed, "bound"), run.device):
        for part in torch.split(images, _BOUND_BATCH):
            pixels = part.to(torch.float32).div_(255.0)
            total += float(
                run.task.implementation.bound(run.model, pixels, run.params, samples)
                .double()
                .sum()
            )
    return total / len(images)


def _log_evidence(
    client: MlflowClient,
    run_id: str,
    run: Fold,
    dataset: Dataset,
    winner: Path,
    test: Mapping[str, float],
    notify: Callable[[str], None],
) -> None:
    """Logs what the reports show of the model; a task of the user's that cannot give it costs the
    refit nothing."""
    codec = Codec(run.task, run.model, run.params, run.device, run.options.seed)
    folds = []
    try:
        for path in sorted(
            winner.glob(f"fold-*/{WEIGHTS}"),
            key=lambda path: int(path.parent.name.partition("-")[2]),
        ):
            model = copy.deepcopy(run.model)
            model.load_state_dict(torch.load(path, weights_only=True, map_location=run.device))
            folds.append(replace(codec, model=model))
        log_evidence(client, run_id, codec, folds, dataset, test)
    except Exception as error:
        notify(f"the reports will lack what the model sees: {first_line(error)}")


def _metrics(values: Mapping[str, float], step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, now_ms(), step) for name, value in values.items()]
