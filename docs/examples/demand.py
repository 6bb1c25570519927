"""Demand by the hour: what comes later never trains what is judged on earlier hours."""

import numpy as np
import torch
from torch import nn

from foldrace import Parameter


def demand():
    """Eight weeks of hours, with what was asked for a day and a week before."""
    draw = np.random.default_rng(0)
    hour = np.arange(24 * 7 * 9)
    daily, weekly = np.sin(2 * np.pi * hour / 24), np.cos(2 * np.pi * hour / 168)
    asked = 60 + hour / 100 + 20 * daily + 10 * weekly + draw.normal(scale=3, size=len(hour))
    known = slice(168, None)
    x = np.column_stack([asked[144:-24], asked[:-168]]).astype("float32")
    return {"x": x, "asked": asked[known].astype("float32"), "hour": hour[known]}


def wape(predictions, targets):
    """The absolute errors' sum as a share of all that was asked for, in %."""
    return 100 * (predictions - targets).abs().sum() / targets.sum()


class Forecast:
    metrics = {"wape": wape}
    objective, direction = "wape", "minimize"
    parameters = {"width": Parameter(16, "units of the hidden layer", low=1)}

    def prepare(self, train, params):
        x, y = train["x"], train["asked"]
        return {"mean": x.mean(0), "sd": x.std(0), "level": y.mean(), "spread": y.std()}

    def build(self, params, sample):
        inputs, width = sample["x"].shape[0], params["width"]
        return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 1))

    def predict(self, model, batch, params, prepared):
        scaled = model((batch["x"] - prepared["mean"]) / prepared["sd"])[:, 0]
        return prepared["level"] + prepared["spread"] * scaled

    def losses(self, model, batch, params, prepared):
        error = self.predict(model, batch, params, prepared) - batch["asked"]
        return {
            "loss": torch.nn.functional.huber_loss(error, 0 * error, reduction="none", delta=3)
        }
