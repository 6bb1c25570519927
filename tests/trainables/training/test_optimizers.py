"""Optimizers and schedules are torch's, and get the values that a trial was given."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn, optim

from foldrace.errors import InputError
from foldrace.trainables.tasks.parameters import (
    OPTIMIZER_PARAMETERS,
    TRAINING_PARAMETERS,
    complete,
)
from foldrace.trainables.training.optimizers import build_optimizer, build_schedule

CLASSES = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "nadam": optim.NAdam,
    "radam": optim.RAdam,
    "sgd": optim.SGD,
    "rmsprop": optim.RMSprop,
    "adagrad": optim.Adagrad,
    "adadelta": optim.Adadelta,
}
UNUSUAL = {
    "beta1": 0.71,
    "beta2": 0.83,
    "eps": 3e-5,
    "amsgrad": True,
    "momentum_decay": 0.07,
    "momentum": 0.37,
    "nesterov": True,
    "alpha": 0.61,
    "centered": True,
    "lr_decay": 0.013,
    "rho": 0.57,
}
EVERY_OWN = [
    (name, own) for name, parameters in OPTIMIZER_PARAMETERS.items() for own in parameters
]


def build(name, **own):
    model = nn.Linear(3, 2)
    return model, build_optimizer(
        complete({"optimizer": name, "lr": 0.0625, **own}, {}), model.parameters()
    )


def in_group(group, own):
    return (
        group["betas"][("beta1", "beta2").index(own)] if own in ("beta1", "beta2") else group[own]
    )


def test_the_eight_optimizers_are_torchs():
    assert (
        set(CLASSES) == set(OPTIMIZER_PARAMETERS) == set(TRAINING_PARAMETERS["optimizer"].choices)
    )
    for name, kind in CLASSES.items():
        assert type(build(name)[1]) is kind


@pytest.mark.parametrize("name", CLASSES)
def test_declared_names_are_arguments_of_the_torch_class(name):
    arguments = inspect.signature(CLASSES[name]).parameters
    for own in (*OPTIMIZER_PARAMETERS[name], "lr", "weight_decay"):
        assert ("betas" if own in ("beta1", "beta2") else own) in arguments


@pytest.mark.parametrize("name", CLASSES)
def test_defaults_are_torchs_own(name):
    group = build(name)[1].param_groups[0]
    reference = CLASSES[name]([nn.Parameter(torch.zeros(1))]).param_groups[0]
    declared = {
        own: p.default for own, p in OPTIMIZER_PARAMETERS[name].items() if p.default is not None
    }
    for own in OPTIMIZER_PARAMETERS[name]:
        assert in_group(group, own) == in_group(reference, own)
        assert declared.get(own, in_group(reference, own)) == in_group(reference, own)


@pytest.mark.parametrize(("name", "own"), EVERY_OWN)
def test_every_own_parameter_reaches_torch_and_trains_a_step(name, own):
    extra = {"momentum": 0.5} if own == "nesterov" else {}
    model, optimizer = build(name, weight_decay=0.011, **extra, **{own: UNUSUAL[own]})
    (group,) = optimizer.param_groups
    assert in_group(group, own) == UNUSUAL[own]
    assert (group["lr"], group["weight_decay"]) == (0.0625, 0.011)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(4, 3)).square().sum().backward()
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.isfinite(new).all() and not torch.equal(old, new)


@pytest.mark.parametrize("name", CLASSES)
def test_all_own_parameters_together_step_as_torchs_plain_one(name):
    own = {key: UNUSUAL[key] for key in OPTIMIZER_PARAMETERS[name]}
    model, optimizer = build(name, **own)
    plain = {key: value for key, value in own.items() if not key.startswith("beta")}
    if "beta1" in own:
        plain["betas"] = (own["beta1"], own["beta2"])
    twin = nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    reference = CLASSES[name](twin.parameters(), lr=0.0625, weight_decay=0.0, **plain)
    for _ in range(3):
        for net, steps in ((model, optimizer), (twin, reference)):
            steps.zero_grad()
            net(torch.ones(4, 3)).square().sum().backward()
            steps.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_beta_leaves_the_other_at_its_default():
    assert build("adam", beta2=0.8)[1].param_groups[0]["betas"] == (0.9, 0.8)
    assert build("nadam", beta1=0.8)[1].param_groups[0]["betas"] == (0.8, 0.999)


def test_a_parameter_of_another_optimizer_is_refused():
    params = complete({}, {}) | {"momentum": 0.9}
    with pytest.raises(
        InputError, match=r"adam has no parameter .*momentum belongs to sgd, rmsprop: add `when: "
    ):
        build_optimizer(params, nn.Linear(3, 2).parameters())


def rates(schedule, steps, lr=0.25, **own):
    """The learning rate of each step, and the one after the last."""
    model, optimizer = build("sgd", **own)
    optimizer.param_groups[0]["lr"] = lr
    scheduler, seen = build_schedule(schedule, optimizer, lr, steps), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        model(torch.ones(4, 3)).sum().backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return [*seen, optimizer.param_groups[0]["lr"]], optimizer


def test_constant_is_flat():
    assert rates("constant", 12)[0] == [0.25] * 13
    assert build_schedule("constant", build("sgd")[1], 0.25, 12) is None


@pytest.mark.parametrize("steps", [2, 12, 37])
def test_cosine_falls_along_its_formula_to_zero_at_the_last_step(steps):
    seen, _ = rates("cosine", steps)
    assert seen == pytest.approx(
        [0.125 * (1 + math.cos(math.pi * i / steps)) for i in range(steps + 1)], abs=1e-9
    )
    assert seen[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("steps", [10, 100])
def test_one_cycle_peaks_at_lr_and_ends_near_zero(steps):
    seen = rates("one-cycle", steps)[0][:-1]
    assert max(seen) == pytest.approx(0.25)
    assert seen.index(max(seen)) == round(0.3 * steps) - 1
    assert seen[0] == pytest.approx(0.25 / 25)
    assert seen[-1] < 0.25 * 1e-4


def test_schedules_leave_momentum_as_it_was_tuned():
    for schedule in ("cosine", "one-cycle"):
        assert rates(schedule, 10, momentum=0.37)[1].param_groups[0]["momentum"] == 0.37


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_a_schedule_of_one_step_is_possible(schedule):
    assert all(math.isfinite(rate) for rate in rates(schedule, 1)[0])
