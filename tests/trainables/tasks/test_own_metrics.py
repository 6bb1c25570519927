"""Metrics of a user's own: functions, scikit-learn's and torchmetrics'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as skl
from torchmetrics import classification, regression

from foldrace.errors import InputError, StateError
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.recorded import _check_task
from foldrace.search.preparing.work import make_work
from foldrace.search.recording.folder import SweepFolder
from foldrace.search.spec.sweep_spec import load_spec
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.tasks.metrics import measure
from foldrace.trainables.tasks.own_metrics import declared_metrics, referenced_metrics

DRAW = np.random.default_rng(0)
TARGETS = np.r_[0, 1, 2, DRAW.integers(0, 3, 60)]
SCORES = DRAW.normal(size=(63, 3)).astype(np.float32)
SHARES = np.exp(SCORES.astype(np.float64)) / np.exp(SCORES.astype(np.float64)).sum(1)[:, None]
WEIGHTS = DRAW.uniform(0.1, 2, 63)


def gain(predictions: torch.Tensor, targets: torch.Tensor, weights: Any) -> torch.Tensor:
    assert predictions.dtype == torch.float32 and targets.dtype == torch.int64
    assert torch.equal(weights, torch.from_numpy(WEIGHTS))
    predictions.sub_(0.0)  # in place
    return predictions.gather(1, targets[:, None]).mean()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (gain, SCORES[np.arange(63), TARGETS].mean()),
        (
            skl.matthews_corrcoef,
            skl.matthews_corrcoef(TARGETS, SCORES.argmax(1), sample_weight=WEIGHTS),
        ),
        (
            lambda y_true, y_score: skl.top_k_accuracy_score(y_true, y_score, k=2),
            skl.top_k_accuracy_score(TARGETS, SCORES, k=2),
        ),
        (
            classification.MulticlassCohenKappa(3),
            skl.cohen_kappa_score(TARGETS, SCORES.argmax(1)),
        ),
        (lambda y_true, y_prob: y_prob.sum(1).max() - 1, 0.0),
    ],
)
def test_they_get_what_their_parameters_name(made: Any, expected: float) -> None:
    metrics = declared_metrics("own", {"mine": made})
    for _ in range(2):  # nothing is left in it
        found = measure(metrics, TARGETS, SCORES, WEIGHTS, classes=3)
        assert found["mine"] == pytest.approx(expected, abs=1e-6)


def test_values_stay_values() -> None:
    targets, predictions = DRAW.normal(size=30).astype(np.float32), DRAW.normal(size=(30, 1))
    metrics = declared_metrics(
        "own", {"median": skl.median_absolute_error, "squared": regression.MeanSquaredError()}
    )
    predictions = predictions.astype(np.float32)
    found = measure({"median": metrics["median"]}, targets, predictions, WEIGHTS[:30], classes=0)
    expected = skl.median_absolute_error(
        targets.astype(float), predictions[:, 0].astype(float), sample_weight=WEIGHTS[:30]
    )
    assert found["median"] == pytest.approx(expected)
    both = measure({"squared": metrics["squared"]}, targets, predictions[:, 0])
    assert both["squared"] == pytest.approx(np.square(targets - predictions[:, 0]).mean())


def test_two_classes_have_the_probability_of_the_second() -> None:
    def shape(y_true: Any, y_score: Any) -> float:
        return float(y_score.ndim + (y_score <= 1).all())

    metrics = declared_metrics("own", {"shape": shape})
    assert measure(metrics, TARGETS % 2, SCORES[:, :2])["shape"] == 2.0


@pytest.mark.parametrize(
    ("made", "better"),
    [
        (classification.MulticlassAccuracy(3), True),
        (regression.MeanSquaredError(), False),
        (skl.matthews_corrcoef, None),
    ],
)
def test_which_direction_is_better_is_asked_of_the_metric(made: Any, better: bool | None) -> None:
    assert declared_metrics("own", {"mine": made})["mine"].maximize is better


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"accuracy": skl.accuracy_score}, "has the name of the metric accuracy; rename it"),
        ({"a b": gain}, "a metric called 'a b': a name is letters"),
        ({"mine": 3}, "mine must be a function or a metric of torchmetrics; it is int"),
        ({"mine": lambda a, b: 0.0}, r"has a parameter a; .*def mine\(predictions, targets\)"),
        ({"mine": lambda predictions: 0.0}, "does not take predictions and targets"),
        ({"mine": lambda targets, weights=3, *, k: 0.0}, "has a parameter k"),
        ([gain], "its metrics must be a mapping"),
        ({1: gain}, "its metrics must be a mapping"),
    ],
)
def test_what_cannot_be_a_metric_is_refused_by_name(made: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"task: own: .*{said}"):
        declared_metrics("own", made)


def test_those_of_a_sweep_file_are_named_by_their_last_part() -> None:
    found = referenced_metrics({"metrics[1]": "sklearn.metrics:matthews_corrcoef"})
    assert list(found) == ["matthews_corrcoef"]
    reference = "torchmetrics.classification:BinaryAUROC"
    assert referenced_metrics({"metrics[0]": reference})["BinaryAUROC"].maximize is True
    with pytest.raises(InputError, match=r"metrics\[2\]: .*no matthews_corcoef"):
        referenced_metrics({"metrics[2]": "sklearn.metrics:matthews_corcoef"})
    with pytest.raises(InputError, match=r"without arguments: .*num_classes.*name = Class"):
        referenced_metrics({"metrics[2]": "torchmetrics.classification:MulticlassAccuracy"})


OWN = """
import torch
from mine_helper import half

def spread(predictions, targets):
    return predictions.std()

def broken(predictions, targets):
    return predictions.nothing

class Line:
    metrics = {"miss": lambda predictions, targets: half((predictions - targets).abs().max())}
    objective, direction = "miss", "minimize"

    def build(self, params, sample):
        return torch.nn.Linear(sample["x"].shape[0], 1)

    def predict(self, model, batch, params):
        return model(batch["x"])[:, 0]

    def losses(self, model, batch, params):
        return {"loss": (self.predict(model, batch, params) - batch["y"]).square()}

def data():
    import numpy as np
    draw = np.random.default_rng(0)
    x = draw.normal(size=(90, 3)).astype("float32")
    return {"x": x, "y": x[:, 0]}
"""
SWEEP = """
task: ./mine.py:Line
dataset: {name: "./mine.py:data"}
epochs: 2
metrics: [rmse, ./mine.py:spread]
space: {lr: 0.1, batch_size: 16}
"""


def write(folder: Path, sweep: str = SWEEP) -> Path:
    (folder / "mine.py").write_text(OWN)
    (folder / "mine_helper.py").write_text("def half(x):\n    return x / 2\n")
    (folder / "mine.yaml").write_text(sweep)
    return folder / "mine.yaml"


def test_trials_are_compared_by_a_metric_that_the_task_declares(tmp_path: Path) -> None:
    prepared = prepare(load_spec(write(tmp_path)), tmp_path)
    assert prepared.objective.metric == "miss" and not prepared.objective.maximize
    assert prepared.metrics == ("miss", "spread", "rmse")
    work = make_work(prepared)
    cv = work.cross_validation({"lr": 0.1, "batch_size": 16}, work.samples_on())
    while not cv.finished:
        cv.advance()
    fold = cv.folds[0]
    batch = fold.samples.take(fold.validation_indices)
    predicted = fold.model(batch["x"])[:, 0].detach()
    metrics = fold.report().metrics
    expected = float((predicted - batch["y"]).abs().max()) / 2
    assert metrics["val_miss"] == metrics["val_loss"] == pytest.approx(expected)
    assert metrics["val_spread"] == pytest.approx(float(predicted.std()))


def test_the_code_of_metrics_belongs_to_the_sweep(tmp_path: Path) -> None:
    spec = load_spec(write(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "extra.py").write_text("def more(y_true, y_pred):\n    return 1.0\n")
    metrics = (*spec.metrics, f"{tmp_path}/other/extra.py:more")
    task = load_task(spec.task, metrics)
    assert set(task.sources) == {"mine.py", "mine_helper", "extra.py"}
    (tmp_path / "other" / "extra.py").write_text("def more(y_true, y_pred):\n    return 2.0\n")
    changed = load_task(spec.task, metrics)
    state: Any = type("State", (), {"task_sources": task.sources})
    with pytest.raises(StateError, match=r"its code has changed since mine began: extra\.py"):
        _check_task(state, changed, SweepFolder(tmp_path, "mine"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("./mine.py:broken", "metrics: broken: broken fails on targets .*no attribute 'nothing'"),
        ("./mine.py:brocken", r"metrics\[1\]: .*no brocken"),
        ("./nowhere.py:x", r"metrics\[1\]: .*no such file"),
        ("acuracy", r"metrics\[1\]: acuracy: is no metric; .*accuracy.*; or ./file.py:function"),
        ("accuracy", r"metrics\[1\]: accuracy: needs classes"),
        ("sklearn.metrics:f1_score", r"f1_score fails on targets"),
        ("sklearn.metrics:accuracy_score", "accuracy_score fails"),
    ],
)
def test_a_metric_that_fails_is_found_before_the_sweep(
    tmp_path: Path, change: str, said: str
) -> None:
    spec = write(tmp_path, SWEEP.replace("./mine.py:spread", change))
    with pytest.raises(InputError, match=said):
        prepare(load_spec(spec), tmp_path)
