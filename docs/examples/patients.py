"""Several visits of each patient: all visits of a patient are on one side of a split."""

import numpy as np
from torch import nn
from torch.nn import functional as F

DRAW = np.random.default_rng(0)


def visits():
    """200 visits of 40 patients; what is predicted belongs to the patient, not to the visit."""
    patient = np.repeat(np.arange(40), 5)
    health = DRAW.normal(size=40)
    x = np.column_stack([health[patient], DRAW.normal(size=(200, 3))]).astype("float32")
    return {"x": x, "ill": (health[patient] > 0).astype("int64"), "patient": patient}


class Logistic:
    objective, direction = "accuracy", "maximize"

    def build(self, params, sample):
        return nn.Linear(sample["x"].shape[0], sample.target.classes)

    def losses(self, model, batch, params):
        scores = model(batch["x"])
        right = (scores.argmax(1) == batch["ill"]).float()
        return {"loss": F.cross_entropy(scores, batch["ill"], reduction="none"), "accuracy": right}
