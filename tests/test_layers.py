"""The layers that are faster on a CPU: their parameters, results and gradients are those of torch's own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from statistics import mean, variance

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables import layers
from trainables.autoencoder_task import AutoencoderTask
from trainables.fold_run import FoldRun
from trainables.folds import FoldPlan
from trainables.tasks import load_task

sides = st.integers(2, 9)


def _gradients(module: nn.Module, images: Tensor) -> list[Tensor]:
    """The output, and the gradients of an uneven function of it by the input and the parameters."""
    images = images.clone().requires_grad_()
    output = module(images)
    return [output.detach(), *torch.autograd.grad(output.sin().sum(), [images, *module.parameters()])]


def _assert_same(module: nn.Module, images: Tensor) -> None:
    with layers.torch_kernels():
        expected = _gradients(module, images)
    for ours, theirs in zip(_gradients(module, images), expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.tuples(sides, sides),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)), batch=st.integers(1, 3), bias=st.booleans(),
)  # fmt: skip
def test_a_strided_convolution_is_torchs(
    channels: tuple[int, int], size: tuple[int, int], padding: tuple[int, int], batch: int, bias: bool
) -> None:
    size = (size[0] + 1, size[1] + 1)
    module = layers.Conv2d(*channels, 3, stride=2, padding=padding, bias=bias).double()
    _assert_same(module, torch.randn(batch, channels[0], *size, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.tuples(sides, sides),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)), extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    batch=st.integers(1, 3), bias=st.booleans(),
)  # fmt: skip
def test_a_transposed_convolution_is_torchs(
    channels: tuple[int, int], size: tuple[int, int], padding: tuple[int, int], extra: tuple[int, int], batch: int,
    bias: bool,
) -> None:  # fmt: skip
    module = layers.ConvTranspose2d(*channels, 3, stride=2, padding=padding, output_padding=extra, bias=bias).double()
    _assert_same(module, torch.randn(batch, channels[0], *size, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Conv2d(4, 4, 3, stride=1, padding=1),
        lambda: layers.Conv2d(4, 4, 5, stride=2, padding=2),
        lambda: layers.Conv2d(4, 4, 3, stride=2, padding=1, groups=2),
        lambda: layers.Conv2d(4, 4, 3, stride=2, padding=1, dilation=2),
        lambda: layers.Conv2d(4, 4, 3, stride=2, padding=1, padding_mode="reflect"),
        lambda: layers.Conv2d(4, 4, 3, stride=(2, 1), padding=0),
        lambda: layers.Conv2d(4, 4, 3, stride=2, padding=2),
        lambda: layers.ConvTranspose2d(4, 4, 3, stride=2, padding=2),
        lambda: layers.ConvTranspose2d(4, 4, 4, stride=2, padding=1),
        lambda: layers.ConvTranspose2d(4, 4, 3, stride=2, padding=1, groups=4),
    ],
)
def test_what_they_are_not_made_for_is_torchs(make: Callable[[], nn.Module]) -> None:
    _assert_same(make().double(), torch.randn(2, 4, 9, 9, dtype=torch.float64))


@pytest.mark.parametrize("training", [True, False])
def test_the_studys_network_is_the_same_with_torchs_kernels(training: bool) -> None:
    task = load_task("autoencoder")
    network = AutoencoderTask().build(task.complete({"dropout": 0.0}), (1, 28, 28)).double().train(training)
    images = torch.rand(6, 1, 28, 28, dtype=torch.float64)
    with layers.torch_kernels():
        expected = _gradients(network, images)
    for ours, theirs in zip(_gradients(network, images), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_layers_have_torchs_names_and_start_from_the_same_weights() -> None:
    torch.manual_seed(3)
    ours = layers.ConvTranspose2d(3, 5, 3, stride=2).state_dict()
    torch.manual_seed(3)
    theirs = nn.ConvTranspose2d(3, 5, 3, stride=2).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("rate", [0.5, 0.2, 0.1, 0.003, 0.9993, 1 / 256])
def test_dropout_keeps_the_expectation_and_the_rate(rate: float) -> None:
    torch.manual_seed(0)
    count = 400_000
    kept = layers.Dropout(rate).train()(torch.ones(100, 4, 25, 40))
    dropped = float((kept == 0).float().mean())
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / count) ** 0.5 + 2**-17
    levels = kept.unique()
    assert len(levels) == 2
    assert float(levels[1]) == pytest.approx(1 / (1 - rate), rel=2**-16 / (1 - rate))


def test_dropout_masks_are_independent_between_neighbours_and_calls() -> None:
    torch.manual_seed(1)
    images = torch.ones(64, 8, 14, 14)
    for rate in (0.5, 0.2):
        first, second = (layers.dropout_mask(images, rate) for _ in range(2))
        centred = (first - 1).permute(0, 2, 3, 1).flatten()
        noise = 4 / len(centred) ** 0.5
        for lag in (1, 2, 4, 8, 64):
            assert abs(float((centred[lag:] * centred[:-lag]).mean() / centred.square().mean())) < noise
        other = (second - 1).permute(0, 2, 3, 1).flatten()
        assert abs(float((centred * other).mean() / centred.square().mean())) < noise


def test_dropout_follows_the_seed_and_is_off_in_evaluation() -> None:
    images = torch.randn(5, 3, 4, 4)
    dropout = layers.Dropout(0.3)
    torch.manual_seed(7)
    first = dropout(images)
    torch.manual_seed(7)
    assert torch.equal(first, dropout(images))
    assert not torch.equal(first, dropout(images))
    assert torch.equal(dropout.eval()(images), images)
    assert torch.equal(layers.Dropout(0.0)(images), images)
    assert torch.equal(layers.Dropout(1.0)(images), torch.zeros_like(images))


@pytest.mark.parametrize("shape", [(6, 10), (4, 3, 7), (2, 3, 4, 5), (3, 2, 2, 3, 4), (1, 1)])
def test_a_mask_has_the_shape_of_any_activation_and_dropouts_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    images = torch.randn(shape, requires_grad=True)
    output = layers.Dropout(0.4)(images)
    (gradient,) = torch.autograd.grad(output.sum(), images)
    assert output.shape == images.shape
    torch.testing.assert_close(output, images.detach() * gradient)


def test_an_exported_network_is_of_torchs_own_operations() -> None:
    network = AutoencoderTask().build(load_task("autoencoder").complete({}), (1, 28, 28)).eval()
    images = torch.rand(3, 1, 28, 28)
    program = torch.export.export(network, (images,))
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert sum("conv" in name for name in operations) >= 1 and not any("mm" in name for name in operations)
    torch.testing.assert_close(program.module()(images), network(images))


def _losses(digits: Tensor, plain: bool) -> list[float]:
    """Validation losses of twelve seeds after eight epochs with dropout: with torch's own layers, or with these."""
    task, params = load_task("autoencoder"), {"width": 4, "hidden": 32, "lr": 0.005, "batch_size": 32, "dropout": 0.7}
    found = []
    for seed in range(12):
        run = FoldRun(task, task.complete(params), digits, FoldPlan(300, splits=3).split()[0], epochs=8, seed=seed)
        for module in run.model.modules():
            if plain and isinstance(module, layers.Dropout):
                module.__class__ = nn.Dropout
        with layers.torch_kernels() if plain else nullcontext():
            found.append([run.train_epoch() for _ in range(8)][-1].val_loss)
    return found


def test_over_seeds_the_results_are_distributed_as_with_torchs_own_layers(digits: Tensor) -> None:
    ours, theirs = _losses(digits, plain=False), _losses(digits, plain=True)
    assert ours != theirs  # the masks are others
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]  # of the same first weights
    spread = (variance(differences) / len(differences)) ** 0.5
    assert abs(mean(differences)) < 3.5 * spread
    assert spread < 0.02 * mean(theirs)  # so that a few per cent would show
