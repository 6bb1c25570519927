"""The reference study's network to the letter, and its kin for other image shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foldrace.errors import InputError
from foldrace.trainables.tasks.autoencoder import AutoencoderTask
from foldrace.trainables.tasks.autoencoder_network import ACTIVATIONS, spatial_sizes
from foldrace.trainables.tasks.encoder_decoder import ACTIVATION_NAMES
from foldrace.trainables.tasks.loading import load_task
from tests.helpers.images import image_sample

TASK = load_task("autoencoder")
STUDY = (1, 28, 28)


def build(shape=STUDY, **params):
    torch.manual_seed(0)
    return TASK.implementation.build(TASK.complete(params), shape)


def described(layer):
    if isinstance(layer, nn.ConvTranspose2d):
        assert layer.bias is not None
        paddings = (layer.padding[0], layer.output_padding[0])
        assert (
            layer.padding[0] == layer.padding[1]
            and layer.output_padding[0] == layer.output_padding[1]
        )
        return (
            "transposed",
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            *paddings,
        )
    if isinstance(layer, nn.Conv2d):
        assert layer.bias is not None and layer.padding[0] == layer.padding[1]
        return (
            "conv",
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding[0],
        )
    if isinstance(layer, nn.Linear):
        return ("linear", layer.in_features, layer.out_features)
    if isinstance(layer, nn.BatchNorm2d):
        return ("norm", layer.num_features)
    if isinstance(layer, nn.Dropout):
        return ("dropout", layer.p)
    if isinstance(layer, nn.Unflatten):
        return ("unflatten", tuple(layer.unflattened_size))
    return type(layer).__name__


K, S = (3, 3), (2, 2)


def test_the_encoder_is_the_studys():
    assert [described(layer) for layer in build(latent_dim=5).encoder] == [
        ("conv", 1, 8, K, S, 1),
        "ReLU",
        ("dropout", 0.5),
        ("conv", 8, 16, K, S, 1),
        ("norm", 16),
        "ReLU",
        ("dropout", 0.5),
        ("conv", 16, 32, K, S, 0),
        "ReLU",
        "Flatten",
        ("linear", 288, 128),
        "ReLU",
        ("linear", 128, 5),
    ]


def test_the_decoder_is_the_studys():
    assert [described(layer) for layer in build(latent_dim=5).decoder] == [
        ("linear", 5, 128),
        "ReLU",
        ("linear", 128, 288),
        "ReLU",
        ("unflatten", (32, 3, 3)),
        ("transposed", 32, 16, K, S, 0, 0),
        ("norm", 16),
        ("dropout", 0.2),
        "ReLU",
        ("transposed", 16, 8, K, S, 1, 1),
        ("norm", 8),
        ("dropout", 0.1),
        "ReLU",
        ("transposed", 8, 1, K, S, 1, 1),
        "Sigmoid",
    ]


def test_every_spatial_size_on_the_way_is_the_studys():
    model, sizes = build(), []
    for layer in (*model.encoder, *model.decoder):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Unflatten):
            layer.register_forward_hook(
                lambda _, __, output: sizes.append(tuple(output.shape[1:]))
            )
    model(torch.rand(2, *STUDY))
    assert sizes == [
        (8, 14, 14),
        (16, 7, 7),
        (32, 3, 3),
        (32, 3, 3),
        (16, 7, 7),
        (8, 14, 14),
        (1, 28, 28),
    ]


@pytest.mark.parametrize(("latent", "total"), [(2, 86_611), (16, 90_209)])
def test_the_parameter_counts_follow_the_formula(latent, total):
    model = build(latent_dim=latent)

    def conv(a, b):
        return 9 * a * b + b

    def linear(a, b):
        return a * b + b

    def norm(c):
        return 2 * c

    def counts(part):
        layers = (sum(p.numel() for p in layer.parameters()) for layer in part)
        return [count for count in layers if count]

    encoder = [
        conv(1, 8),
        conv(8, 16),
        norm(16),
        conv(16, 32),
        linear(288, 128),
        linear(128, latent),
    ]
    decoder = [
        linear(latent, 128),
        linear(128, 288),
        conv(32, 16),
        norm(16),
        conv(16, 8),
        norm(8),
        conv(8, 1),
    ]
    assert (counts(model.encoder), counts(model.decoder)) == (encoder, decoder)
    assert sum(p.numel() for p in model.parameters()) == total


def rates(**params):
    model = build(**params)
    return [layer.p for layer in (*model.encoder, *model.decoder) if isinstance(layer, nn.Dropout)]


def test_one_factor_scales_all_four_dropout_rates_and_each_has_an_override():
    assert rates() == [0.5, 0.5, 0.2, 0.1]
    assert rates(dropout=0.5) == [0.25, 0.25, 0.1, 0.05]
    assert rates(dropout=0) == [0, 0, 0, 0]
    assert rates(dropout=1.5, dropout_decoder_1=0.4) == pytest.approx([0.75, 0.75, 0.4, 0.15])
    assert rates(dropout_encoder_1=0.0, dropout_decoder_2=0.9) == [0.0, 0.5, 0.2, 0.9]
    assert rates(dropout_encoder_2=0.3) == [0.5, 0.3, 0.2, 0.1]


def test_a_dropout_rate_of_one_is_refused():
    params = TASK.complete({}) | {"dropout": 2.0}
    with pytest.raises(
        InputError, match=r"dropout: 2\.0: makes a dropout rate 1; a rate must be below 1"
    ):
        TASK.check(params, image_sample(*STUDY))
    with pytest.raises(InputError, match="makes a dropout rate 1"):
        TASK.implementation.build(params, STUDY)
    for wrong in ({"dropout": 2.0}, {"dropout": -0.1}, {"dropout_decoder_1": 1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TASK.complete(wrong)


def reconstruct(shape, **params):
    images = torch.rand(2, *shape)
    with torch.no_grad():
        return build(shape, width=2, hidden=8, latent_dim=3, **params).eval()(images)


@pytest.mark.parametrize(
    "shape", [(3, 32, 32), (1, 8, 8), (3, 64, 64), (1, 9, 31), (4, 11, 8), (2, 13, 27)]
)
def test_other_shapes_come_back_in_their_own(shape):
    output = reconstruct(shape)
    assert output.shape == (2, *shape)
    assert output.min() >= 0 and output.max() <= 1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(8, 70), st.integers(8, 70))
def test_any_shape_from_eight_by_eight_comes_back_in_its_own(channels, height, width):
    assert reconstruct((channels, height, width)).shape == (2, channels, height, width)


def test_the_spatial_sizes_are_what_the_convolutions_make():
    assert spatial_sizes(28) == (28, 14, 7, 3)
    assert spatial_sizes(8) == (8, 4, 2, 1)
    assert spatial_sizes(9) == (9, 5, 3, 1)


@pytest.mark.parametrize("shape", [(1, 7, 28), (1, 28, 7), (3, 4, 4)])
def test_an_image_too_small_is_refused_by_its_shape(shape):
    for refuse in (TASK.implementation.check, TASK.implementation.build):
        with pytest.raises(
            InputError, match=f"{shape[0]}×{shape[1]}×{shape[2]}: .*at least 8×8.*dataset.size"
        ):
            refuse(TASK.complete({}), shape)


@pytest.mark.parametrize("shape", [(28, 28), (0, 28, 28), (1, 28, 28, 1)])
def test_a_shape_that_is_none_is_refused(shape):
    with pytest.raises(InputError, match="channels, height, width"):
        TASK.check(TASK.complete({}), image_sample(*shape))


def test_width_hidden_and_activation_reach_every_layer():
    model = build(width=3, hidden=50, activation="gelu")
    assert [layer.out_channels for layer in model.encoder if isinstance(layer, nn.Conv2d)] == [
        3,
        6,
        12,
    ]
    assert [
        layer.out_channels for layer in model.decoder if isinstance(layer, nn.ConvTranspose2d)
    ] == [6, 3, 1]
    assert (model.encoder[-3].out_features, model.decoder[0].out_features) == (50, 50)
    nonlinear = [
        layer for layer in (*model.encoder, *model.decoder) if isinstance(layer, nn.ReLU | nn.GELU)
    ]
    assert len(nonlinear) == 8 and all(isinstance(layer, nn.GELU) for layer in nonlinear)
    assert tuple(ACTIVATIONS) == ACTIVATION_NAMES


def test_losses_are_means_over_each_image_s_own_pixels():
    images, model = torch.rand(3, 1, 8, 8), build((1, 8, 8), width=2).eval()
    with torch.no_grad():
        x, y = images.flatten(1).double(), model(images).flatten(1).double()
    expected = {
        "mse": ((x - y) ** 2).mean(1),
        "bce": -(x * y.log() + (1 - x) * (1 - y).log()).mean(1),
        "l1": (x - y).abs().mean(1),
    }
    for name, loss in expected.items():
        terms = AutoencoderTask().losses(model, images, TASK.complete({"loss": name}))
        assert terms["loss"].shape == terms["mse"].shape == (3,)
        torch.testing.assert_close(terms["loss"].double(), loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(terms["mse"].double(), expected["mse"], rtol=1e-5, atol=1e-6)
        assert terms["loss"].requires_grad
