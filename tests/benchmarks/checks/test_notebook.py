"""That the notebook's way is a fair rival: the same network, the same loss, the same counts,
torchvision's own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foldrace.trainables.data.arrays import Dataset
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.training.fold import Fold
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.samples import Samples
from foldrace.trainables.training.splits import Split
from tests.benchmarks.notebook import (
    Counts,
    NotebookAutoencoder,
    fashion_mnist,
    loader,
    study,
    train_epoch,
    validate,
    write_raw,
)

N = 64
CPU = torch.device("cpu")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    images, test = (
        random.integers(0, 256, (count, 1, 28, 28), dtype=np.uint8) for count in (N, 10)
    )
    data = Dataset.of_images(
        "random", images, np.arange(N) % 10, None, test, np.arange(10), (), "", ""
    )
    write_raw(tmp_path, data)
    return tmp_path


def images_of(raw: Path) -> torch.Tensor:
    return torch.stack([image for image, _ in fashion_mnist(raw, train=True)])


def fold_run(raw: Path, dropout: float) -> Fold:
    """This project's run over the same images, as one batch of all of them."""
    task = load_task("autoencoder")
    params = task.complete(
        {"optimizer": "adam", "lr": 0.01, "batch_size": N, "dropout": dropout, "latent_dim": 16}
    )
    everything = np.arange(N)
    images = images_of(raw).mul(255).round().to(torch.uint8)
    return Fold(
        task, params, Samples.of_images(images), Split(everything, everything), TrainingOptions(1)
    )


def as_in(run: Fold, dropout: float) -> NotebookAutoencoder:
    """The notebook's network with the weights of a run."""
    model = NotebookAutoencoder(16, [rate * dropout for rate in (0.5, 0.5, 0.2, 0.1)])
    weights = run.model.state_dict().values()
    model.load_state_dict(dict(zip(model.state_dict(), weights, strict=True)))
    return model


def test_torchvision_reads_what_was_written(raw: Path) -> None:
    image, label = fashion_mnist(raw, train=True)[13]
    expected = np.random.default_rng(0).integers(0, 256, (N, 1, 28, 28), dtype=np.uint8)[13]
    assert label == 3
    assert torch.equal(image, torch.from_numpy(expected) / 255)
    assert len(fashion_mnist(raw, train=False)) == 10


def test_both_networks_have_the_same_layers_and_dropout(raw: Path) -> None:
    ours, theirs = fold_run(raw, 1.0).model, NotebookAutoencoder()
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    rates = [
        [layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]
        for model in (ours, theirs)
    ]
    assert rates[0] == rates[1] == [0.5, 0.5, 0.2, 0.1]


def test_without_dropout_both_ways_take_the_same_step(raw: Path) -> None:
    run = fold_run(raw, 0.0)
    model = as_in(run, 0.0)
    everything = np.arange(N)
    batches = loader(fashion_mnist(raw, train=True), everything, N)
    assert validate(model, batches, CPU) == pytest.approx(
        run.evaluate(torch.arange(N))["mse"], rel=1e-5
    )
    before = [weight.clone() for weight in model.parameters()]
    loss = train_epoch(model, batches, torch.optim.Adam(model.parameters(), lr=0.01), CPU)
    assert loss == pytest.approx(run.train_only_epoch()["train_mse"], rel=1e-5)
    # Adam's first step is ±lr in every weight whose gradient is not nothing: compare where it
    # points
    moves = [
        torch.cat(
            [(new.detach() - old).flatten() for new, old in zip(weights, before, strict=True)]
        )
        for weights in (model.parameters(), run.model.parameters())
    ]
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.99
    assert validate(model, batches, CPU) == pytest.approx(
        run.evaluate(torch.arange(N))["mse"], rel=1e-3
    )


def test_the_study_trains_what_was_asked_for_and_tests_the_best(raw: Path) -> None:
    counts = Counts(trials=2, folds=3, epochs=2)
    found = study(raw, counts, batch_size=16, latent_dim=4, seed=0, device=CPU)
    assert found.fold_epochs == counts.fold_epochs == 12
    assert 0.01 <= found.lr <= 0.03
    assert 0 < found.test_mse < 1 and 0 < found.val_mse < 1
    assert found == study(raw, counts, batch_size=16, latent_dim=4, seed=0, device=CPU)
