"""Small folds and tasks whose outcome is known beforehand, for the tests of the training core."""

from __future__ import annotations

import math

import torch
from torch import nn

from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan

TASK = load_task("autoencoder")
N = 90
SMALL = {"width": 4, "hidden": 32, "latent_dim": 8, "batch_size": 16}


def make(images, params=None, *, fold=0, epochs=4, task=TASK, n=N, **options):
    complete = task.complete({**SMALL, **(params or {})} if task is TASK else params or {})
    split = FoldPlan(n, splits=3).split()[fold]
    settings = TrainingOptions(epochs, **options)
    return Fold(task, complete, Samples.of_images(images[:n]), split, settings, number=fold)


def train(fold, epochs=4):
    return [fold.train_epoch() for _ in range(epochs)]


class Scripted:
    """Its weight starts at 100 and falls by lr a step of SGD; its validation losses are as given,
    one an epoch."""

    def __init__(self, *script):
        self.script, self.seen = list(script), []

    def build(self, params, sample_shape):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 100.0)
        return model

    def losses(self, model, images, params):
        self.seen.append((model.training, (images[:, 0, 0, 0] * 255).round().int().tolist()))
        if model.training:
            return {"loss": model.weight.squeeze() * torch.ones(len(images))}
        assert not torch.is_grad_enabled()
        return {"loss": torch.full((len(images),), self.script.pop(0))}


NUMBERED = torch.arange(N, dtype=torch.uint8)[:, None, None, None].expand(N, 1, 2, 2)


def scripted(*script, params=None, n=12, **options):
    task = LoadedTask("scripted", Scripted(*script), {}, None)
    return make(
        NUMBERED, {"optimizer": "sgd", "lr": 1.0, **(params or {})}, task=task, n=n, **options
    )


class Linear:
    """A linear code of two numbers, without a sigmoid."""

    def build(self, params, sample_shape):
        n = math.prod(sample_shape)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(n, 2), nn.Linear(2, n), nn.Unflatten(1, sample_shape)
        )

    def losses(self, model, images, params):
        return {"loss": (model(images) - images).square().flatten(1).mean(1)}


LINEAR = LoadedTask("linear", Linear(), {}, None)


def same(one, two):
    """Bit for bit, however deep."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two) and one.dtype == two.dtype
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two
