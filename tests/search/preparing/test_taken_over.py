"""A task's own step and optimizers are tried, and what they leave unread is not tuned silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from foldrace.errors import InputError
from foldrace.search.preparing.prepare import prepare
from foldrace.search.spec.sweep_spec import load_spec

TASK = """
import torch

class Plain:
    def build(self, params, sample):
        return torch.nn.Linear(sample["x"].shape[0], 1)

    def losses(self, model, batch, params):
        return {"loss": (model(batch["x"])[:, 0] - batch["y"]).square()}

class Step(Plain):
    def step(self, model, batch, params, optimizers):
        terms = self.losses(model, batch, params)
        [optimizer] = optimizers
        optimizer.zero_grad()
        terms["loss"].mean().backward()
        optimizer.step()
        return terms

class StepClips(Step):
    def step(self, model, batch, params, optimizers):
        assert params["clip_norm"] > 0
        return super().step(model, batch, params, optimizers)

class StepNone(Step):
    def step(self, model, batch, params, optimizers):
        super().step(model, batch, params, optimizers)

class StepMean(Step):
    def step(self, model, batch, params, optimizers):
        terms = super().step(model, batch, params, optimizers)
        return {name: value.mean() for name, value in terms.items()}

class StepTypo(Step):
    def step(self, model, batch, params, optimizers):
        return {"loss": batch["z"]}

class Own(Plain):
    def optimizers(self, model, params):
        return torch.optim.SGD(model.parameters(), lr=params["lr"])

class Broadcast(Plain):
    def losses(self, model, batch, params):
        return {"loss": (model(batch["x"]) - batch["y"]).square()}

def data():
    return {"x": torch.rand(30, 3), "y": torch.rand(30)}
"""


def check(folder: Path, task: str, space: str) -> None:
    (folder / "own.py").write_text(TASK)
    text = f"task: ./own.py:{task}\ndataset: ./own.py:data\nepochs: 1\nspace: {space}\n"
    (folder / "own.yaml").write_text(text)
    prepare(load_spec(folder / "own.yaml"), folder)


@pytest.mark.parametrize(
    ("task", "space"),
    [
        ("Step", "{lr: 0.1}"),
        ("StepClips", "{lr: 0.1, clip_norm: {log: [0.1, 1.0]}}"),
        ("Own", "{lr: {log: [0.1, 1.0]}, batch_size: 8}"),
        ("Plain", "{clip_norm: 0.5, accumulate: 2}"),
    ],
)
def test_what_is_read_may_be_tuned(tmp_path: Path, task: str, space: str) -> None:
    check(tmp_path, task, space)


@pytest.mark.parametrize(
    ("task", "space", "said"),
    [
        ("StepNone", "{lr: 0.1}", r"task: .*step\(\) fails on two samples"),
        ("StepTypo", "{lr: 0.1}", r"step\(\) fails on two samples of .*KeyError: 'z'"),
        ("StepTypo", "{lr: 0.1}", r"a batch has x, y; .* has a role: dataset: {target: z}"),
        ("Broadcast", "{lr: 0.1}", r"is an axis left\? \(2, 1\) and \(2,\) give \(2, 2\)"),
        ("StepMean", "{lr: 0.1}", r"step\(\) must give one value per sample: 'loss'"),
        ("Step", "{clip_norm: {log: [0.1, 1.0]}}", r"space\.clip_norm: .*step\(\) of .*not read"),
        ("Step", "{accumulate: 4}", r"space\.accumulate: 4: .*does not read it"),
        ("Own", "{lr: 0.1, weight_decay: 0.1}", r"space\.weight_decay: .*optimizers\(\) of .*not"),
    ],
)
def test_what_is_not_read_or_fails_is_refused(
    tmp_path: Path, task: str, space: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check(tmp_path, task, space)
