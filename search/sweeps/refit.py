"""Refits the best trial on all training data, tests it once, and registers it as champion."""

from __future__ import annotations

import copy
import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foldrace.errors import InputError, StateError, first_line
from foldrace.search.preparing.recorded import open_recorded
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.events import now_ms
from foldrace.search.recording.folder import SweepFolder, find_sweep
from foldrace.search.recording.outbox import waiting_records
from foldrace.search.recording.reader import artifact, parameter_values
from foldrace.search.recording.runs import Runs
from foldrace.search.recording.schema import BEST_EPOCH, REFIT_FILE, VAL_LOSS, Tag
from foldrace.search.recording.tracking import connect
from foldrace.search.recording.writer import MlflowWriter, finite_metrics
from foldrace.search.spec.fields import same
from foldrace.search.sweeps.champion import register_champion
from foldrace.search.sweeps.evidence import Codec, log_evidence
from foldrace.search.sweeps.models import WEIGHTS
from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.objective import MINIMIZE
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.divergence import not_finite
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.seeds import derive_seed, seeded
from foldrace.trainables.training.splits import Split

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from foldrace.search.preparing.prepared import Prepared

__all__ = ["RefitResult", "best_epoch_count", "refit"]

log = logging.getLogger(__name__)

_BOUND_BATCH = 250
# terms that are not shown: those equal to another one, and those of a single dimension
_GENERIC = re.compile(r"loss|criterion|negative_elbo|(?!iwae_).*_\d+")


@dataclass(frozen=True)
class RefitResult:
    """The refitted model's values on the test part, and where the model is.

    Attributes:
        epochs: trained on all training data.
        samples, test_samples: sizes of the training data and of the test part.
        test: the task's terms on the test part; ``loss`` is the objective.
        score: the cross-validated score of the trial that was refitted.
        metric: that trials were compared by, which the score is a value of.
        direction: ``minimize`` or ``maximize``.
        model_uri: of the registered champion; its weights alone if torch cannot export the model.
        repeated: read from the record of an earlier refit; the test part was not used again.
    """

    sweep: str
    run_id: str
    epochs: int
    samples: int
    test_samples: int
    test: Mapping[str, float]
    score: float
    model_uri: str | None
    repeated: bool = False
    metric: str = "loss"
    direction: str = MINIMIZE

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; with ``val_loss`` if the metric is minimised."""
        found = asdict(self)
        return {**found, "val_loss": self.score} if self.direction == MINIMIZE else found

    @classmethod
    def recorded(cls, text: str | bytes) -> RefitResult:
        """The result of an earlier refit, from its file."""
        found = json.loads(text)
        loss = found.pop("val_loss", None)
        return cls(**{"score": loss, **found, "repeated": True})

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) of each value to show."""
        terms = [
            (f"test {name}", f"{value:.5f}")
            for name, value in self.test.items()
            if not _GENERIC.fullmatch(name)
        ]
        rows = [
            ("trained on", f"{self.samples:,} samples, {self.epochs} epochs"),
            (f"cross-validated {self.metric}", f"{self.score:.5f}"),
            *(terms or [("test loss", f"{self.test['loss']:.5f}")]),
            (
                "tested on",
                f"{self.test_samples:,} samples, once"
                + (" (by an earlier refit)" if self.repeated else ""),
            ),
        ]
        return rows + ([("model", self.model_uri)] if self.model_uri else [])


def best_epoch_count(best_epochs: list[int]) -> int:
    """The epochs to train on all data: the mean of the folds' best epochs, half rounded up.

    >>> best_epoch_count([4, 5, 5]), best_epoch_count([4, 5]), best_epoch_count([0])
    (5, 5, 1)
    """
    return max(1, math.floor(sum(best_epochs) / len(best_epochs) + 0.5))


def refit(
    name: str | None,
    root: Path,
    data_dir: Path,
    *,
    epochs: int | None = None,
    bound_samples: int | None = None,
) -> RefitResult:
    """Refits the best trial of a sweep on all training data, and tests it on the test part.

    The test part is used once per sweep: a second call returns the recorded result of the first.

    Args:
        name: the sweep's; None: the latest sweep.
        root: the folder of all sweeps.
        data_dir: where data sets are kept.
        epochs: to train for; None: the mean of the folds' best epochs.
        bound_samples: codes per image for the importance-weighted bound on log p(x); None: no
            bound.

    Raises:
        StateError: there is no such sweep, it has no completed trial, its record is not delivered
            yet, or its file, task or data are not the recorded ones.
        InputError: the data set or the task cannot be read any more.
    """
    folder = find_sweep(root, name)
    best = _best_trial(folder)
    state = folder.read_state()
    client = connect(state.tracking_uri)
    writer = MlflowWriter(client, state.experiment_id, folder.name, state.key)
    if (earlier := writer.finished_refit) is not None:
        if epochs is not None or bound_samples is not None:
            log.warning(
                "%s: refitted before; --epochs and --bound-samples change nothing, as the test"
                " part is used once",
                folder.name,
            )
        recorded = artifact(client, earlier, REFIT_FILE)
        if recorded is None:
            raise StateError(f"{folder.name}: its refit is recorded, but {REFIT_FILE} is missing")
        return RefitResult.recorded(recorded)
    prepared = open_recorded(folder).prepare(data_dir)
    task, dataset = prepared.task, prepared.dataset
    if bound_samples is not None and not task.can("bound"):
        raise InputError(
            "--bound-samples", bound_samples, f"{task.reference} has no bound on log p(x)"
        )
    epochs = epochs or best_epoch_count(best["best_epochs"])
    log.info(
        "%s: refitting trial %d on all training data for %d epochs",
        folder.name,
        best["trial"],
        epochs,
    )
    runs = Runs(client, state.experiment_id, folder.name, state.key)
    _check_recorded(runs, writer, best, prepared)
    params = _recorded_params(runs, best, task)
    work = make_work(prepared)
    with writer.refit_run({**params, "epochs": epochs}) as run_id, work.process() as device:
        fold = _train(work, params, epochs, client, run_id, device)
        test = _test(fold, dataset, bound_samples)
        values = {f"test_{name}": value for name, value in test.items()}
        client.log_batch(run_id, metrics=finite_metrics(values, epochs, now_ms()))
        _log_evidence(client, run_id, fold, dataset, folder.winner, test)
        uri = register_champion(client, state.tracking_uri, run_id, folder.name, fold, dataset)
        refitted = RefitResult(
            sweep=folder.name,
            run_id=run_id,
            epochs=epochs,
            samples=len(dataset),
            test_samples=dataset.test_count,
            test=test,
            score=(best.get("score") or best["val_loss"])["mean"],
            model_uri=uri,
            metric=prepared.objective.name,
            direction=prepared.objective.direction,
        )
        client.log_text(run_id, json.dumps(refitted.to_json(), indent=2), REFIT_FILE)
        client.set_tag(run_id, str(Tag.REFIT_DONE), "true")
    return refitted


def _best_trial(folder: SweepFolder) -> dict[str, Any]:
    """The best trial in the sweep's result.

    Raises:
        StateError: there is none, or its record is not delivered yet.
    """
    best: dict[str, Any] | None = folder.read_result()["best"]
    if best is None:
        raise StateError(f"{folder.name}: no trial completed, so there is nothing to refit")
    if waiting := waiting_records(folder.path):
        raise StateError(
            f"{folder.name}: {waiting} records wait to be delivered; `foldrace sync {folder.name}`"
            " first"
        )
    return best


def _check_recorded(
    runs: Runs, writer: MlflowWriter, best: Mapping[str, Any], prepared: Prepared
) -> None:
    """Checks that the best trial of ``result.json`` is that of the record, with its epochs.

    Raises:
        StateError: the record says otherwise; names the first difference.
    """
    number, spec = int(best["trial"]), prepared.spec
    top = spec.ladder[-1]
    run = runs.find((number,))
    if run is None or VAL_LOSS not in run.data.metrics:
        return  # a record without its trials, which is all that there is
    score = (best.get("score") or best["val_loss"])["mean"]
    recorded = prepared.objective.score(run.data.metrics[VAL_LOSS])
    folds = [runs.find((number, fold)) for fold in range(len(best["best_epochs"]))]
    epochs = [int(fold.data.metrics[BEST_EPOCH]) for fold in folds if fold is not None]
    better = [
        trial
        for trial, loss, _ in writer.completed_trials(top.folds, top.epochs)
        if loss < run.data.metrics[VAL_LOSS] and spec.kind == "sweep"
    ]
    differences = {
        f"its score is {score}": (score, recorded),
        f"its best epochs are {best['best_epochs']}": (best["best_epochs"], epochs),
        "it is the best": (number, better[0] if better else number),
    }
    for said, (one, other) in differences.items():
        if one != other:
            raise StateError(
                f"trial {number}: {said} in result.json, and {other} in the record; change"
                " result.json back"
            )


def _recorded_params(runs: Runs, best: Mapping[str, Any], task: LoadedTask) -> dict[str, Value]:
    """All parameters of the best trial: those of its run in MLflow; without one, of the result.

    Raises:
        StateError: ``result.json`` says otherwise than the record; names the first parameter.
    """
    run = runs.find((best["trial"],))
    texts = run.data.params if run else {}
    known = {name: text for name, text in texts.items() if name in task.declared}
    recorded = parameter_values(known, task.declared)
    for name, value in best["params"].items():
        if name in recorded and not same(recorded[name], value):
            raise StateError(
                f"trial {best['trial']}: {name} is {value!r} in result.json, and"
                f" {recorded[name]!r} in its record; change result.json back"
            )
    return task.complete({**best["params"], **recorded})


def _test(fold: Fold, dataset: Dataset, bound_samples: int | None) -> dict[str, float]:
    """The task's terms on the test part, and the bound if wanted."""
    samples = Samples.of(dataset.test, dataset.sample, fold.device)
    test = fold.evaluate(torch.arange(len(samples), device=fold.device), samples)
    if bound_samples is not None:
        test[f"iwae_{bound_samples}"] = mean_bound(fold, samples, bound_samples)
    return test


def _train(
    work: Work,
    params: Mapping[str, Value],
    epochs: int,
    client: MlflowClient,
    run_id: str,
    device: torch.device,
) -> Fold:
    """Trains on all training data; the schedule spans the same epochs as in the search."""
    everything = np.arange(len(work), dtype=np.int64)
    fold = Fold(
        work.task,
        params,
        work.samples_on(device),
        Split(everything, everything[:0]),
        replace(work.options, epochs=max(work.options.epochs, epochs)),
        number=len(work.splits),
    )
    for epoch in range(1, epochs + 1):
        values = fold.train_only_epoch()
        if (reason := not_finite(values, fold.model)) is not None:
            raise StateError(
                f"the best trial diverged on all training data, in epoch {epoch} ({reason}); it"
                " was not tested"
            )
        client.log_batch(run_id, metrics=finite_metrics(values, epoch, now_ms()))
    if (reason := fold.made_worse()) is not None:
        raise StateError(
            f"the best trial diverged on all training data ({reason}); it was not tested"
        )
    fold.model.load_state_dict(fold.judged.state_dict())  # averaged, if weights are averaged
    return fold


def mean_bound(fold: Fold, samples: Samples, count: int) -> float:
    """The importance-weighted bound on log p(x), in nats, as the mean over samples.

    Args:
        count: codes drawn per sample.
    """
    fold.model.eval()
    total = 0.0
    everything = torch.arange(len(samples), device=fold.device)
    with torch.inference_mode(), seeded(derive_seed(fold.options.seed, "bound"), fold.device):
        for batch in samples.batches(torch.split(everything, _BOUND_BATCH)):
            total += float(fold.call("bound", batch, samples=count).double().sum())
    return total / len(samples)


def _log_evidence(
    client: MlflowClient,
    run_id: str,
    fold: Fold,
    dataset: Dataset,
    winner: Path,
    test: Mapping[str, float],
) -> None:
    """Logs what the reports show of the model.

    The refit does not fail if a user's task raises here.
    """
    codec = Codec(fold.task, fold.model, fold.params, fold.device, fold.options.seed)
    folds = []
    try:
        for path in sorted(
            winner.glob(f"fold-*/{WEIGHTS}"),
            key=lambda path: int(path.parent.name.partition("-")[2]),
        ):
            model = copy.deepcopy(fold.model)
            model.load_state_dict(torch.load(path, weights_only=True, map_location=fold.device))
            folds.append(replace(codec, model=model))
        log_evidence(client, run_id, codec, folds, dataset, test)
    except Exception as error:
        log.warning("the reports will lack codes and reconstructions: %s", first_line(error))
