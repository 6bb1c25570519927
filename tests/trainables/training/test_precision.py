"""Training may be in a lower precision; what is recorded of the weights is in float32."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foldrace.search.sweeps.models import deployable, export_program
from foldrace.trainables.ray.process import prepare_process
from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.options import Precision, TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan

NETWORK = {"width": 4, "hidden": 16, "latent_dim": 4, "batch_size": 16}


def trained(
    images: Tensor, name: str, precision: Precision, *, fused: bool = False, **params: Any
) -> CrossValidation:
    task = load_task(name)
    cv = CrossValidation(
        task,
        task.complete({**NETWORK, **params}),
        Samples.of_images(images[:60]),
        FoldPlan(60, splits=2).split(),
        TrainingOptions(2, precision=precision),
        fused=fused,
    )
    while not cv.finished:
        cv.advance()
    return cv


def within_autocast() -> bool:
    return torch.is_autocast_enabled("cpu")


class Watched:
    """Notes in which arithmetic its losses are computed."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool, bool, bool]] = []

    def build(self, params: Any, sample_shape: Any) -> nn.Module:
        return nn.Linear(64, 64)

    def losses(self, model: nn.Module, images: Tensor, params: Any) -> dict[str, Tensor]:
        self.seen.append(
            (
                model.training,
                within_autocast(),
                torch.backends.cuda.matmul.allow_tf32,
                torch.backends.cudnn.allow_tf32,
            )
        )
        pixels = images.flatten(1)
        return {"loss": (model(pixels) - pixels).square().mean(1)}


@pytest.mark.parametrize(
    ("precision", "autocast", "tf32"),
    [
        (Precision.FLOAT32, False, False),
        (Precision.TF32, False, True),
        (Precision.BFLOAT16, True, False),
    ],
)
@pytest.mark.parametrize("fused", [True, False])
def test_the_precision_is_that_of_training_and_ends_with_it(
    digits: Tensor, precision: Precision, autocast: bool, tf32: bool, fused: bool
) -> None:
    prepare_process(torch.get_num_threads())
    cv = CrossValidation(
        task := LoadedTask("watched", Watched(), {}, None),
        task.complete({}),
        Samples.of_images(digits[:40]),
        FoldPlan(40, splits=2).split(),
        TrainingOptions(1, precision=precision),
        fused=fused,
    )
    cv._must_fuse = False  # a task that keeps notes is not fused
    cv.advance()
    seen = [one for fold in cv.folds for one in fold.task.implementation.seen]
    assert {one[1:] for one in seen if one[0]} == {(autocast, tf32, tf32)}
    assert {one[1:] for one in seen if not one[0]} == {(False, False, False)}
    assert not (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


@pytest.mark.parametrize("precision", [Precision.BFLOAT16])
def test_the_exported_program_has_the_recorded_error(digits: Tensor, precision: Precision) -> None:
    cv = trained(digits, "autoencoder", precision)
    fold = cv.folds[0]
    pixels = digits[:60].float() / 255
    program = export_program(*deployable(fold, Samples.of_images(digits[:2])))
    assert program is not None
    images = pixels[fold.validation_indices]
    error = (program.module()(images) - images).square().mean().item()
    assert error == pytest.approx(fold.report().metrics["val_mse"], rel=1e-5)


@pytest.mark.parametrize(
    ("task", "params"),
    [("autoencoder", {"loss": "bce"}), ("variational", {"likelihood": "bernoulli"})],
)
@pytest.mark.parametrize("fused", [True, False])
def test_a_loss_that_autocast_refuses_on_a_gpu_is_computed_outside_of_it(
    digits: Tensor,
    task: str,
    params: dict[str, Any],
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = F.binary_cross_entropy
    calls: list[bool] = []

    def refusing(*args: Any, **options: Any) -> Tensor:
        calls.append(within_autocast())
        assert {one.dtype for one in args} == {torch.float32}
        return plain(*args, **options)

    monkeypatch.setattr(F, "binary_cross_entropy", refusing)
    cv = trained(digits, task, Precision.BFLOAT16, fused=fused, **params)
    assert calls and not any(calls)
    assert all(fold.report().diverged is None for fold in cv.folds)


@pytest.mark.parametrize(
    ("task", "params"), [("autoencoder", {}), ("autoencoder", {"loss": "l1"}), ("variational", {})]
)
def test_fused_folds_train_in_bfloat16_too(
    digits: Tensor, task: str, params: dict[str, Any]
) -> None:
    losses = [
        [
            fold.report().val_loss
            for fold in trained(digits, task, Precision.BFLOAT16, fused=fused, **params).folds
        ]
        for fused in (True, False)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.fixture
def determinism(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts back what `prepare_process` sets for a GPU."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    filled = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled


def is_set() -> tuple[str | None, bool, bool]:
    return (
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.mark.usefixtures("determinism")
def test_a_process_that_trains_on_a_gpu_is_deterministic_and_one_on_a_cpu_is_left_alone() -> None:
    threads = torch.get_num_threads()
    prepare_process(threads)
    assert is_set() == (None, False, False)
    prepare_process(threads, gpu=True)
    assert is_set() == (":4096:8", True, True)
    assert torch.backends.cudnn.deterministic and not torch.cuda.is_initialized()
