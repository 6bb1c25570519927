"""A linear model, trained to convergence and standardised by what `prepare` learns of each fold,
has the fold scores of scikit-learn's Pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import get_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from foldrace.trainables.data.arrays import describe
from foldrace.trainables.data.sample import Roles
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldKind, FoldPlan

ALPHA, STRENGTH = 30.0, 0.05
SCORERS = {
    "rmse": "neg_root_mean_squared_error",
    "r2": "r2",
    "mae": "neg_mean_absolute_error",
    "log_loss": "neg_log_loss",
    "accuracy": "accuracy",
    "f1": "f1_macro",
}


class Standardised:
    """`Ridge` of a target of numbers, `LogisticRegression` of classes: their own penalties."""

    def prepare(self, train: Any, params: Any) -> dict[str, Any]:
        x = train["x"]
        return {"mean": x.mean(0), "sd": x.std(0, correction=0), "count": len(x)}

    def build(self, params: Any, sample: Any) -> nn.Module:
        return nn.Linear(sample["x"].shape[0], sample.target.classes or 1).double()

    def predict(self, model: nn.Module, batch: Any, params: Any, prepared: Any) -> Any:
        return model((batch["x"] - prepared["mean"]) / prepared["sd"])

    def losses(self, model: nn.Module, batch: Any, params: Any, prepared: Any) -> Any:
        made, target = self.predict(model, batch, params, prepared), batch["y"]
        squares = model.weight.square().sum()  # type: ignore[operator, union-attr]
        if target.is_floating_point():
            return {"loss": (made[:, 0] - target).square() + ALPHA * squares / prepared["count"]}
        penalty = squares / (2 * STRENGTH * prepared["count"])
        return {"loss": F.cross_entropy(made, target, reduction="none") + penalty}


@pytest.mark.parametrize(
    ("table", "rival", "kind", "lr", "metrics"),
    [
        (load_diabetes(scaled=False), Ridge(ALPHA), FoldKind.KFOLD, 0.1, ("rmse", "r2", "mae")),
        (
            load_wine(),
            LogisticRegression(C=STRENGTH, tol=1e-10, max_iter=10_000),
            FoldKind.STRATIFIED,
            0.5,
            ("log_loss", "accuracy", "f1"),
        ),
    ],
)
def test_fold_scores_are_those_of_a_pipeline(
    table: Any, rival: Any, kind: FoldKind, lr: float, metrics: tuple[str, ...]
) -> None:
    fields = {"x": table.data, "y": table.target}
    samples = Samples.of(fields, describe(fields, {}, Roles("y"), {}), torch.device("cpu"))
    folds = FoldPlan(len(table.target), kind, splits=3, labels=table.target).split()
    task = LoadedTask("own", Standardised(), {}, None)
    params = {"optimizer": "sgd", "momentum": 0.9, "lr": lr, "batch_size": len(table.target)}
    cv = CrossValidation(
        task,
        task.complete(params),
        samples,
        folds,
        TrainingOptions(300, metrics=metrics, divergence_patience=None),
    )
    while not cv.finished:
        cv.advance()
    pipeline = make_pipeline(StandardScaler(), rival)
    for fold, split in zip(cv.folds, folds, strict=True):
        pipeline.fit(table.data[split.train], table.target[split.train])
        found = fold.report().metrics
        for name in metrics:
            score = get_scorer(SCORERS[name])(
                pipeline, table.data[split.validation], table.target[split.validation]
            )
            expected = -score if SCORERS[name].startswith("neg_") else score
            assert found[f"val_{name}"] == pytest.approx(expected, rel=1e-6, abs=1e-6), name
