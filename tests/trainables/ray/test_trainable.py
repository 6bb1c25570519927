"""The Tune adapter, without a cluster: what a step reports, and what a checkpoint holds."""

from __future__ import annotations

import base64
import io
import math
import pickle
import weakref
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from foldrace.errors import StateError
from foldrace.trainables.ray import trainable as trainable_module
from foldrace.trainables.ray.checkpoint import CHECKPOINT_FILE, load_checkpoint_file
from foldrace.trainables.ray.trainable import RAISED, FoldTrainable
from foldrace.trainables.ray.work import Work
from foldrace.trainables.tasks.loading import LoadedTask
from foldrace.trainables.training.cross_validation import CrossValidation
from foldrace.trainables.training.ladder import Rung
from foldrace.trainables.training.options import TrainingOptions
from foldrace.trainables.training.splits import FoldPlan
from tests.helpers.images import image_fields
from tests.helpers.small_tasks import SMALL, TASK, Scripted

CONFIG = {"trial": 7, "params": {**SMALL, "lr": 0.01}}


@pytest.fixture
def start(digits):
    """Makes a trainable over 60 digits in 3 folds that reports every aligned epoch."""

    def make(config=CONFIG, task=TASK, epochs=3, seed=0, objective=None, **settings):
        images = digits[:60].numpy().copy()
        images.flags.writeable = False  # as from the object store
        work = Work(
            task,
            *image_fields(images),
            tuple(FoldPlan(60, splits=3).split()),
            TrainingOptions(epochs, seed, objective),
            **{"report_seconds": 0.0, **settings},
        )

        class Local(FoldTrainable):
            def setup(self, config):
                super().setup(config, work=work)

        return Local(config)

    return make


def numbers(result):
    return {k: result[k] for k in ("trial", "epoch", "fold_epochs", "finished", "val_loss")} | {
        "folds": result["report"].folds
    }


def run(trainable, steps=3):
    return [numbers(trainable.step()) for _ in range(steps)]


class Raising(type(TASK.implementation)):
    """Raises in the third training batch of all."""

    batches = 0

    def losses(self, model, images, params):
        if model.training:
            type(self).batches += 1
            if type(self).batches > 3:
                raise ValueError("no more\nof this")
        return super().losses(model, images, params)


def test_an_error_of_the_task_ends_the_trial_and_not_the_worker(start):
    task = LoadedTask("raising", Raising(), TASK.parameters, TASK.objective)
    trainable = start(
        task=task, config={**CONFIG, "params": {**CONFIG["params"], "batch_size": 60}}
    )
    assert trainable.step()["epoch"] == 1
    result = trainable.step()
    assert result["done"] and not result["finished"] and "val_loss" not in result
    reason, detail = result[RAISED]
    assert (
        reason == "ValueError: no more" and "in losses" in detail and detail.endswith("of this\n")
    )
    assert result["report"].epoch == 1 and result["earlier"] == ()
    assert trainable.reset_config({**CONFIG, "trial": 8}) and trainable.step()[RAISED][0] == reason
    pickle.dumps(result)


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_a_step_is_an_aligned_epoch_of_all_folds(start):
    trainable = start()
    results = [trainable.step() for _ in range(3)]
    assert [r["epoch"] for r in results] == [1, 2, 3]
    assert [r["fold_epochs"] for r in results] == [3, 6, 9]
    assert [r["finished"] for r in results] == [r["done"] for r in results] == [False, False, True]
    for result in results:
        assert result["trial"] == 7
        assert result["val_loss"] == result["report"].metrics["val_loss"]
        assert len(result["report"].folds) == 3
        weights = trainable._cv.folds[2].model.parameters()
        assert result["parameters"] == sum(w.numel() for w in weights) and isinstance(
            result["parameters"], int
        )
        assert result["seconds"] == result["report"].seconds
        pickle.dumps(result)
    assert all(one["reported_ms"] <= two["reported_ms"] for one, two in pairwise(results))
    assert ["should_checkpoint" in r for r in results] == [False, False, True]


def test_a_machine_that_does_not_share_the_folder_of_sweeps_trains_nothing(start, tmp_path):
    (tmp_path / "sweep.yaml").touch()
    start(seen=str(tmp_path / "sweep.yaml"))
    with pytest.raises(StateError, match=r"elsewhere is not seen on .*share the folder of sweeps"):
        start(seen=str(tmp_path / "elsewhere"))


def test_where_the_machine_will_be_taken_away_every_step_is_saved(start):
    trainable = start()
    trainable._notice = SimpleNamespace(given=False)
    assert "should_checkpoint" not in trainable.step()
    trainable._notice.given = True
    assert trainable.step()["should_checkpoint"]


def test_short_epochs_are_sent_with_the_next_rung(start):
    ladder = (Rung(1, 1), Rung(1, 3), Rung(3, 3))
    each = start(ladder=ladder)
    single = [each.step() for _ in range(5)]
    where = [(len(r["report"].folds), r["epoch"]) for r in single]
    assert where == [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3)] and {
        r["earlier"] for r in single
    } == {()}
    together = start(ladder=ladder, report_seconds=60.0)
    results = [together.step() for _ in range(3)]
    assert [numbers(r) for r in results] == [numbers(single[i]) for i in (0, 2, 4)]
    ((report, when),) = results[1]["earlier"]
    assert (report.folds, report.fold_epochs) == (single[1]["report"].folds, 2)
    assert results[0]["reported_ms"] <= when <= results[1]["reported_ms"]
    assert [len(r["earlier"]) for r in results] == [0, 1, 1]


def test_a_diverged_trial_reports_no_loss_and_no_picture(start):
    result = start(
        task=LoadedTask("nan", Scripted(math.nan), {}, None), config={"trial": 0, "params": {}}
    )
    report = result.step()
    assert report["finished"] and report["done"]
    assert "val_loss" not in report and "picture" not in report
    assert report["report"].diverged == "fold 0, epoch 1: val_loss is nan"


def test_a_checkpoint_of_tensors_and_plain_values_continues_bit_for_bit(start, tmp_path):
    expected = run(start())
    first = start()
    assert run(first, 1) == expected[:1]
    first.save_checkpoint(str(tmp_path))
    state = load_checkpoint_file(tmp_path / CHECKPOINT_FILE)
    assert state["trial"] == 7
    assert {f.name for f in tmp_path.iterdir()} == {CHECKPOINT_FILE, "trial.sha256"}
    assert (
        len(torch.load(tmp_path / CHECKPOINT_FILE, weights_only=True)["cross_validation"]["folds"])
        == 3
    )
    second = start()
    second.load_checkpoint(str(tmp_path))
    assert run(second, 2) == expected[1:]


@pytest.mark.parametrize("whole", [0, 1, 2])
def test_a_trial_continues_from_the_checkpoint_before_a_damaged_one(
    whole, start, tmp_path, caplog
):
    expected, trainable = run(start()), start()
    folders = [tmp_path / f"checkpoint_00000{place}" for place in range(2)]
    for folder in folders:
        folder.mkdir()
        trainable.step()
        trainable.save_checkpoint(str(folder))
    for folder in folders[whole:]:
        file = folder / CHECKPOINT_FILE
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1  # a torn file is shorter; this is harder to notice
        file.write_bytes(content)
    second = start()
    second.load_checkpoint(str(folders[-1]))
    assert run(second, 3 - whole) == expected[whole:]
    assert caplog.text.count("this checkpoint is damaged") == 2 - whole


def test_a_reused_trainable_gives_the_numbers_of_a_fresh_one(start):
    other = {"trial": 8, "params": {**SMALL, "optimizer": "sgd", "momentum": 0.9, "lr": 0.1}}
    used = start()
    run(used, 2)
    assert used.reset_config(other) is True
    assert run(used) == run(start(other))
    assert used.reset_config(CONFIG) is True
    assert run(used) == run(start())


def test_a_repeat_trains_with_its_own_seed_on_its_own_folds_the_same_for_every_trial(start):
    redrawn = tuple(tuple(FoldPlan(60, splits=3, seed=seed).split()) for seed in (11, 12))

    def step(repeat, lr=0.01):
        config = {"trial": 0, "params": {**SMALL, "lr": lr}, "repeat": repeat}
        trainable = start(config, repeat_splits=redrawn)
        losses = [fold.val_loss for fold in trainable.step()["report"].folds]
        return losses, [run.validation_indices for run in trainable._cv.folds]

    (plain, _), *repeats = (step(repeat) for repeat in range(3))
    assert plain == [fold.val_loss for fold in start().step()["report"].folds]
    assert plain != repeats[0][0] != repeats[1][0] != plain
    for (_, indices), splits in zip(repeats, redrawn, strict=True):
        assert all(
            map(torch.equal, indices, (torch.from_numpy(split.validation) for split in splits))
        )
    other, indices = step(1, lr=0.02)
    assert other != repeats[0][0] and all(map(torch.equal, indices, repeats[0][1]))


def test_repeats_differ_in_the_weights_that_they_start_from(start):
    same = tuple(FoldPlan(60, splits=3).split())
    work = start(repeat_splits=(same, same))._work
    images = work.samples_on()
    trained = [
        work.cross_validation({**SMALL, "lr": 0.01}, images, repeat) for repeat in (0, 1, 2, 1)
    ]
    losses = [[fold.val_loss for fold in cv.advance().folds] for cv in trained]
    assert losses[1] == losses[3]
    assert losses[0] != losses[1] != losses[2] != losses[0]


def test_the_seed_and_the_objective_of_the_work_reach_the_folds(start):
    params = {**SMALL, "loss": "bce"}
    config = {"trial": 0, "params": params}
    plain = start(config).step()
    assert plain["val_loss"] == plain["report"].metrics["val_mse"]
    assert start(config, seed=1).step()["val_loss"] != plain["val_loss"]
    asked = start(config, objective="loss").step()
    assert asked["val_loss"] == pytest.approx(plain["report"].metrics["val_criterion"])


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    torch.AcceleratorError("CUDA error: out of memory", 2),
    MemoryError(),
]
BEFORE_THE_FIRST_EPOCH = [(Work, "samples_on"), (Work, "cross_validation")]


def raising_once(monkeypatch, place, name, error):
    """Lets a method raise at its next call."""
    original = getattr(place, name)

    def method(*args, **named):
        monkeypatch.setattr(place, name, original)
        raise error

    monkeypatch.setattr(place, name, method)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["torch", "cuda", "python"])
@pytest.mark.parametrize("place", BEFORE_THE_FIRST_EPOCH, ids=["data", "model"])
def test_missing_memory_before_the_first_epoch_ends_the_trial_and_not_the_worker(
    place, error, start, monkeypatch
):
    raising_once(monkeypatch, *place, error)
    trainable = start()
    result = trainable.step()
    reason, detail = result[RAISED]
    assert reason.startswith("out of memory: ") and type(error).__name__ in reason
    assert result["done"] and "val_loss" not in result and detail.startswith("Traceback")
    assert trainable.reset_config(CONFIG) and run(trainable) == run(start())


def test_a_checkpoint_that_does_not_fit_into_memory_ends_the_trial(start, monkeypatch, tmp_path):
    first = start()
    first.step()
    first.save_checkpoint(str(tmp_path))
    raising_once(monkeypatch, CrossValidation, "load_state_dict", OUT_OF_MEMORY[0])
    second = start()
    second.load_checkpoint(str(tmp_path))
    assert second.step()[RAISED][0].startswith("out of memory")


def test_a_gpu_that_can_no_longer_be_used_ends_the_worker(start, monkeypatch):
    raising_once(monkeypatch, Work, "samples_on", torch.AcceleratorError("CUDA error: fault", 700))
    with pytest.raises(torch.AcceleratorError):
        start().step()


def test_a_worker_takes_its_share_of_a_gpu_and_returns_it_between_trials(start, monkeypatch):
    called = []
    monkeypatch.delenv("FOLDRACE_TRAIN_ON_CPU", raising=False)
    monkeypatch.setattr(trainable_module.ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(trainable_module, "check_assigned_gpus", called.append)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Fake GPU")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: called.append("emptied"))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", called.append)
    samples_on = Work.samples_on
    monkeypatch.setattr(Work, "samples_on", lambda work, device: samples_on(work))
    monkeypatch.setattr(
        trainable_module, "prepare_process", lambda threads, gpu: called.append(gpu)
    )
    trainable = start(gpu=0.25)
    result = trainable.step()
    assert (result["gpus"], result["device"]) == ("0", "Fake GPU")
    used = weakref.ref(trainable._cv)
    assert trainable.reset_config(CONFIG) and used() is None
    trainable.step()
    assert called == [True, [0], "emptied", 0.25, "emptied"]


def test_a_worker_that_is_told_to_trains_on_its_cpu(start, monkeypatch):
    monkeypatch.setenv("FOLDRACE_TRAIN_ON_CPU", "1")
    monkeypatch.setattr(trainable_module.ray, "get_gpu_ids", lambda: [0])
    result = start(gpu=1).step()
    assert (result["gpus"], result["device"]) == ("0", "cpu")


def test_pictures_come_after_the_chosen_epochs_and_the_last(start):
    trainable = start(picture_epochs=frozenset({2}), pictures=5, epochs=4)
    results = [trainable.step() for _ in range(4)]
    assert ["picture" in r for r in results] == [False, True, False, True]
    picture = Image.open(io.BytesIO(base64.b64decode(results[1]["picture"])))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    assert picture.size == (2 * (5 * 8 + 4 * 2), 2 * (2 * 8 + 2))
