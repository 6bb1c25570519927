"""What the trials of a prepared sweep share, as `FoldTrainable` takes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from foldrace.search.preparing.prepared import Prepared
from foldrace.trainables.ray.limits import Limits
from foldrace.trainables.ray.work import Work
from foldrace.trainables.training.options import EarlyStopping, Precision, TrainingOptions
from foldrace.trainables.training.seeds import derive_seed
from foldrace.trainables.training.splits import Split

__all__ = ["make_work"]


def make_work(prepared: Prepared) -> Work:
    """The task, data, folds and settings that all trials of a sweep share."""
    spec = prepared.spec
    return Work(
        task=prepared.task,
        fields=prepared.dataset.training,
        sample=prepared.dataset.sample,
        splits=tuple(prepared.folds.split()),
        options=TrainingOptions(
            epochs=spec.epochs,
            seed=spec.search.seed,
            objective=prepared.objective.metric,
            direction=prepared.objective.direction,
            metrics=prepared.metrics,
            probabilities=prepared.probabilities,
            early_stopping=EarlyStopping(
                spec.early_stopping.patience, spec.early_stopping.min_delta
            ),
            divergence_patience=spec.divergence.patience,
            precision=Precision(spec.training.precision),
        ),
        threads=max(1, int(spec.resources.cpu)),
        gpu=spec.resources.gpu,
        fused=spec.training.fused,
        positions=prepared.dataset.positions,
        picture_epochs=frozenset(rung.epochs for rung in spec.ladder[:-1]),
        ladder=spec.ladder,
        limits=Limits(spec.limits.trial_timeout, spec.limits.memory),
        repeat_splits=tuple(_repeat_splits(prepared)),
    )


def _repeat_splits(prepared: Prepared) -> Iterator[tuple[Split, ...]]:
    """The folds of each repeat of a comparison, each with a seed derived from the folds' seed."""
    comparison = prepared.spec.comparison
    for repeat in range(1, comparison.repeats + 1) if comparison else ():
        seed = derive_seed(prepared.folds.seed, "repeat", repeat) % 2**32
        yield tuple(replace(prepared.folds, seed=seed).split())
