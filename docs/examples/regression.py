"""A regression on a table, standardised by the training part of each fold."""

import math

from sklearn.datasets import load_diabetes
from torch import nn

from foldrace import Parameter


def diabetes():
    table = load_diabetes(scaled=False)
    return {"x": table.data.astype("float32"), "progress": table.target.astype("float32")}


class Regression:
    objective = "rmse"
    parameters = {"width": Parameter(16, "units of the hidden layer", low=1)}

    def prepare(self, train, params):  # sees the training part of its fold alone
        x, y = train["x"], train["progress"]
        return {"mean": x.mean(0), "sd": x.std(0), "level": y.mean(), "spread": y.std()}

    def build(self, params, sample):
        (inputs,) = sample["x"].shape
        return nn.Sequential(
            nn.Linear(inputs, params["width"]), nn.ReLU(), nn.Linear(params["width"], 1)
        )

    def predict(self, model, batch, params, prepared):
        x = (batch["x"] - prepared["mean"]) / prepared["sd"]
        return model(x)[:, 0] * prepared["spread"] + prepared["level"]

    def losses(self, model, batch, params, prepared):
        error = self.predict(model, batch, params, prepared) - batch["progress"]
        return {"loss": (error / prepared["spread"]).square(), "mse": error.square()}

    def summarise(self, means, params):
        return {**means, "rmse": math.sqrt(means["mse"])}
