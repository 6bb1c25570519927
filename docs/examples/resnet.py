"""A ResNet with two learning rates, clipped gradients and a schedule of its own."""

import torch
from torch.nn import functional as F
from torchvision.models import resnet18

from foldrace import Parameter


class ResNet:
    objective, direction = "accuracy", "maximize"
    parameters = {
        "head_lr": Parameter(1e-2, "learning rate of the last layer", above=0.0),
        "gamma": Parameter(0.9, "factor on both rates after each step", above=0.0, high=1.0),
    }

    def build(self, params, sample):
        return resnet18(num_classes=sample.target.classes)

    def optimizers(self, model, params):
        body = [weight for name, weight in model.named_parameters() if not name.startswith("fc.")]
        groups = [
            {"params": body, "lr": params["lr"]},
            {"params": model.fc.parameters(), "lr": params["head_lr"]},
        ]
        optimizer = torch.optim.SGD(groups, momentum=0.9)
        return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, params["gamma"])

    def losses(self, model, batch, params):
        images = batch["images"].expand(-1, 3, -1, -1)  # grey as colour
        scores = model(images)
        right = (scores.argmax(1) == batch["labels"]).float()
        loss = F.cross_entropy(scores, batch["labels"], reduction="none")
        return {"loss": loss, "accuracy": right}
