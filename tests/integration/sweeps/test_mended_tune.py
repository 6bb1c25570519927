"""A worker that dies while it is kept for the next trial costs no trial; and no statistics of
metrics are kept."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.cloudpickle
from ray import tune
from ray.tune.experiment import Trial

from foldrace.search.tune.patches import patch_tune


class Brief(tune.Trainable):  # type: ignore[misc]
    """One step, and nothing to reset."""

    def step(self) -> dict[str, Any]:
        return {"value": self.config["number"], "worker": os.getpid(), "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to keep."""


class KillsTheFirst(tune.Callback):  # type: ignore[misc]
    """kill -9 of the first trial's worker, which Tune has just put aside for the second."""

    killed = 0

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        if not self.killed:
            self.killed = trial.last_result["worker"]
            os.kill(self.killed, signal.SIGKILL)
            while psutil.pid_exists(self.killed):
                time.sleep(0.01)


def test_a_trial_that_is_given_a_dead_worker_is_tried_again(cluster: Any, tmp_path: Path) -> None:
    patch_tune()
    callback = KillsTheFirst()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        results = tune.Tuner(
            Brief,
            param_space={"number": tune.grid_search([0, 1, 2])},
            tune_config=tune.TuneConfig(
                reuse_actors=True, max_concurrent_trials=1, metric="value", mode="min"
            ),
            run_config=tune.RunConfig(
                storage_path=str(tmp_path),
                callbacks=[callback],
                failure_config=tune.FailureConfig(max_failures=1),
                verbose=0,
            ),
        ).fit()
    finally:
        ray.shutdown()
    assert callback.killed and not results.errors
    assert [result.metrics["value"] for result in results] == [0, 1, 2]
    assert callback.killed not in [result.metrics["worker"] for result in results][1:]


def test_of_a_trials_metrics_the_last_are_kept_and_no_statistics() -> None:
    patch_tune()
    trial = Trial("none", stub=True)
    for step in (1, 2):
        trial.update_last_result({"value": float(step), "training_iteration": step})
        assert (
            f'"value": {step}.0' in trial.get_json_state()[1]
        )  # what a snapshot holds is not that of the step before
    assert trial.last_result["value"] == 2.0
    assert not trial.metric_analysis and not trial.metric_n_steps
