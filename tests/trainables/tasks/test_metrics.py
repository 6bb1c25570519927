"""Metrics of a whole part are scikit-learn's, whatever form the predictions have."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as skl

from foldrace.errors import InputError
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.work import make_work
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.trainables.tasks.metrics import METRICS, Metric, measure
from foldrace.trainables.tasks.own_metrics import declared_metrics

NAMES = tuple(METRICS)
CLASSES = tuple(name for name in NAMES if METRICS[name].needs_classes)
VALUES = tuple(name for name in NAMES if not METRICS[name].needs_classes)


def named(*names: str) -> dict[str, Metric]:
    return {name: METRICS[name] for name in names}


def softmax(scores: np.ndarray) -> np.ndarray:
    made = np.exp(scores - scores.max(1, keepdims=True))
    return made / made.sum(1, keepdims=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 5), st.booleans(), st.booleans(), st.booleans())
def test_those_of_classes_are_scikit_learns(
    seed: int, count: int, logits: bool, weighted: bool, ties: bool
) -> None:
    draw = np.random.default_rng(seed)
    targets = np.r_[np.arange(count), draw.integers(0, count, 40)]
    scores = draw.normal(size=(len(targets), count)).astype(np.float32)
    if ties:
        scores = scores.round()
    weights = draw.uniform(0.1, 2, len(targets)) if weighted else None
    shares = softmax(scores.astype(np.float64))
    found = measure(named(*CLASSES), targets, scores if logits else shares, weights)
    chosen, average = shares.argmax(1), "binary" if count == 2 else "macro"
    one_hot = np.eye(count)[targets]
    several: dict[str, Any] = {"average": average, "sample_weight": weights}
    expected = {
        "accuracy": skl.accuracy_score(targets, chosen, sample_weight=weights),
        "balanced_accuracy": skl.balanced_accuracy_score(targets, chosen, sample_weight=weights),
        "f1": skl.f1_score(targets, chosen, **several),
        "precision": skl.precision_score(targets, chosen, zero_division=0.0, **several),
        "recall": skl.recall_score(targets, chosen, **several),
        "auroc": skl.roc_auc_score(
            targets if count == 2 else one_hot,
            shares[:, 1] if count == 2 else shares,
            average="macro",
            sample_weight=weights,
        ),
        "average_precision": skl.average_precision_score(
            targets if count == 2 else one_hot,
            shares[:, 1] if count == 2 else shares,
            average="macro",
            sample_weight=weights,
        ),
        "log_loss": skl.log_loss(targets, shares, sample_weight=weights),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert 0 <= found["calibration_error"] <= 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from([(), (1,), (3,)]), st.booleans())
def test_those_of_values_are_scikit_learns(
    seed: int, shape: tuple[int, ...], weighted: bool
) -> None:
    draw = np.random.default_rng(seed)
    targets = draw.normal(size=(30, *shape)).astype(np.float32).astype(np.float64)
    predictions = targets + draw.normal(size=(30, *shape)).astype(np.float32)
    weights = draw.uniform(0.1, 2, 30) if weighted else None
    found = measure(named(*VALUES), targets, predictions, weights)
    assert found["rmse"] == pytest.approx(
        skl.root_mean_squared_error(targets, predictions, sample_weight=weights), rel=1e-6
    )
    assert found["r2"] == pytest.approx(
        skl.r2_score(targets, predictions, sample_weight=weights), rel=1e-6
    )
    assert found["mae"] == pytest.approx(
        skl.mean_absolute_error(targets, predictions, sample_weight=weights), rel=1e-6
    )


@pytest.mark.parametrize("form", ["(N,) in [0, 1]", "(N, 1) in [0, 1]", "(N,) logits", "(N, 2)"])
def test_two_classes_in_any_form(form: str) -> None:
    draw = np.random.default_rng(1)
    targets = draw.integers(0, 2, 50)
    logit = draw.normal(size=50) + targets
    second = 1 / (1 + np.exp(-logit))
    predictions = {
        "(N,) in [0, 1]": second,
        "(N, 1) in [0, 1]": second[:, None],
        "(N,) logits": logit,
        "(N, 2)": np.stack([1 - second, second], 1),
    }[form]
    found = measure(named("auroc", "accuracy", "log_loss"), targets, predictions)
    assert found["auroc"] == pytest.approx(skl.roc_auc_score(targets, second))
    assert found["accuracy"] == pytest.approx(skl.accuracy_score(targets, second > 0.5))
    assert found["log_loss"] == pytest.approx(skl.log_loss(targets, second))


def test_what_is_not_defined_is_nan_and_another_shape_is_an_error() -> None:
    only = np.zeros(4, dtype=int)
    assert math.isnan(measure(named("auroc"), only, np.eye(2)[only])["auroc"])
    with pytest.raises(ValueError, match=r"rmse needs a prediction for each target: .*\(4, 2\)"):
        measure(named("rmse"), np.zeros(4), np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"f1 needs scores \(N, classes\)"):
        measure(named("f1"), only, np.zeros((4, 2, 2)))


def test_calibration_of_sure_and_right_of_sure_and_wrong() -> None:
    targets = np.array([0, 1, 1, 0])
    for predictions, error in ((targets, 0.0), (1 - targets, 1.0)):
        found = measure(named("calibration_error"), targets, np.eye(2)[predictions])
        assert found["calibration_error"] == error


TASK = """
import torch
from torch.nn import functional as F

class Linear:
    def build(self, params, sample):
        return torch.nn.Linear(sample["x"].shape[0], 1)

    def losses(self, model, batch, params):
        logits = model(batch["x"])[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, batch["y"].float(), reduction="none")
        return {"loss": loss}

    def predict(self, model, batch, params):
        return model(batch["x"])[:, 0]

class Silent:
    build, losses = Linear.build, Linear.losses

def data():
    import numpy as np
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 3)).astype("float32")
    return {"x": x, "y": (x[:, 0] + draw.normal(size=200) > 0).astype(int), "age": x[:, 1]}
"""
SWEEP = """
task: ./linear.py:Linear
dataset: {name: "./linear.py:data", inputs: [x], target: y}
folds: {kind: stratified}
epochs: 2
objective: auroc
metrics: [f1, log_loss]
space: {lr: 0.1, batch_size: 16}
"""


def write(folder: Path, **changes: str) -> Path:
    text = SWEEP
    for key, value in changes.items():
        text = "\n".join(
            f"{key}: {value}" if line.startswith(f"{key}:") else line for line in text.split("\n")
        )
    (folder / "linear.py").write_text(TASK)
    (folder / "linear.yaml").write_text(text)
    return folder / "linear.yaml"


def test_a_metric_of_the_whole_part_is_what_trials_are_compared_by(tmp_path: Path) -> None:
    prepared = prepare(load_spec(write(tmp_path)), tmp_path)
    assert prepared.objective.metric == "auroc" and prepared.objective.maximize
    assert prepared.metrics == ("f1", "log_loss", "auroc")
    work = make_work(prepared)
    cv = work.cross_validation({"lr": 0.1, "batch_size": 16}, work.samples_on())
    while not cv.finished:
        cv.advance()
    fold = cv.folds[1]
    metrics = fold.report().metrics
    targets = prepared.dataset.training["y"][fold.validation_indices.numpy()]  # type: ignore[index]
    batch = fold.samples.take(fold.validation_indices)
    logits = fold.model(batch["x"])[:, 0].detach().numpy()
    assert metrics["val_auroc"] == pytest.approx(skl.roc_auc_score(targets, logits))
    assert metrics["val_f1"] == pytest.approx(skl.f1_score(targets, logits > 0))
    assert metrics["val_loss"] == -metrics["val_auroc"] < -0.6
    assert metrics["val_criterion"] > 0 and "train_auroc" not in metrics


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": "aurok"}, "objective: aurok: .*did you mean"),
        ({"metrics": "[rsme]"}, r"metrics\[0\]: rsme: is no metric; did you mean 'rmse'"),
        ({"task": "./linear.py:Silent"}, r"has no predict\(\); write predict\(self, model, batch"),
        (
            {
                "dataset": '{name: "./linear.py:data", inputs: [x, y], target: false}',
                "folds": "{}",
            },
            "is computed from targets, and the data set has none; name the field",
        ),
        (
            {"dataset": '{name: "./linear.py:data", inputs: [x, y], target: age}', "folds": "{}"},
            "needs classes, and age is float32, from -.*; choose rmse, mae or r2",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        prepare(load_spec(write(tmp_path, **changes)), tmp_path)


@pytest.mark.parametrize("name", ["f1", "precision", "recall"])
def test_a_model_that_sees_one_class_alone_has_the_mean_over_classes(name: str) -> None:
    targets = np.r_[np.zeros(8), np.ones(1), np.full(1, 2)].astype(int)
    scores = np.tile([3.0, 0.0, -1.0], (10, 1))
    score = {"f1": skl.f1_score, "precision": skl.precision_score, "recall": skl.recall_score}
    expected = score[name](targets, np.zeros(10, int), average="macro", zero_division=0.0)
    found = measure(named(name), targets, scores, classes=3)[name]
    assert found == pytest.approx(expected) and 0 < found < 0.5
    absent = measure(named(name), targets[:9], np.tile([3.0, 0.0, -1.0], (9, 1)), classes=3)
    assert absent[name] <= 0.5, "a class that does not occur makes no binary score"


@pytest.mark.parametrize("shape", [(10,), (10, 1), (10, 2), (10, 4)])
def test_scores_have_a_column_per_class(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"accuracy needs scores \(N, 3\)"):
        measure(named("accuracy"), np.arange(10) % 3, np.zeros(shape), classes=3)


def test_logits_stay_logits_and_probabilities_are_held_to_their_range() -> None:
    targets, logits = np.ones(9, int), np.linspace(0.1, 0.4, 9)
    logit = measure(named("accuracy"), targets, logits, classes=2, probabilities=False)
    assert logit["accuracy"] == 1.0
    share = measure(named("accuracy"), targets, logits, classes=2, probabilities=True)
    assert share["accuracy"] == 0.0
    with pytest.raises(ValueError, match=r"now they are from 0\.1 to 1\.4"):
        measure(
            named("auroc"), targets, logits + np.r_[np.zeros(8), 1], classes=2, probabilities=True
        )


def test_values_of_any_shape_and_classes_that_never_occur() -> None:
    values = np.random.default_rng(0).random((6, 4, 3))
    assert measure(named("rmse"), values, values + 1)["rmse"] == pytest.approx(1.0)
    targets, scores = np.arange(12) % 3 + 1, np.random.default_rng(0).random((12, 4))
    found = measure(named("auroc"), targets, scores, classes=4)["auroc"]
    shares = softmax(scores)
    each = [skl.roc_auc_score(targets == c, shares[:, c]) for c in (1, 2, 3)]
    assert found == pytest.approx(np.mean(each))


def test_counts_are_values_for_functions_of_scikit_learns() -> None:
    targets = np.arange(21, 72)
    own = declared_metrics("own", {"mine": skl.mean_absolute_error})
    found = measure(own, targets, targets[:, None] + 2.0, classes=72)
    assert found["mine"] == pytest.approx(2.0)
