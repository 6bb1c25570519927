"""The same search without Foldrace, as the documentation of Optuna and of Ray Tune would have it
written.

``python -m tests.benchmarks.search.rivals optuna|tune SPEC OUT [--seed N] [--data-dir DIR]`` runs
one and writes what happened when. Data, folds, training and space are those of the sweep file;
what is left out is all that the rivals do not have.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.sweep_spec import load_spec

__all__ = ["main"]

_WORKERS = 2


def optuna_alone(
    prepared: Prepared, seed: int, folder: Path
) -> list[tuple[float, int, float | None]]:
    """Full cross-validation of every trial, in two processes that share a study."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal = str(folder / "journal.log")
    optuna.create_study(study_name="rival", storage=_storage(journal))
    context = multiprocessing.get_context("spawn")
    with context.Pool(_WORKERS) as pool:
        parts = pool.starmap(
            _optimize, [(prepared, seed + number, journal) for number in range(_WORKERS)]
        )
    return [event for part in parts for event in part]


def _storage(journal: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(journal))


def _optimize(
    prepared: Prepared, seed: int, journal: str
) -> list[tuple[float, int, float | None]]:
    import optuna
    import torch

    from foldrace.search.preparing.work import make_work

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    work, events = make_work(prepared), []
    images = work.samples_on()

    def objective(trial: optuna.Trial) -> float:
        validation = work.cross_validation(prepared.space.suggest(trial), images)
        spent = 0
        while not validation.finished:
            report = validation.advance()
            done = report.finished and report.diverged is None
            events.append(
                (
                    time.time(),
                    report.fold_epochs - spent,
                    report.metrics["val_loss"] if done else None,
                )
            )
            spent = report.fold_epochs
        if report.diverged is not None:
            raise optuna.TrialPruned
        return report.metrics["val_loss"]

    study = optuna.load_study(
        study_name="rival",
        storage=_storage(journal),
        sampler=optuna.samplers.TPESampler(seed=seed),
    )
    last = optuna.study.MaxTrialsCallback(prepared.spec.search.trials, states=None)
    study.optimize(objective, callbacks=[last])
    return events


def plain_tune(
    prepared: Prepared, seed: int, folder: Path
) -> list[tuple[float, int, float | None]]:
    """Ray Tune with its OptunaSearch and its ASHAScheduler, and a loop over the folds inside the
    trial."""
    import os

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from foldrace.search.preparing.work import make_work

    ray.init(address="local", num_cpus=_WORKERS, include_dashboard=False, log_to_driver=False)
    epochs = prepared.spec.epochs
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_train, work=make_work(prepared)), {"cpu": 1}),
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=prepared.spec.search.trials,
            search_alg=OptunaSearch(
                partial(_suggest, prepared.space), metric="val_loss", mode="min", seed=seed
            ),
            scheduler=ASHAScheduler(max_t=epochs, grace_period=1, reduction_factor=3),
        ),
        run_config=tune.RunConfig(storage_path=str(folder), name="rival", verbose=0),
    )
    events: list[tuple[float, int, float | None]] = []
    for result in tuner.fit():
        history = result.metrics_dataframe
        rows = [] if history is None else history.to_dict("records")
        for row in rows:
            loss = (
                row["val_loss"]
                if row["fold_epochs"] == prepared.spec.folds.count * epochs
                else None
            )
            events.append((row["at"], row["new_fold_epochs"], loss))
    ray.shutdown()
    return events


def _suggest(space: SearchSpace, trial: Any) -> dict[str, Any]:
    return {"params": space.suggest(trial)}


def _train(config: Mapping[str, Any], work: Any) -> None:
    import torch
    from ray import tune

    torch.set_num_threads(1)
    validation = work.cross_validation(config["params"], work.samples_on())
    spent = 0
    while not validation.finished:
        report = validation.advance()
        if report.diverged is not None:
            raise RuntimeError(report.diverged)
        news = report.fold_epochs - spent
        spent = report.fold_epochs
        tune.report(
            {
                "val_loss": report.metrics["val_loss"],
                "fold_epochs": spent,
                "new_fold_epochs": news,
                "at": time.time(),
            }
        )


def main() -> None:
    """Runs one rival; writes a JSON list of [time since the epoch, fold-epochs trained, loss of a
    full evaluation]."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rival", choices=("optuna", "tune"))
    parser.add_argument("spec", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    asked = parser.parse_args()
    overrides = [*asked.set, "scheduler.kind=fifo", f"search.seed={asked.seed}"]
    prepared = prepare(load_spec(asked.spec, overrides), asked.data_dir)
    folder = asked.out.absolute().parent
    run = optuna_alone if asked.rival == "optuna" else plain_tune
    asked.out.write_text(
        json.dumps(sorted(run(prepared, asked.seed, folder), key=lambda event: event[0]))
    )


if __name__ == "__main__":
    main()
