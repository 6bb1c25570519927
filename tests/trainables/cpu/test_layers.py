"""The layers that are faster on a CPU: their parameters, results and gradients are those of
torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from statistics import mean, median, variance

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from foldrace.trainables.cpu import layers
from foldrace.trainables.cpu.dropout import dropout_mask
from foldrace.trainables.tasks.autoencoder import AutoencoderTask
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan

sides = st.integers(2, 9)


def _gradients(module: nn.Module, images: Tensor) -> list[Tensor]:
    """The output, and the gradients of an uneven function of it by the input and the
    parameters."""
    images = images.clone().requires_grad_()
    output = module(images)
    return [
        output.detach(),
        *torch.autograd.grad(output.sin().sum(), [images, *module.parameters()]),
    ]


def _assert_same(module: nn.Module, images: Tensor) -> None:
    with layers.torch_kernels():
        expected = _gradients(module, images)
    for ours, theirs in zip(_gradients(module, images), expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(sides, sides),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    batch=st.integers(1, 3),
    bias=st.booleans(),
)
def test_a_strided_convolution_is_torchs(
    channels: tuple[int, int],
    size: tuple[int, int],
    padding: tuple[int, int],
    batch: int,
    bias: bool,
) -> None:
    size = (size[0] + 1, size[1] + 1)
    module = layers.Conv2d(*channels, 3, stride=2, padding=padding, bias=bias).double()
    _assert_same(module, torch.randn(batch, channels[0], *size, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(sides, sides),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    batch=st.integers(1, 3),
    bias=st.booleans(),
)
def test_a_transposed_convolution_is_torchs(
    channels: tuple[int, int],
    size: tuple[int, int],
    padding: tuple[int, int],
    extra: tuple[int, int],
    batch: int,
    bias: bool,
) -> None:
    module = layers.ConvTranspose2d(
        *channels, 3, stride=2, padding=padding, output_padding=extra, bias=bias
    ).double()
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
    network = (
        AutoencoderTask()
        .build(task.complete({"dropout": 0.0}), (1, 28, 28))
        .double()
        .train(training)
    )
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
def test_dropout_keeps_the_rate_over_masks_and_the_expectation_in_each(rate: float) -> None:
    torch.manual_seed(0)
    calls, shape = 400, (10, 4, 5, 6)
    masks = [layers.Dropout(rate).train()(torch.ones(shape)) for _ in range(calls)]
    dropped = [float((mask == 0).double().mean()) for mask in masks]
    count = calls * masks[0].numel()
    rounded = round(rate * 2**16) / 2**16
    assert abs(mean(dropped) - rounded) < 4 * (rate * (1 - rate) / count) ** 0.5
    dropped_value, kept_value = torch.stack(masks).unique().tolist()
    assert dropped_value == 0.0 and kept_value == pytest.approx(1 / (1 - rounded), rel=1e-6)


def test_dropout_masks_are_independent_between_neighbours_and_calls() -> None:
    torch.manual_seed(1)
    images = torch.ones(64, 8, 14, 14)
    for rate in (0.5, 0.2):
        first, second = (dropout_mask(images, rate) for _ in range(2))
        centred = (first - 1).permute(0, 2, 3, 1).flatten()
        noise = 4 / len(centred) ** 0.5
        for lag in (1, 2, 4, 8, 64):
            assert (
                abs(float((centred[lag:] * centred[:-lag]).mean() / centred.square().mean()))
                < noise
            )
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
def test_a_mask_has_the_shape_of_any_activation_and_dropouts_gradient(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(2)
    images = torch.randn(shape, requires_grad=True)
    output = layers.Dropout(0.4)(images)
    (gradient,) = torch.autograd.grad(output.sum(), images)
    assert output.shape == images.shape
    torch.testing.assert_close(output, images.detach() * gradient)


def _norm_first(*after: nn.Module) -> layers.Sequential:
    torch.manual_seed(5)
    made = layers.Sequential(layers.BatchNorm2d(3), *after).double()
    nn.init.uniform_(made[0].weight, 0.5, 2.0)
    nn.init.normal_(made[0].bias)
    return made


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    "after", [(), (nn.ReLU(),), (nn.ReLU(), nn.Sigmoid()), (layers.Dropout(0.0), nn.ReLU())]
)
def test_batch_norm_with_what_follows_is_torchs(
    after: tuple[nn.Module, ...], momentum: float | None
) -> None:
    module = _norm_first(*after)
    module[0].momentum = momentum
    images = torch.randn(6, 3, 4, 5, dtype=torch.float64) * 3 + 10
    with layers.torch_kernels():
        other = copy.deepcopy(module)
        expected = [_gradients(other, images) for _ in range(3)][-1]
    ours = [_gradients(module, images) for _ in range(3)][-1]
    for one, two in zip([*ours, *module.buffers()], [*expected, *other.buffers()], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    assert int(module[0].num_batches_tracked) == 3
    torch.testing.assert_close(module.eval()(images), other.eval()(images))


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("relu_first", [True, False])
def test_what_is_computed_together_is_what_each_layer_computes(
    norm: bool, relu_first: bool
) -> None:
    pair = (nn.ReLU(), layers.Dropout(0.3)) if relu_first else (layers.Dropout(0.3), nn.ReLU())
    module = _norm_first(*pair) if norm else layers.Sequential(*pair)
    images = torch.randn(6, 3, 4, 5, dtype=torch.float64)
    torch.manual_seed(4)
    together = _gradients(module, images)
    called: list[nn.Module] = []
    module[-1].register_forward_hook(lambda layer, *_: called.append(layer))
    torch.manual_seed(4)
    apart = _gradients(module, images)
    assert called == [module[-1]]  # who wants to be told is told
    for one, two in zip(together, apart, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("after", [(), (nn.ReLU(),), (layers.Dropout(0.3), nn.ReLU())])
@pytest.mark.parametrize(
    "conv",
    [
        layers.Conv2d(3, 4, 3, 2, 1),
        layers.ConvTranspose2d(3, 4, 3, 2),
        layers.Conv2d(3, 4, 3, 2, 1, bias=False),
    ],
)
def test_a_convolution_with_what_follows_is_torchs_and_its_bias_before_a_norm_stays(
    conv: nn.Module, after: tuple[nn.Module, ...]
) -> None:
    together = layers.Sequential(copy.deepcopy(conv), layers.BatchNorm2d(4), *after).double()
    apart = copy.deepcopy(together)
    apart[0].register_forward_hook(lambda *_: None)
    images = torch.randn(5, 3, 6, 5, dtype=torch.float64)
    for module in (together, apart):
        torch.manual_seed(4)
        module.given = _gradients(module, images.clone())
    torch.manual_seed(4)
    for one, two in zip(
        [*together.given, *together.buffers()], [*apart.given, *apart.buffers()], strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
    if conv.bias is not None:
        assert (
            not together.given[3].any() and apart.given[3].any()
        )  # but for rounding it is zero there as well
    torch.testing.assert_close(together.eval()(images), apart.eval()(images))


def test_a_convolution_rectified_and_dropped_is_torchs() -> None:
    together = layers.Sequential(
        layers.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), layers.Dropout(0.5)
    ).double()
    apart = copy.deepcopy(together)
    apart[1].register_forward_hook(lambda *_: None)
    images = torch.randn(5, 1, 6, 5, dtype=torch.float64)
    torch.manual_seed(4)
    ours = _gradients(together, images)
    torch.manual_seed(4)
    for one, two in zip(ours, _gradients(apart, images), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_batch_norm_refuses_one_value_a_channel_as_torchs_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layers.BatchNorm2d(3).train()(torch.randn(1, 3, 1, 1))


def test_the_gradient_of_a_bias_before_batch_norm_is_no_noisier_than_torchs() -> None:
    """It is zero but for rounding; Adam, whose epsilon is 1e-8, would take steps on what lies
    above that."""

    def noise(seed: int, plain: bool, alone: bool = False) -> float:
        torch.manual_seed(seed)
        network = AutoencoderTask().build(
            load_task("autoencoder").complete({"dropout": 0.0}), (1, 28, 28)
        )
        for module in network.modules():
            if alone and isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda *_: None)
        images = torch.rand(256, 1, 28, 28)
        with layers.torch_kernels() if plain else nullcontext():
            (network(images) - images).square().mean().backward()
        before = [
            one for one, two in pairwise(network.modules()) if isinstance(two, nn.BatchNorm2d)
        ]
        assert len(before) == 3
        return max(float(layer.bias.grad.abs().max()) for layer in before)  # type: ignore[union-attr, operator]

    ours, theirs = ([noise(seed, plain) for seed in range(5)] for plain in (False, True))
    assert max(ours) == 0.0 < median(theirs)
    assert max(noise(seed, False, alone=True) for seed in range(3)) <= median(theirs)


def test_an_exported_network_is_of_torchs_own_operations() -> None:
    network = AutoencoderTask().build(load_task("autoencoder").complete({}), (1, 28, 28)).eval()
    images = torch.rand(3, 1, 28, 28)
    program = torch.export.export(network, (images,))
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert sum("conv" in name for name in operations) >= 1 and not any(
        "mm" in name for name in operations
    )
    torch.testing.assert_close(program.module()(images), network(images))


def _losses(digits: Tensor, plain: bool) -> list[float]:
    """Validation losses of twelve seeds after eight epochs with dropout: with torch's own layers,
    or with these."""
    task, params = (
        load_task("autoencoder"),
        {"width": 4, "hidden": 32, "lr": 0.005, "batch_size": 32, "dropout": 0.7},
    )
    found = []
    for seed in range(12):
        run = Fold(
            task,
            task.complete(params),
            Samples.of_images(digits),
            FoldPlan(300, splits=3).split()[0],
            TrainingOptions(8, seed),
        )
        for module in run.model.modules():
            if plain and isinstance(module, layers.Dropout):
                module.__class__ = nn.Dropout
        with layers.torch_kernels() if plain else nullcontext():
            found.append([run.train_epoch() for _ in range(8)][-1].val_loss)
    return found


def test_over_seeds_the_results_are_distributed_as_with_torchs_own_layers(digits: Tensor) -> None:
    ours, theirs = _losses(digits, plain=False), _losses(digits, plain=True)
    assert ours != theirs  # the masks are others
    differences = [
        one - other for one, other in zip(ours, theirs, strict=True)
    ]  # of the same first weights
    spread = (variance(differences) / len(differences)) ** 0.5
    assert abs(mean(differences)) < 3.5 * spread
    assert spread < 0.02 * mean(theirs)  # so that a few per cent would show
