"""The VAE: its terms are what the textbooks say, its yardstick does not bend, and its numbers are
its own."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from foldrace.errors import InputError
from foldrace.trainables.tasks import elbo
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.tasks.variational import VariationalTask
from foldrace.trainables.tasks.variational_network import VariationalAutoencoder
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import FoldPlan
from tests.helpers.images import image_sample

TASK = load_task("variational")
PIXELS = 64


@pytest.fixture(scope="module")
def digits():
    """All 1,797 of them, (N, 1, 8, 8) uint8."""
    from sklearn.datasets import load_digits

    return torch.from_numpy((load_digits().images * (255 / 16)).round().astype(np.uint8))[:, None]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def losses(model, images, params, epoch=None, task=TASK):
    sample = image_sample(*images.shape[1:])
    return task.losses(model, {"images": images}, params, sample=sample, epoch=epoch)


def make(images, params=None, *, fold=0, n=600, **options):
    params = TASK.complete(
        {"latent_dim": 4, "variance": 0.02, "batch_size": 16, "lr": 5e-3, **(params or {})}
    )
    split = FoldPlan(n, splits=3).split()[fold]
    settings = TrainingOptions(20, **options)
    return Fold(TASK, params, Samples.of_images(images[:n]), split, settings, number=fold)


def trained(images, params=None, epochs=3, **options):
    run = make(images, params, **options)
    reports = [run.train_epoch() for _ in range(epochs)]
    return run, reports


def batch(images, params=None, count=64):
    """A model in evaluation mode, with images in [0, 1]."""
    run, _ = trained(images, params, 1)
    return run.model.eval(), images[:count].float() / 255, run.params


# --- the terms


def test_the_kl_term_is_torch_distributions_to_five_digits():
    mean, log_variance = 3 * random(200, 5), 2 * random(200, 5, seed=1)
    expected = kl_divergence(Normal(mean, torch.exp(0.5 * log_variance)), Normal(0.0, 1.0))
    assert torch.allclose(elbo.gaussian_kl(mean, log_variance), expected, rtol=1e-5, atol=1e-5)


def test_the_likelihoods_are_torch_distributions():
    images, made = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8) * 0.9 + 0.05
    for log_variance in (-3.0, 0.0, 1.2):
        scale = math.exp(0.5 * log_variance)
        expected = -Normal(made, scale).log_prob(images).flatten(1).sum(1)
        assert torch.allclose(
            elbo.gaussian_nll(images, made, torch.tensor(log_variance)), expected, rtol=1e-5
        )
    binary = images.round()
    expected = -Bernoulli(made).log_prob(binary).flatten(1).sum(1)
    assert torch.allclose(elbo.bernoulli_nll(binary, made), expected, rtol=1e-5)


def test_at_a_variance_of_one_half_the_likelihood_is_the_sum_of_squares_plus_a_constant():
    images, made = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8)
    nll = elbo.gaussian_nll(images, made, torch.tensor(math.log(0.5)))
    expected = elbo.squared_error(images, made) + 0.5 * PIXELS * math.log(math.pi)
    assert torch.allclose(nll, expected, rtol=1e-5)


def test_free_bits_charge_each_dimension_the_larger_of_its_mean_and_the_allowance():
    kl = torch.tensor([[0.1, 3.0], [0.3, 1.0]])
    assert float(elbo.free_bits(kl, 0.5)) == pytest.approx(0.5 + 2.0)
    assert float(elbo.free_bits(kl, 0.0)) == pytest.approx(0.2 + 2.0)


def test_the_loss_is_reconstruction_plus_beta_times_kl(digits):
    for params in ({"beta": 1.0}, {"beta": 4.0}, {"beta": 0.0}, {"likelihood": "bernoulli"}):
        model, images, complete = batch(digits, params)
        terms = losses(model, images, complete)
        expected = terms["reconstruction"] + params.get("beta", 1.0) * terms["kl"]
        assert torch.allclose(terms["loss"], expected)
        assert torch.allclose(terms["negative_elbo"], terms["reconstruction"] + terms["kl"])
        assert torch.allclose(terms["kl_each"].sum(1), terms["kl"], rtol=1e-4)


def test_beta_rises_step_by_step_while_it_warms_up_and_counts_whole_in_evaluation(digits):
    model, images, params = batch(digits, {"beta": 2.0, "warm_up": 4.0})

    @torch.no_grad()
    def weight(epoch):
        torch.manual_seed(0)
        terms = losses(model, images, params, epoch)
        return float(((terms["loss"] - terms["reconstruction"]) / terms["kl"]).mean())

    weights = [weight(epoch) for epoch in (0.0, 1.0, 3.0, 4.0, 9.0, None)]
    assert weights == pytest.approx([0.0, 0.5, 1.5, 2.0, 2.0, 2.0], abs=1e-3)


def test_a_resumed_run_warms_up_as_the_uninterrupted_one(digits):
    whole, reports = trained(digits, {"warm_up": 3.0})
    half, _ = trained(digits, {"warm_up": 3.0}, 1)
    resumed = make(digits, {"warm_up": 3.0})
    resumed.load_state_dict(half.state_dict())
    assert [resumed.train_epoch().metrics for _ in range(2)][-1] == reports[-1].metrics
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.weights().values(), resumed.weights().values(), strict=True)
    )


# --- whose numbers they are


def test_an_untrained_and_a_trained_model_differ_and_so_do_the_folds(digits):
    run = make(digits)
    untrained = run.evaluate(run.validation_indices)
    after = run.train_epoch() and run.train_epoch()
    assert after.val_loss < untrained["loss"] - 1.0
    other, reports = trained(digits, epochs=2, fold=1)
    assert other.number == 1 and reports[-1].val_loss != after.val_loss
    assert reports[0].val_loss != reports[1].val_loss


def test_training_and_validation_are_on_one_scale(digits):
    _, reports = trained(digits, epochs=4, n=900)
    metrics = reports[-1].metrics
    for name in ("loss", "elbo", "reconstruction", "kl", "squared_error", "mse"):
        assert metrics[f"train_{name}"] == pytest.approx(metrics[f"val_{name}"], rel=0.25), name
    assert metrics["val_squared_error"] == pytest.approx(PIXELS * metrics["val_mse"], rel=0.25)


def test_the_figures_of_a_fold(digits):
    _, reports = trained(digits, epochs=12)
    metrics = reports[-1].metrics
    assert metrics["val_loss"] == metrics["val_negative_elbo"] == -metrics["val_elbo"]
    assert metrics["val_elbo"] == pytest.approx(-metrics["val_reconstruction"] - metrics["val_kl"])
    assert sum(metrics[f"val_kl_{i}"] for i in range(4)) == pytest.approx(metrics["val_kl"])
    assert 1 <= metrics["val_active_units"] <= 4 and metrics["val_active_units"] % 1 == 0
    assert not [name for name in metrics if "code" in name or "kl_each" in name]


def test_evaluation_repeats_itself_and_the_error_of_the_mean_does_not_depend_on_the_draw(digits):
    run, _ = trained(digits, epochs=1)
    assert run.evaluate(run.validation_indices) == run.evaluate(run.validation_indices)
    first = run.evaluate(run.validation_indices)
    run.options = dataclasses.replace(run.options, seed=5)
    second = run.evaluate(run.validation_indices)
    assert second["mse"] == first["mse"] and second["elbo"] != first["elbo"]


def test_a_collapsed_posterior_has_no_active_units(digits):
    _, reports = trained(digits, {"beta": 1000.0, "lr": 1e-2}, epochs=4)
    assert reports[-1].metrics["val_active_units"] == 0
    assert reports[-1].metrics["val_kl"] < 0.1


# --- the yardstick


def test_the_objective_is_the_elbo_at_beta_one_whatever_beta_was_trained_with(digits):
    model, images, params = batch(digits, {"beta": 1.0})
    values = {}
    for beta in (0.0, 1.0, 8.0):
        torch.manual_seed(0)
        terms = losses(model, images, {**params, "beta": beta, "free_bits": 0.5, "warm_up": 2.0})
        values[beta] = terms["negative_elbo"].mean().item()
        assert beta == 1.0 or terms["loss"].mean().item() != pytest.approx(values[beta])
    assert values[0.0] == values[1.0] == values[8.0]


def test_a_long_warm_up_is_no_divergence(digits):
    """The KL term is free at first and grows, so the objective gets worse than the untrained
    network's for a while."""
    _, reports = trained(digits, {"warm_up": 100.0, "variance": 0.001, "lr": 1e-2}, epochs=2)
    assert reports[-1].diverged is None


def test_an_explosion_is_still_told(digits):
    _, reports = trained(digits, {"lr": 1000.0}, epochs=3)
    assert reports[-1].diverged is not None


# --- bounds on log p(x)


def test_the_elbo_never_exceeds_the_importance_weighted_bound_which_rises_with_the_samples(digits):
    run, _ = trained(digits, epochs=12)
    images = run.samples.take(run.validation_indices)["images"]
    run.model.eval()
    with torch.inference_mode():
        torch.manual_seed(0)
        many = images.repeat(50, 1, 1, 1)  # one code an image is a noisy estimate
        evidence = -losses(run.model, many, run.params)["negative_elbo"].mean()
        parts = ((many, 1), (images, 10), (images, 200))
        bounds = [
            TASK.implementation.bound(run.model, part, run.params, samples).mean()
            for part, samples in parts
        ]
    assert bounds[0] == pytest.approx(float(evidence), rel=2e-2)
    assert float(evidence) < bounds[1] < bounds[2]


class _LinearEncoder(nn.Module):
    """A linear mean, and a log-variance that is the same for all images."""

    def __init__(self, dimension):
        super().__init__()
        self.mean = nn.Linear(PIXELS, dimension)
        self.log_variance = nn.Parameter(torch.zeros(dimension))

    def forward(self, images):
        mean = self.mean(images.flatten(1))
        return torch.cat([mean, self.log_variance.expand_as(mean)], 1)


def test_a_linear_vae_reaches_and_never_exceeds_probabilistic_pca(digits):
    """Its best ELBO is probabilistic PCA's log-likelihood: the true posterior is in reach (Lucas
    et al., 2019)"""
    from sklearn.decomposition import PCA

    images = digits[:800].float() / 255
    best = (
        PCA(3, svd_solver="full").fit(images.flatten(1).numpy()).score(images.flatten(1).numpy())
    )
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(3, PIXELS), nn.Unflatten(1, (1, 8, 8)))
    model = VariationalAutoencoder(_LinearEncoder(3), decoder, variance=0.1, learned=True)
    params = TASK.complete({})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        optimizer.zero_grad()
        VariationalTask().losses(model.train(), images, params)["loss"].mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        reached = -np.mean(
            [losses(model.eval(), images, params)["negative_elbo"].mean() for _ in range(50)]
        )
    noise = torch.exp(model.log_variance).item()
    assert best - 0.5 < reached < best + 0.05, (reached, best)
    assert noise == pytest.approx(
        PCA(3, svd_solver="full").fit(images.flatten(1).numpy()).noise_variance_, rel=0.05
    )


# --- parameters


def test_a_learned_variance_moves_and_a_fixed_one_does_not(digits):
    learned, _ = trained(digits, {"learned_variance": True, "variance": 0.5})
    fixed, _ = trained(digits, {"variance": 0.5})
    assert learned.model.log_variance.item() < math.log(0.45)
    assert fixed.model.log_variance.item() == pytest.approx(math.log(0.5))
    assert "log_variance" not in dict(fixed.model.named_parameters())


def test_free_bits_keep_more_units_active_under_a_heavy_beta(digits):
    heavy = {"beta": 1000.0, "lr": 1e-2}
    kept = []
    for seed in range(3):  # how many it keeps varies much from one start to another
        _, without = trained(digits, heavy, 12, seed=seed)
        _, with_bits = trained(digits, {**heavy, "free_bits": 1.0}, 12, seed=seed)
        assert without[-1].metrics["val_kl"] < 0.01
        kept.append(with_bits[-1].metrics["val_kl"])
    assert min(kept) > 0.01 and np.median(kept) > 0.2, kept


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta", -1.0),
        ("likelihood", "poisson"),
        ("variance", 0.0),
        ("latent_dim", 0),
        ("warm_up", -1),
    ],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=name):
        TASK.complete({name: value})


def test_one_network_per_shape_and_a_small_image_is_refused():
    params = TASK.complete({"latent_dim": 3})
    for shape in ((1, 28, 28), (3, 32, 32), (1, 8, 13)):
        model = VariationalTask().build(params, shape)
        images = torch.rand(2, *shape)
        mean, log_variance = model.posterior(images)
        assert mean.shape == log_variance.shape == (2, 3) and model(images).shape == images.shape
    with pytest.raises(InputError, match="8×8"):
        VariationalTask().build(params, (1, 7, 7))


def test_a_task_without_a_word_about_epochs_is_called_without():
    class Plain:
        def losses(self, model, images, params):
            return {"loss": images}

    task = dataclasses.replace(TASK, implementation=Plain())
    assert losses(nn.Identity(), torch.ones(2), {}, 0.5, task)["loss"].tolist() == [1.0, 1.0]
