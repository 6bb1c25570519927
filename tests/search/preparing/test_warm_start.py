"""What a sweep learns from an earlier one, and which earlier ones it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import RunTag
from optuna.trial import TrialState

from foldrace.errors import InputError, StateError
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.warm_start import read_warm_start, with_warm_start
from foldrace.search.recording.schema import Outcome
from foldrace.search.recording.tracking import connect
from foldrace.search.sampling.journal import open_journal
from foldrace.search.sampling.optuna_search import FoldSearch
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.tasks.loading import load_task
from foldrace.trainables.tasks.objective import Objective
from foldrace.trainables.training.splits import FoldPlan
from tests.helpers.recorded_sweeps import SPEC, Store, Trial, failed, many
from tests.search.recording.test_writer import dataset

WIDE = {**SPEC["space"], "weight_decay": {"uniform": [0.0, 0.1]}}


def prepared(root: Path, space: dict[str, Any] | None = None, **sections: Any) -> Prepared:
    """As `prepare` makes it, of the data that recorded sweeps have."""
    spec = parse_spec({**SPEC, "name": "next", "space": space or SPEC["space"], **sections}, root)
    task = load_task(spec.task)
    return Prepared(
        spec, task, dataset(), FoldPlan(10), SearchSpace.build(spec.space, task.declared), ()
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("sweeps"))
    store.record("ae", [*many(), failed()])
    store.record("ae-all-failed", [failed(), failed()])
    return store


def test_completed_trials_come_with_values_and_pruned_ones_with_curves(
    store: Store,
) -> None:
    warm = read_warm_start("ae", store.root, store.uri, prepared(store.root))
    recorded = many()
    assert str(warm) == "warm start from ae: 24 of 25 trials"
    assert len(warm.trials) == 24
    for number, (trial, known) in enumerate(zip(warm.trials, recorded, strict=True)):
        tunable = {name: value for name, value in known.params.items() if name != "latent_dim"}
        assert trial.params == tunable and trial.user_attrs == {"warm_start": f"ae/{number}"}
        means = {2 * epoch: sum(losses) / 2 for epoch, losses in enumerate(known.losses, 1)}
        completed = known.outcome is Outcome.COMPLETED
        assert trial.state is (TrialState.COMPLETE if completed else TrialState.PRUNED)
        assert trial.value == pytest.approx(means[max(means)])
        assert trial.intermediate_values == ({} if completed else pytest.approx(means))


def test_a_search_learns_from_them_numbers_its_own_from_zero_and_keeps_them_once(
    store: Store, tmp_path: Path
) -> None:
    asked = prepared(store.root)
    warm = read_warm_start("ae", store.root, store.uri, asked).trials

    def search(**options: Any) -> FoldSearch:
        return FoldSearch(asked.space, seed=1, **options)

    first = search(warm=warm, storage=open_journal(tmp_path / "optuna.log"))
    suggestion = first.suggest("a")
    assert isinstance(suggestion, dict) and suggestion["trial"] == 0
    assert suggestion == search(warm=warm).suggest("a") != search().suggest("a")
    again = search(warm=warm, storage=open_journal(tmp_path / "optuna.log"))
    assert len(again.study.trials) == 25 and again.suggest("a") == suggestion


LR = SPEC["space"]["lr"]


@pytest.mark.parametrize(
    ("space", "fitting"),
    [
        (WIDE, 24),  # what the earlier space had not, had its default
        (
            {**SPEC["space"], "lr": {"log": [1e-3, 1.0]}},
            sum(trial.params["lr"] >= 1e-3 for trial in many()),
        ),
        ({"optimizer": "adam", "lr": LR, "latent_dim": 16}, 12),
        ({"optimizer": {"choice": ["adam", "sgd"]}, "lr": LR, "latent_dim": 16}, 12),
        ({**SPEC["space"], "latent_dim": {"int": [2, 32]}}, 24),
    ],
    ids=["wider", "narrower", "one optimizer", "without momentum", "fixed then, tuned now"],
)
def test_points_that_the_new_space_cannot_give_are_left_out(
    store: Store, space: dict[str, Any], fitting: int
) -> None:
    warm = read_warm_start("ae", store.root, store.uri, prepared(store.root, space))
    assert len(warm.trials) == fitting > 0
    names = set(prepared(store.root, space).space.tunable)
    assert all(set(trial.params) <= names for trial in warm.trials)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "ea",
            {},
            (
                "search.warm_start: ea: there is no sweep of that name in the tracking store; did"
                " you mean 'ae'?"
            ),
        ),
        (
            "ae",
            {"task": "variational", "space": {"latent_dim": 2}},
            "task was autoencoder, and is variational here",
        ),
        ("ae", {"objective": "loss"}, "objective was mse, and is loss here"),
        (
            "ae",
            {"epochs": 4},
            "epochs was 3, and is 4 here; to try its best points all the same, put them into",
        ),
        ("ae", {"folds": {"splits": 4}}, "folds was kind: kfold, splits: 3"),
        ("ae", {"early_stopping": {"patience": 2}}, "early_stopping was"),
        (
            "ae",
            {"space": {"lr": {"log": [2.0, 3.0]}, "latent_dim": 16}},
            "none of its 25 trials fits this space; in ",
        ),
        (
            "ae",
            {"space": {**SPEC["space"], "latent_dim": 8}},
            "in the way of 24 is latent_dim (16: not in the space",
        ),
        (
            "ae-all-failed",
            {},
            "ae-all-failed: has no completed or pruned trial with every objective",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    store: Store, name: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError) as error:
        read_warm_start(name, store.root, store.uri, prepared(store.root, **changes))
    assert said in str(error.value) and error.value.field == "search.warm_start"


def test_other_images_are_refused(store: Store) -> None:
    asked = prepared(store.root, dataset={"name": "digits", "limit": 50})
    asked = replace(asked, dataset=replace(asked.dataset, digest="other"))
    with pytest.raises(InputError, match=r"it ran on other images \(dataset.limit was None\)"):
        read_warm_start("ae", store.root, store.uri, asked)


@pytest.mark.parametrize(
    ("scheduler", "given_up"), [({"kind": "fifo"}, True), ({"grace_epochs": 2}, False)]
)
def test_trials_pruned_at_other_rungs_are_left_out(
    store: Store, scheduler: dict[str, Any], given_up: bool
) -> None:
    warm = read_warm_start("ae", store.root, store.uri, prepared(store.root, scheduler=scheduler))
    states = {trial.state for trial in warm.trials}
    assert states == (
        {TrialState.COMPLETE, TrialState.PRUNED} if given_up else {TrialState.COMPLETE}
    )


def test_seeds_may_differ(store: Store) -> None:
    asked = prepared(store.root, folds={"seed": 5}, search={"seed": 9, "sampler": "random"})
    assert len(read_warm_start("ae", store.root, store.uri, asked).trials) == 24


def test_the_latest_of_several_sweeps_of_one_name_counts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = store.record(
        "ae", [Trial({"optimizer": "adam", "lr": 0.5, "latent_dim": 16}, [[1.0], [0.9], [0.8]])]
    )
    new = store.record(
        "ae-2", [Trial({"optimizer": "adam", "lr": 0.25, "latent_dim": 16}, [[1.0], [0.9], [0.8]])]
    )
    store.client.log_batch(new.info.run_id, tags=[RunTag("foldrace.sweep", "ae")])
    warm = read_warm_start("ae", store.root, store.uri, prepared(store.root))
    assert [trial.params["lr"] for trial in warm.trials] == [
        0.25
    ] and old.info.run_id != new.info.run_id


def test_a_missing_store_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none yet; leave the warm start out"):
        read_warm_start("ae", tmp_path, f"sqlite:///{tmp_path}/mlflow.db", prepared(tmp_path))
    assert not list(tmp_path.iterdir())
    (tmp_path / "mlflow.db").write_text("no database")
    with pytest.raises(StateError, match="the tracking store cannot be used"):
        read_warm_start("ae", tmp_path, f"sqlite:///{tmp_path}/mlflow.db", prepared(tmp_path))


def test_several_objectives_need_their_metrics(store: Store) -> None:
    asked = prepared(
        store.root, search={"objectives": ["val_loss", "seconds"]}, scheduler={"kind": "fifo"}
    )
    warm = read_warm_start("ae", store.root, store.uri, asked)
    assert {len(trial.values) for trial in warm.trials} == {2}
    assert all(trial.state is TrialState.COMPLETE for trial in warm.trials)
    asked = prepared(
        store.root, search={"objectives": ["val_loss", "parameters"]}, scheduler={"kind": "fifo"}
    )
    with pytest.raises(
        InputError, match="has no completed or pruned trial with every objective"
    ):  # recorded without the count of weights
        read_warm_start("ae", store.root, store.uri, asked)


def test_without_the_field_nothing_is_read(tmp_path: Path) -> None:
    asked = prepared(tmp_path)
    assert with_warm_start(asked, tmp_path, "sqlite:///nowhere/mlflow.db") is asked


def test_a_trial_whose_parameter_was_not_set_comes_with_it(store: Store) -> None:
    values: list[float | None] = [None, 1e-8, None]
    fixed = {"optimizer": "adam", "lr": 0.01, "latent_dim": 16}
    losses = [[0.3, 0.3], [0.2, 0.2], [0.1, 0.1]]
    store.record("unset", [Trial({**fixed, "eps": eps}, losses) for eps in values])
    space = {**fixed, "eps": {"choice": [None, 1e-8]}}
    warm = read_warm_start("unset", store.root, store.uri, prepared(store.root, space))
    assert [trial.params for trial in warm.trials] == [{"eps": eps} for eps in values]


def test_a_task_whose_code_has_changed_is_said(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run = store.record("by-older-code", many())
    asked = prepared(store.root)
    read_warm_start("by-older-code", store.root, store.uri, asked)
    assert not caplog.records
    store.client.set_tag(run.info.run_id, "foldrace.task_digest", "1")
    warm = read_warm_start("by-older-code", store.root, store.uri, asked)
    assert warm.trials and "the code of autoencoder has changed since by-older-code" in caplog.text


@pytest.mark.parametrize(("direction", "fits"), [("maximize", True), ("minimize", False)])
def test_the_direction_is_that_which_was_decided_not_that_which_stands_in_the_file(
    store: Store, direction: str, fits: bool
) -> None:
    """A metric that is better the higher it is may be maximised though no file says so."""
    store.record("by-f1", many())
    client = connect(store.uri)
    [run] = client.search_runs(
        [one.experiment_id for one in client.search_experiments()],
        "tags.`foldrace.sweep` = 'by-f1' and tags.`foldrace.level` = 'sweep'",
    )
    client.set_tag(run.info.run_id, "foldrace.metric", "f1")
    client.set_tag(run.info.run_id, "foldrace.direction", direction)
    asked = replace(prepared(store.root), objective=Objective("f1", maximize=True))
    if fits:
        assert len(read_warm_start("by-f1", store.root, store.uri, asked).trials) == 24
    else:
        with pytest.raises(InputError, match="objective was f1, and is f1, maximize here"):
            read_warm_start("by-f1", store.root, store.uri, asked)
