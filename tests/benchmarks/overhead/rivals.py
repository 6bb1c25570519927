"""Trials that do nothing under plain Ray Tune with Optuna, ASHA and MLflow, as documented.

``python -m tests.benchmarks.overhead.rivals plain|reuse TRIALS DIR`` runs them: with a function
that reports, a new worker process for every trial; or with a class whose workers are reused.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from tests.benchmarks.nothing import loss_of

__all__ = ["main"]

_WORKERS, _EPOCHS = 2, 9


def _loss(config: Mapping[str, Any], epoch: int) -> dict[str, float]:
    return {"val_loss": loss_of(config["lr"], config["shape"]) + 1e-3 / epoch}


def train(config: Mapping[str, Any]) -> None:
    """A trial of nine epochs."""
    for epoch in range(1, _EPOCHS + 1):
        tune.report(_loss(config, epoch))


class Reused(tune.Trainable):  # type: ignore[misc]
    """The same as a class, whose worker process can take the next trial."""

    def setup(self, config: dict[str, Any]) -> None:
        self.current, self.epoch = config, 0

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.current, self.epoch = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        return {**_loss(self.current, self.epoch), "done": self.epoch == _EPOCHS}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "epoch").write_text(str(self.epoch))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.epoch = int((Path(checkpoint) / "epoch").read_text())


def run(reuse: bool, trials: int, folder: Path) -> None:
    """All trials, recorded in a SQLite MLflow in ``folder``."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    import ray
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    ray.init(address="local", num_cpus=_WORKERS, include_dashboard=False, log_to_driver=False)
    space = {
        "lr": tune.loguniform(1e-4, 1.0),
        "shape": tune.uniform(0, 1),
        "batch_size": tune.choice([8, 16, 32]),
    }
    callback = MLflowLoggerCallback(
        tracking_uri=f"sqlite:///{folder.absolute()}/mlflow.db",
        experiment_name="nothing",
        save_artifact=False,
    )
    tuner = tune.Tuner(
        tune.with_resources(Reused if reuse else train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            num_samples=trials,
            search_alg=OptunaSearch(seed=0),
            reuse_actors=reuse,
            scheduler=ASHAScheduler(max_t=_EPOCHS, grace_period=1, reduction_factor=3),
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder.absolute()), name="rival", callbacks=[callback], verbose=0
        ),
    )
    results = tuner.fit()
    assert len(results) == trials and not results.num_errors
    ray.shutdown()


def main() -> None:
    """Runs one rival."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=("plain", "reuse"))
    parser.add_argument("trials", type=int)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    run(asked.side == "reuse", asked.trials, asked.folder)


if __name__ == "__main__":
    main()
