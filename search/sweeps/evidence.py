"""Codes, reconstructions and generated images of a refitted model, for the reports.

They are computed once, at refit, where the model and the data are at hand, and logged to the run
as ``evidence.npz``. So a report can be made wherever the tracking store can be reached.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foldrace.search.recording.schema import EVIDENCE_FILE
from foldrace.trainables.tasks.elbo import active_units
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.tasks.parameters import Value
from foldrace.trainables.training.samples import shared_tensor
from foldrace.trainables.training.seeds import derive_seed, seeded

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from foldrace.trainables.data.arrays import Dataset

__all__ = ["Codec", "collect_evidence", "log_evidence", "save_evidence"]

_IMAGES = 10_000
_BATCH = 1000
_FIRST, _SHOWN, _SHOWN_UNLABELLED = 16, 4, 16
_SAMPLES, _DIMENSIONS, _STEPS, _PAIRS, _GRID = 100, 16, 9, 8, 20
_REACH = 3.0

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Codec:
    """A trained model with its task's methods, in batches and in evaluation mode.

    Attributes:
        device: the model's.
        seed: for what a task draws at random.
    """

    task: LoadedTask
    model: torch.nn.Module
    params: Mapping[str, Value]
    device: torch.device
    seed: int

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, C, H, W) → (N, D)."""
        return self._over(self.task.implementation.encode, images)

    def reconstruct(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, C, H, W) → the same shape, in [0, 1] unless the task leaves that range."""
        return self._over(self.task.implementation.reconstruct, images)

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(…, D) → (…, C, H, W)."""
        flat = codes.reshape(-1, codes.shape[-1]).astype(np.float32)
        made = as_bytes(self._over(self.task.implementation.decode, flat))
        return made.reshape(*codes.shape[:-1], *made.shape[1:])

    def _over(
        self,
        method: Callable[[torch.nn.Module, torch.Tensor, Mapping[str, Value]], torch.Tensor],
        inputs: NDArray[Any],
    ) -> NDArray[np.float32]:
        self.model.eval()
        with torch.inference_mode(), seeded(derive_seed(self.seed, "evidence"), self.device):
            parts = [
                method(self.model, part, self.params).float().cpu()
                for part in self._batches(inputs)
            ]
        return torch.cat(parts).numpy()

    def _batches(self, inputs: NDArray[Any]) -> Iterator[torch.Tensor]:
        for part in torch.split(shared_tensor(inputs), _BATCH):
            moved = part.to(self.device).float()
            yield moved.div_(255.0) if part.dtype == torch.uint8 else moved


def as_bytes(images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as bytes; values outside are clipped."""
    return np.rint(np.clip(np.nan_to_num(images), 0, 1) * 255).astype(np.uint8)


def collect_evidence(
    codec: Codec,
    folds: Sequence[Codec],
    images: NDArray[np.uint8],
    labels: NDArray[Any] | None,
    class_names: Sequence[str],
    kl: Sequence[float] = (),
) -> Arrays:
    """All arrays that the task's methods allow, by name.

    Args:
        codec: of the refitted model.
        folds: of the best trial's fold models.
        images: (N, C, H, W), the test part; the first 10,000 are used.
        labels: (N,) or None.
        kl: the mean KL term of each code dimension, if there is one.

    Returns:
        ``images``; ``labels`` and ``class_names`` if known; ``codes`` (N, D) and ``fold_codes``
        (K, N, D) if the task encodes; ``errors`` (N,), ``first_reconstructions``, ``shown`` and
        ``shown_reconstructions`` if it reconstructs; ``prior_samples``, ``traversals``,
        ``interpolations`` and, for two dimensions, ``manifold`` if it has a normal prior.
    """
    images = images[:_IMAGES]
    found: Arrays = {"images": images}
    if labels is not None:
        found["labels"] = labels = labels[:_IMAGES].astype(np.int64)
        if class_names:
            found["class_names"] = np.array(class_names)
    if codec.task.can("encode"):
        found["codes"] = codec.encode(images).astype(np.float32)
        if folds:
            found["fold_codes"] = np.stack(
                [fold.encode(images).astype(np.float32) for fold in folds]
            )
    if codec.task.reconstructs:
        found |= _reconstructions(codec, images, labels)
    if codec.task.can("encode", "decode") and codec.task.prior == "normal":
        found |= _generated(codec, found["codes"], labels, kl)
    return found


def log_evidence(
    client: MlflowClient,
    run_id: str,
    codec: Codec,
    folds: Sequence[Codec],
    dataset: Dataset,
    terms: Mapping[str, float],
) -> None:
    """Logs `collect_evidence` of the test part to a run, if a sample is one image.

    Args:
        terms: the model's values, of which ``kl_0``, ``kl_1``, … are the KL terms of the code
            dimensions.
    """
    images = dataset.first_test_images(_IMAGES)
    if images is None:
        return
    kl = [
        terms[f"kl_{i}"]
        for i in itertools.takewhile(lambda i: f"kl_{i}" in terms, itertools.count())
    ]
    found = collect_evidence(codec, folds, images, dataset.test_labels, dataset.class_names, kl)
    with tempfile.TemporaryDirectory() as folder:
        save_evidence(Path(folder) / EVIDENCE_FILE, found)
        client.log_artifact(run_id, str(Path(folder) / EVIDENCE_FILE))


def save_evidence(path: Path, found: Arrays) -> None:
    """Writes the arrays into a compressed ``.npz`` file without pickles."""
    arrays: Any = found  # numpy's own signature takes every keyword for allow_pickle
    np.savez_compressed(path, **arrays)


def _reconstructions(
    codec: Codec, images: NDArray[np.uint8], labels: NDArray[np.int64] | None
) -> Arrays:
    errors = np.empty(len(images), np.float32)
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        difference = codec.reconstruct(part) - part.astype(np.float32) / 255
        errors[start : start + _BATCH] = np.square(difference).reshape(len(part), -1).mean(1)
    shown = _extremes(errors, labels)
    return {
        "errors": errors,
        "first_reconstructions": as_bytes(codec.reconstruct(images[:_FIRST])),
        "shown": shown,
        "shown_reconstructions": as_bytes(codec.reconstruct(images[shown])),
    }


def _extremes(errors: NDArray[np.float32], labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The best and then the worst reconstructed images, per class if there are labels."""
    groups = (
        [np.arange(len(errors))]
        if labels is None
        else [np.flatnonzero(labels == one) for one in np.unique(labels)]
    )
    count = _SHOWN_UNLABELLED if labels is None else _SHOWN
    chosen = []
    for group in groups:
        ranked = group[np.argsort(errors[group], kind="stable")]
        chosen += [ranked[:count], ranked[::-1][:count]]
    return np.concatenate(chosen).astype(np.int64)


def _generated(
    codec: Codec, codes: NDArray[np.float32], labels: NDArray[np.int64] | None, kl: Sequence[float]
) -> Arrays:
    dimension = codes.shape[1]
    variances = codes.var(0, dtype=np.float64)
    order = np.argsort(-np.asarray(kl if len(kl) == dimension else variances), kind="stable")[
        :_DIMENSIONS
    ]
    values = np.linspace(-_REACH, _REACH, _STEPS, dtype=np.float32)
    moved = np.zeros((len(order), _STEPS, dimension), np.float32)
    moved[np.arange(len(order)), :, order] = values
    ends = _pairs(len(codes), labels)
    way = np.linspace(0, 1, _STEPS, dtype=np.float32)[None, :, None]
    between = codes[ends[:, 0], None] * (1 - way) + codes[ends[:, 1], None] * way
    drawn = np.random.default_rng(derive_seed(codec.seed, "prior")).standard_normal(
        (_SAMPLES, dimension), np.float32
    )
    found: Arrays = {
        "prior_samples": codec.decode(drawn),
        "traversal_dims": order.astype(np.int64),
        "traversal_values": values,
        "traversals": codec.decode(moved),
        "interpolation_ends": ends,
        "interpolations": codec.decode(between),
        "active": active_units(torch.from_numpy(variances)).numpy(),
    }
    if len(kl) == dimension:
        found["kl_per_dimension"] = np.asarray(kl, np.float32)
    if dimension == 2:
        found["manifold"] = codec.decode(_quantile_grid())
    return found


def _pairs(count: int, labels: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """(P, 2) images to interpolate between: firsts of two classes; neighbours if unlabelled."""
    firsts = (
        np.arange(min(count, 2 * _PAIRS))
        if labels is None
        else np.unique(labels, return_index=True)[1]
    )
    if len(firsts) < 2:
        firsts = np.arange(min(count, 2 * _PAIRS))
    return np.stack([firsts, np.roll(firsts, -1)], 1)[:_PAIRS].astype(np.int64)


def _quantile_grid() -> NDArray[np.float32]:
    """(G, G, 2) codes at quantiles of the normal distribution: dimension 0 to the right, 1 up."""
    steps = torch.special.ndtri((torch.arange(_GRID) + 0.5) / _GRID).numpy()
    across, up = np.meshgrid(steps, steps[::-1])
    return np.stack([across, up], -1).astype(np.float32)
