"""The study as a notebook does it, as the rival of the benchmarks: torchvision, a DataLoader,
scikit-learn, Optuna.

A faithful plain rewrite of what a PyTorch notebook of 2021 does, made neither slower nor faster
than it was:

- ``torchvision.datasets.FashionMNIST`` with ``ToTensor``: each image a PIL image in Python, each
  time it is read;
- a ``DataLoader`` of default settings (no worker processes), shuffled by a ``SubsetRandomSampler``
  of a fold's images;
- ``torch.nn`` layers, ``nn.Dropout``, ``torch.optim.Adam`` with its defaults, ``nn.MSELoss``,
  float32;
- the loss of every batch fetched to the CPU, and averaged there;
- validation without gradients in batches of the same size, all reconstructions kept, one loss over
  them;
- one fold after the other, one trial after the other, with as many threads as torch takes.

Left out in the notebook's favour: the pictures that it draws after every epoch. Left out so that
both sides train the same number of epochs: early stopping. ``python -m tests.benchmarks.notebook
OUT --raw FOLDER`` runs the whole study.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler

from foldrace.trainables.data.arrays import Dataset

__all__ = [
    "Counts",
    "NotebookAutoencoder",
    "StudyResult",
    "fashion_mnist",
    "loader",
    "study",
    "train_epoch",
    "validate",
    "write_raw",
]

LEARNING_RATES = (0.01, 0.03)
_FILES = {
    True: ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    False: ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}

Loader = DataLoader[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Counts:
    """How much a study trains: ``trials`` × ``folds`` × ``epochs`` fold-epochs, and ``epochs`` on
    everything."""

    trials: int
    folds: int
    epochs: int

    @property
    def fold_epochs(self) -> int:
        return self.trials * self.folds * self.epochs


@dataclass(frozen=True)
class StudyResult:
    """What a study found: the learning rate, its cross-validated error and that of the refit on
    the test images."""

    lr: float
    val_mse: float
    test_mse: float
    fold_epochs: int


class NotebookAutoencoder(nn.Module):
    """The study's network for (B, 1, 28, 28): the layers of `…tasks.autoencoder_network`, in their
    order."""

    def __init__(
        self, latent_dim: int = 16, dropout: Sequence[float] = (0.5, 0.5, 0.2, 0.1)
    ) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Dropout(dropout[0]),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(dropout[1]),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 128),
            nn.ReLU(),
            nn.Linear(128, latent_dim),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 128),
            nn.ReLU(),
            nn.Linear(128, 288),
            nn.ReLU(),
            nn.Unflatten(1, (32, 3, 3)),
            nn.ConvTranspose2d(32, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.Dropout(dropout[2]),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(8),
            nn.Dropout(dropout[3]),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(images))
        return reconstruction


def write_raw(folder: Path, data: Dataset) -> None:
    """Writes a data set of 28×28 grey images as the files that torchvision downloads, for its own
    class to read."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for train, images, labels in (
        (True, data.images, data.labels),
        (False, data.test_images, data.test_labels),
    ):
        classes = np.zeros(len(images)) if labels is None else labels
        for name, values in zip(
            _FILES[train], (images.reshape(-1, 28, 28), classes.astype(np.uint8)), strict=True
        ):
            header = struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape)
            (raw / name).write_bytes(header + values.tobytes())


def fashion_mnist(folder: Path, *, train: bool) -> Any:
    """torchvision's data set over the files in ``folder``: (1, 28, 28) float32 in [0, 1] and a
    class, one by one."""
    from torchvision import datasets, transforms

    return datasets.FashionMNIST(str(folder), train=train, transform=transforms.ToTensor())


def loader(dataset: Any, indices: NDArray[np.int64], batch_size: int) -> Loader:
    """These images in random order, in batches."""
    return DataLoader(
        dataset, batch_size=batch_size, sampler=SubsetRandomSampler(indices.tolist())
    )


def train_epoch(
    model: nn.Module, batches: Loader, optimizer: torch.optim.Optimizer, device: torch.device
) -> float:
    """Trains an epoch; the mean of the batches' losses."""
    model.train()
    loss_function = nn.MSELoss()
    losses = []
    for images, _ in batches:
        images = images.to(device)
        loss = loss_function(model(images), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu().numpy())
    return float(np.mean(losses))


def validate(model: nn.Module, batches: Loader, device: torch.device) -> float:
    """The mean squared error of all images in evaluation mode."""
    model.eval()
    with torch.no_grad():
        outputs, originals = [], []
        for images, _ in batches:
            outputs.append(model(images.to(device)).cpu())
            originals.append(images)
        return float(nn.MSELoss()(torch.cat(outputs), torch.cat(originals)))


def study(
    raw: Path, counts: Counts, *, batch_size: int, latent_dim: int, seed: int, device: torch.device
) -> StudyResult:
    """Searches the learning rate by cross-validation, trains the best on everything and tests it
    once."""
    import optuna
    from sklearn.model_selection import KFold

    torch.manual_seed(seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    dataset, test = (fashion_mnist(raw, train=train) for train in (True, False))
    trained = 0

    def fit(
        lr: float, indices: NDArray[np.int64]
    ) -> tuple[nn.Module, Loader, torch.optim.Optimizer]:
        model = NotebookAutoencoder(latent_dim).to(device)
        return (
            model,
            loader(dataset, indices, batch_size),
            torch.optim.Adam(model.parameters(), lr=lr),
        )

    def objective(trial: optuna.Trial) -> float:
        nonlocal trained
        lr = trial.suggest_float("lr", *LEARNING_RATES)
        scores = []
        for train, validation in KFold(counts.folds, shuffle=True, random_state=42).split(
            np.arange(len(dataset))
        ):
            model, batches, optimizer = fit(lr, train)
            for _ in range(counts.epochs):
                train_epoch(model, batches, optimizer, device)
                score = validate(model, loader(dataset, validation, batch_size), device)
                trained += 1
            scores.append(score)
        return float(np.mean(scores))

    found = optuna.create_study(
        direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed)
    )
    found.optimize(objective, n_trials=counts.trials)
    lr = float(found.best_params["lr"])
    model, batches, optimizer = fit(lr, np.arange(len(dataset)))
    for _ in range(counts.epochs):
        train_epoch(model, batches, optimizer, device)
    error = validate(model, DataLoader(test, batch_size=batch_size), device)
    return StudyResult(lr, float(found.best_value), error, trained)


def main() -> None:
    """Runs the study and writes its result as JSON."""
    parser = argparse.ArgumentParser(description="The study as a notebook does it.")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--raw", type=Path, required=True, help="the folder that torchvision's files lie in"
    )
    for name, value in (
        ("trials", 10),
        ("folds", 3),
        ("epochs", 5),
        ("batch-size", 256),
        ("latent-dim", 16),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    found = study(
        asked.raw,
        Counts(asked.trials, asked.folds, asked.epochs),
        batch_size=asked.batch_size,
        latent_dim=asked.latent_dim,
        seed=asked.seed,
        device=torch.device(asked.device),
    )
    asked.out.write_text(json.dumps(asdict(found) | {"threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
