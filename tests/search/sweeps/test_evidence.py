"""What a refitted model makes of the test images: right images, right codes, and what there is for
which task."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from foldrace.search.sweeps.evidence import Codec, as_bytes, collect_evidence, save_evidence
from foldrace.trainables.tasks.loading import load_task

SHAPE = (1, 8, 8)
LABELS = np.arange(120) % 10


@pytest.fixture(scope="module")
def images(digits):
    return digits[:120].numpy()


def codec(name, seed=0, **params):
    task = load_task(name)
    complete = task.complete({"latent_dim": 3, "width": 4, "hidden": 16, **params})
    torch.manual_seed(seed)
    return Codec(
        task, task.implementation.build(complete, SHAPE), complete, torch.device("cpu"), seed=0
    )


def test_codes_and_errors_are_those_of_the_model_in_evaluation_mode(images):
    one = codec("autoencoder")
    found = collect_evidence(
        one, [codec("autoencoder", 1), codec("autoencoder", 2)], images, LABELS, ()
    )
    pixels = torch.from_numpy(images).float() / 255
    with torch.no_grad():
        codes, made = one.model.eval().encoder(pixels), one.model(pixels)
    assert np.allclose(found["codes"], codes.numpy(), atol=1e-6)
    assert np.allclose(
        found["errors"], (made - pixels).square().flatten(1).mean(1).numpy(), atol=1e-6
    )
    assert np.array_equal(found["first_reconstructions"], as_bytes(made[:16].numpy()))
    assert found["fold_codes"].shape == (2, 120, 3) and not np.allclose(
        found["fold_codes"][0], found["fold_codes"][1]
    )


def test_the_best_and_the_worst_of_each_class_are_shown(images):
    found = collect_evidence(codec("autoencoder"), [], images, LABELS, ())
    shown = found["shown"].reshape(10, 2, 4)
    for label, (best, worst) in enumerate(shown):
        mine = np.sort(found["errors"][label == LABELS])
        assert set(LABELS[best]) == set(LABELS[worst]) == {label}
        assert np.array_equal(found["errors"][best], mine[:4])
        assert np.array_equal(found["errors"][worst], mine[::-1][:4])
    assert found["shown_reconstructions"].shape == (80, *SHAPE)


def test_only_a_generative_task_draws_from_its_prior(images):
    plain = collect_evidence(codec("autoencoder", latent_dim=2), [], images, LABELS, ())
    assert not {"prior_samples", "traversals", "interpolations", "manifold", "active"} & set(plain)
    flat = collect_evidence(
        codec("variational", latent_dim=2), [], images, LABELS, ("a",) * 10, [0.1, 2.0]
    )
    assert flat["manifold"].shape == (20, 20, *SHAPE) and flat["prior_samples"].shape == (
        100,
        *SHAPE,
    )
    assert flat["traversal_dims"].tolist() == [1, 0]
    assert flat["class_names"].tolist() == ["a"] * 10
    assert "manifold" not in collect_evidence(codec("variational"), [], images, LABELS, ())


def test_an_interpolation_goes_from_one_image_s_reconstruction_to_the_other_s(images):
    one = codec("variational")
    found = collect_evidence(one, [], images, LABELS, ())
    starts, ends = found["interpolation_ends"].T
    made = as_bytes(one.reconstruct(images))
    assert (LABELS[starts] != LABELS[ends]).all()
    for side, chosen in (
        (0, starts),
        (-1, ends),
    ):  # a byte apart where a batch's sums were added in another order
        assert np.abs(found["interpolations"][:, side].astype(int) - made[chosen]).max() <= 1


def test_a_traversal_moves_one_dimension_and_passes_through_the_origin(images):
    one = codec("variational")
    found = collect_evidence(one, [], images, LABELS, ())
    middle = found["traversal_values"].tolist().index(0.0)
    origin = one.decode(np.zeros((1, 3), np.float32))[0]
    assert all(np.abs(row[middle].astype(int) - origin).max() <= 1 for row in found["traversals"])
    assert sorted(found["traversal_dims"]) == [0, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_images_without_labels_are_enough(images, count):
    found = collect_evidence(codec("variational"), [], images[:count], None, ())
    assert "labels" not in found and len(found["codes"]) == count


def test_a_task_with_losses_alone_leaves_the_images(images):
    class Bare:
        def build(self, params, sample_shape):
            return torch.nn.Flatten()

        def losses(self, model, images, params):
            return {"loss": model(images).mean(1)}

    bare = dataclasses.replace(codec("autoencoder").task, implementation=Bare())
    found = collect_evidence(
        dataclasses.replace(codec("autoencoder"), task=bare), [], images, LABELS, ()
    )
    assert set(found) == {"images", "labels"}


def test_it_repeats_and_reads_back_without_pickle(images, tmp_path):
    first, second = (
        collect_evidence(codec("variational"), [], images, LABELS, ("x",)) for _ in range(2)
    )
    save_evidence(tmp_path / "evidence.npz", first)
    with np.load(tmp_path / "evidence.npz", allow_pickle=False) as stored:
        assert set(stored.files) == set(first)
        assert all(np.array_equal(stored[name], second[name]) for name in stored.files)
