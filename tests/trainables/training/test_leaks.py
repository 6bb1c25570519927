"""What is only known of the validation part is not learned: by `prepare`, by `augment`, by groups,
in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foldrace.trainables.data.arrays import describe
from foldrace.trainables.data.sample import Roles
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldKind, FoldPlan

N, OF_ONE = 400, 5
DRAW = np.random.default_rng(0)
MEMBER = np.repeat(np.arange(N // OF_ONE), OF_ONE)  # five samples in succession belong together
SECRET = DRAW.integers(0, 2, N // OF_ONE)[MEMBER]  # known of one, known of all five


class Memorises:
    """Predicts each key's most frequent target in the training part; else it guesses."""

    def __init__(self, key: str) -> None:
        self.key = key

    def prepare(self, train: Any, params: Any) -> Tensor:
        known = torch.full((N,), 0.5)
        for key in train[self.key].unique():
            known[key] = train["target"][train[self.key] == key].float().mean()
        return known

    def build(self, params: Any, sample: Any) -> nn.Module:
        return nn.Linear(1, 1)

    def losses(self, model: nn.Module, batch: Any, params: Any, prepared: Tensor) -> Any:
        guess = prepared[batch[self.key]]
        right = 1 - (guess - batch["target"]).abs()
        return {"loss": model(right[:, None])[:, 0].square(), "right": right}


class Notes(Memorises):
    """Notes the target of each row that `augment` sees, in any epoch."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.known = torch.full((N,), 0.5)

    def prepare(self, train: Any, params: Any) -> Tensor:
        return self.known

    def augment(self, batch: Any, generator: torch.Generator) -> Any:
        self.known[batch[self.key]] = batch["target"].float()
        return batch

    def losses(self, model: nn.Module, batch: Any, params: Any) -> Any:
        return super().losses(model, batch, params, self.known)


def score(
    key: str,
    kind: FoldKind,
    target: np.ndarray,
    task: type[Memorises] = Memorises,
    epochs: int = 1,
) -> float:
    fields = {"row": np.arange(N), "member": MEMBER, "target": target}
    samples = Samples.of(fields, describe(fields, {}, Roles("target"), {}), torch.device("cpu"))
    plan = FoldPlan(N, kind, splits=4, groups=MEMBER, time=np.arange(N), labels=target)
    loaded = LoadedTask("memorises", task(key), {}, None)
    options = TrainingOptions(
        epochs, objective="right", direction="maximize", divergence_patience=None
    )
    cv = CrossValidation(loaded, loaded.complete({"lr": 1e-6}), samples, plan.split(), options)
    for _ in range(epochs):
        report = cv.advance()
    return report.metrics["val_right"]


def test_prepare_sees_nothing_of_the_validation_part() -> None:
    """Each row is its own key: what is known of it would be known from validation alone."""
    assert score("row", FoldKind.KFOLD, SECRET) == 0.5


def test_augment_sees_nothing_of_the_validation_part_nor_of_other_folds() -> None:
    assert score("row", FoldKind.KFOLD, SECRET, Notes, epochs=3) == 0.5
    assert score("member", FoldKind.KFOLD, SECRET, Notes, epochs=3) > 0.9  # as groups leak


@pytest.mark.parametrize("kind", [FoldKind.GROUP, FoldKind.STRATIFIED_GROUP])
def test_what_is_known_of_a_group_does_not_help_in_folds_by_group(kind: FoldKind) -> None:
    assert score("member", FoldKind.KFOLD, SECRET) > 0.9  # it leaks, and `leaks` says so
    assert score("member", kind, SECRET) == 0.5


def test_what_is_known_later_does_not_help_in_folds_by_time() -> None:
    assert score("member", FoldKind.KFOLD, SECRET) > 0.9
    assert score("member", FoldKind.TIME_SERIES, SECRET) == 0.5


def test_labels_at_random_are_not_learned() -> None:
    assert abs(score("member", FoldKind.GROUP, DRAW.integers(0, 2, N)) - 0.5) < 0.05
