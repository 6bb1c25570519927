"""A classifier of images: the accuracy on the validation part is maximised."""

from torch import nn
from torch.nn import functional as F

from foldrace import Parameter


class Classifier:
    objective, direction = "accuracy", "maximize"
    parameters = {
        "width": Parameter(16, "channels of the first convolution", low=4),
        "dropout": Parameter(0.2, "dropout rate before the last layer", low=0.0, below=1.0),
    }

    def build(self, params, sample):
        channels, _, _ = sample["images"].shape
        width = params["width"]
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(params["dropout"]),
            nn.Linear(8 * width, sample.target.classes),
        )

    def losses(self, model, batch, params):
        scores = model(batch["images"])
        smoothing = params.get("label_smoothing") or 0.0
        loss = F.cross_entropy(
            scores, batch["labels"], reduction="none", label_smoothing=smoothing
        )
        return {"loss": loss, "accuracy": (scores.argmax(1) == batch["labels"]).float()}

    def predict(self, model, batch, params):
        return model(batch["images"])
