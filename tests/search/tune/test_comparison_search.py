"""A comparison's plan and its search: the same trials and the same winners, whatever ends
first."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.tune.search import ConcurrencyLimiter, Searcher

from foldrace.search.sampling.arms import Arm, build_arms
from foldrace.search.sampling.comparison_plan import Phase, Plan, TrialRole, draw_plan
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.search.tune.comparison_search import ComparisonSearch
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.tasks.parameters import Value

ARMS: dict[str, Any] = {
    "adam": {"space": {"lr": {"log": [1e-4, 1e-2]}}},
    "again": {"optimizer": "adam", "space": {"lr": {"log": [1e-4, 1e-2]}}},
    "sgd": {"space": {"lr": {"log": [1e-3, 1.0]}, "momentum": {"uniform": [0.0, 0.99]}}},
}
TRIALS, REPEATS = 3, 2
CANDIDATES = 3 * (1 + TRIALS)
TOTAL = CANDIDATES + 3 * REPEATS


def make_arms(arms: Mapping[str, Any] = ARMS) -> tuple[Arm, ...]:
    tree = {"kind": "comparison", "dataset": "digits", "comparison": {"arms": arms}}
    return build_arms(parse_spec(tree, Path.cwd()), load_task("autoencoder"))


def make_plan(
    sampler: str = "random", seed: int = 0, arms: Mapping[str, Any] = ARMS, trials: int = TRIALS
) -> Plan:
    return draw_plan(make_arms(arms), sampler=sampler, trials=trials, repeats=REPEATS, seed=seed)


def loss_of(config: Mapping[str, Any]) -> float:
    return abs(math.log10(config["params"]["lr"]) + 2.5)


def finished(loss: float) -> dict[str, Any]:
    return {"finished": True, "val_loss": loss}


Loss = Callable[[Mapping[str, Any]], float | None]


def run(
    search: ComparisonSearch, *, workers: int = 1, last: bool = False, loss: Loss = loss_of
) -> dict[int, Mapping[str, Any]]:
    """All trials by number, with so many at once; of those that run the first or the last one ends
    next."""
    running: dict[str, Mapping[str, Any]] = {}
    done: dict[int, Mapping[str, Any]] = {}
    ids = (f"t{n}" for n in itertools.count())
    while True:
        while len(running) < workers:
            name = next(ids)
            config = search.suggest(name)
            if not isinstance(config, dict):
                break
            running[name] = config
        if not running:
            assert config == Searcher.FINISHED
            return done
        name = list(running)[-1 if last else 0]
        ended = running.pop(name)
        assert ended["trial"] not in done
        done[ended["trial"]] = ended
        value = loss(ended)
        search.on_trial_complete(
            name, None if value is None else finished(value), error=value is None
        )


# --- the plan ------------------------------------------------------------------------------------


def test_trials_are_numbered_by_turns_and_repeats_by_arm() -> None:
    plan = make_plan()
    configs = [plan.candidate(number) for number in range(plan.candidates)]
    assert plan.candidates == CANDIDATES
    assert [config["trial"] for config in configs] == list(range(CANDIDATES))
    assert [config["arm"] for config in configs] == ["adam", "again", "sgd"] * (1 + TRIALS)
    assert [config["phase"] for config in configs] == ["default"] * 3 + ["search"] * 9
    assert {config["repeat"] for config in configs} == {0}
    assert list(plan.candidates_of("again")) == [1, 4, 7, 10]
    numbers = [plan.repeat(arm, s, 0)["trial"] for arm in plan.arms for s in (1, 2)]
    assert numbers == list(range(CANDIDATES, TOTAL))
    again = plan.repeat("again", 2, 4)
    assert again["params"] == configs[4]["params"]
    assert TrialRole.of(again) == TrialRole("again", Phase.REPEAT, 2)
    assert TrialRole.of({"trial": 3, "params": {}}) is None


def test_parts_are_tagged_and_named() -> None:
    assert TrialRole("sgd", Phase.DEFAULT).tags == {"arm": "sgd", "phase": "default"}
    assert TrialRole("sgd", Phase.REPEAT, 2).tags == {"arm": "sgd", "phase": "repeat", "repeat": 2}
    roles = [
        TrialRole("sgd", Phase.DEFAULT),
        TrialRole("sgd", Phase.SEARCH),
        TrialRole("sgd", Phase.REPEAT, 2),
    ]
    assert [str(role) for role in roles] == ["sgd default", "sgd", "sgd repeat 2"]


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_a_plan_depends_on_the_seed_and_each_arm_on_its_label_alone(sampler: str) -> None:
    plan = make_plan(sampler)
    assert plan == make_plan(sampler)
    assert plan != make_plan(sampler, seed=1)
    assert (
        make_plan(sampler, arms={name: ARMS[name] for name in ("sgd", "adam")}).points["adam"]
        == plan.points["adam"]
    )
    assert plan.points["adam"][0] == plan.points["again"][0]  # the default
    assert plan.points["adam"][1:] != plan.points["again"][1:]
    more = make_plan(sampler, trials=TRIALS + 2)
    assert more.points["sgd"][: 1 + TRIALS] == plan.points["sgd"]


def test_a_quasi_random_plan_fills_every_parameters_range_evenly() -> None:
    """16 points of a scrambled Sobol sequence have one in each sixteenth of every dimension,
    conditional ones too."""
    own = {
        "lr": {"log": [1e-3, 1e1]},
        "schedule": {"choice": ["constant", "cosine"]},
        "momentum": {"uniform": [0.0, 0.8], "when": {"schedule": "cosine"}},
    }
    points = make_plan("qmc", arms={"sgd": {"space": own}, "adam": {}}, trials=16).points["sgd"][
        1:
    ]
    shares = [(math.log10(float(point["lr"] or 0)) + 3) / 4 for point in points]
    assert sorted(int(16 * share) for share in shares) == list(range(16))
    momenta = [float(point["momentum"] or 0) / 0.8 for point in points if "momentum" in point]
    assert len(momenta) == 8 == len({int(16 * share) for share in momenta})
    random = make_plan("random", arms={"sgd": {"space": own}, "adam": {}}, trials=16).points[
        "sgd"
    ][1:]
    assert len({int(4 * (math.log10(float(point["lr"] or 0)) + 3)) for point in random}) < 16


# --- the search ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "last"), [(1, False), (2, True), (4, False), (5, True), (50, True)]
)
def test_any_order_of_ending_gives_the_same_trials(workers: int, last: bool) -> None:
    expected = run(ComparisonSearch(make_plan()))
    assert sorted(expected) == list(range(TOTAL))
    assert run(ComparisonSearch(make_plan()), workers=workers, last=last) == expected


def test_the_best_of_an_arm_is_repeated_and_a_tie_goes_to_the_earlier() -> None:
    plan = make_plan()
    done = run(ComparisonSearch(plan))
    for place, arm in enumerate(plan.arms):
        best = min(plan.candidates_of(arm), key=lambda number: loss_of(plan.candidate(number)))
        for repeat in (1, 2):
            config = done[CANDIDATES + place * REPEATS + repeat - 1]
            assert (config["arm"], config["repeat"]) == (arm, repeat)
            assert config["params"] == plan.candidate(best)["params"]
    equal = run(ComparisonSearch(plan), loss=lambda config: 1.0)
    assert [equal[CANDIDATES + 2 * n]["params"] for n in range(3)] == [
        plan.candidate(n)["params"] for n in range(3)
    ]


def test_no_repeat_is_handed_out_before_its_arm_is_done_and_the_asker_waits() -> None:
    search = ComparisonSearch(make_plan())
    names = [f"t{n}" for n in range(CANDIDATES)]
    for name in names:
        search.suggest(name)
    assert search.suggest("early") is None
    for name in names[::-1][:-3]:
        search.on_trial_complete(name, finished(1.0))
    assert search.suggest("early") is None
    search.on_trial_complete("t1", finished(0.5))
    first = search.suggest("ready")
    assert isinstance(first, dict) and (first["arm"], first["repeat"]) == ("again", 1)
    assert search.suggest("ready") == first  # asked again, the same


@pytest.mark.parametrize("failing", [{"sgd"}, {"adam", "sgd"}, {"adam", "again", "sgd"}])
def test_an_arm_without_a_loss_has_no_repeats_and_the_search_ends(failing: set[str]) -> None:
    done = run(
        ComparisonSearch(make_plan()),
        workers=2,
        loss=lambda c: None if c["arm"] in failing else loss_of(c),
    )
    repeated = {config["arm"] for config in done.values() if config["phase"] == "repeat"}
    assert repeated == set(ARMS) - failing
    assert len(done) == CANDIDATES + REPEATS * len(repeated)


@pytest.mark.parametrize(
    "end",
    [
        {"error": True},
        {"result": finished(0.0), "error": True},
        {"result": None},
        {"result": {"finished": True}},
        {"result": finished(math.nan)},
        {"result": finished(-math.inf)},
        {"result": {"val_loss": 0.0, "finished": False}},
    ],
)
def test_a_trial_that_did_not_get_to_its_end_never_wins(end: dict[str, Any]) -> None:
    search = ComparisonSearch(make_plan())
    for number in range(CANDIDATES):
        search.suggest(f"t{number}")
    for number in range(1, CANDIDATES):
        search.on_trial_complete(f"t{number}", finished(1.0 + number))
    search.on_trial_complete("t0", **end)
    search.on_trial_complete("t0", finished(0.1))  # a second completion changes nothing
    config = search.suggest("next")
    assert isinstance(config, dict)
    assert config["arm"] == "adam" and config["params"] == make_plan().candidate(3)["params"]


@pytest.mark.parametrize("ended", range(0, TOTAL, 4))
def test_a_restored_search_goes_on_as_if_it_had_not_been_interrupted(
    ended: int, tmp_path: Path
) -> None:
    straight = ComparisonSearch(make_plan())
    for number in range(ended):
        config = straight.suggest(f"t{number}")
        assert isinstance(config, dict)
        straight.on_trial_complete(f"t{number}", finished(loss_of(config)))
    pending = straight.suggest("pending")
    straight.save(str(tmp_path / "searcher.pkl"))
    restored = pickle.loads(pickle.dumps(ComparisonSearch(make_plan())))
    restored.restore(str(tmp_path / "searcher.pkl"))
    assert restored.suggest("pending") == pending
    for search in (straight, restored):
        search.on_trial_complete("pending", finished(0.0))
    assert run(restored, workers=3) == run(straight)


def test_tunes_limiter_takes_the_search_to_its_end() -> None:
    limited = ConcurrencyLimiter(ComparisonSearch(make_plan()), max_concurrent=2)
    assert sorted(run(limited, workers=4, last=True)) == list(range(TOTAL))


def test_points_are_plain_values() -> None:
    values: list[Value] = [
        value
        for points in make_plan("qmc").points.values()
        for p in points
        for value in p.values()
    ]
    assert not any(isinstance(value, np.generic) for value in values)
