"""All that is patched or used of Ray's internals, and a check that it is there.

Ray may rename or change an internal in any release. `check_ray` finds that out before a sweep
starts; without it snapshots would silently stop, or memory grow.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import Any

from foldrace.errors import StateError

__all__ = [
    "SEARCHER_STATE",
    "SEARCH_STATE",
    "TRIALS_STATE",
    "TUNER_FILE",
    "TUNE_VARIABLES",
    "check_ray",
    "forget_token",
    "in_own_sessions",
    "patch_tune",
    "staging_in",
    "use_started_workers",
]

TUNER_FILE = "tuner.pkl"
"""The file in an experiment's folder with the pickled trainable, searcher and scheduler."""

TRIALS_STATE, SEARCH_STATE, SEARCHER_STATE = (
    "experiment_state-{}.json",
    "search_gen_state-{}.json",
    "searcher-state-{}.pkl",
)
"""What Tune writes of the trials, of its side of the searcher, and of the searcher; ``{}`` is the
session's time."""

TUNE_VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # a diverged trial reports no val_loss, so that nothing compares it
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # `foldrace.search.tune.interrupts` handles SIGINT, and asks Tune to stop by SIGUSR1
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # errors are recorded, and shown by the view
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Environment variables of Tune that a sweep sets, unless the user has set them."""

_CONTROLLER = "ray.tune.execution.tune_controller:TuneController"
_SIGNATURES = {
    f"{_CONTROLLER}._process_trial_failure": ("self", "trial", "exception"),
    f"{_CONTROLLER}._set_trial_status": ("self", "trial", "status"),
    f"{_CONTROLLER}.stop_trial": ("self", "trial"),
    f"{_CONTROLLER}.add_trial": ("self", "trial"),
    "ray.tune.experiment:Trial.set_storage": ("self", "new_storage"),
    "ray.tune.experiment:Trial.set_status": ("self", "status"),
    "ray.tune.trainable.metadata:_TrainingRunMetadata.update_metric": (
        "self",
        "metric",
        "value",
        "step",
    ),
    "ray._private.state:state.get_cluster_config": (),
    "ray._private.state:state.get_draining_nodes": (),
}
_VALUES = {
    "ray.tune.impl.tuner_internal:_TUNER_PKL": TUNER_FILE,
    f"{_CONTROLLER}.CKPT_FILE_TMPL": TRIALS_STATE,
    "ray.tune.search.search_generator:SearchGenerator.CKPT_FILE_TMPL": SEARCH_STATE,
    "ray.tune.search:Searcher.CKPT_FILE_TMPL": SEARCHER_STATE,
}
_TOKEN_LOADER = "ray._raylet:AuthenticationTokenLoader.instance"
_THERE = (
    f"{_CONTROLLER}.search_alg",
    "ray.tune.experiment:Trial.error_file",
    "ray.tune.experiment:Trial.last_result",
    "ray.tune.execution.class_cache:DEFAULT_ENV_VARS.clear",
    "ray.train._internal.storage:StorageContext.experiment_driver_staging_path",
    _TOKEN_LOADER,
    "ray._private.services:ConsolePopen",
    "ray._raylet:AuthenticationTokenLoader.reset_cache",
)
# where an experiment is
_PLACE = ("storage_filesystem", "storage_fs_path", "experiment_dir_name")
# attributes that a constructor sets
_SET = {
    f"{_CONTROLLER}.__init__": ("_resetting_trials", "_storage"),
    "ray.train._internal.storage:StorageContext.__init__": _PLACE,
    "ray.tune.search.optuna:OptunaSearch.__init__": ("_ot_study", "_storage"),
    "ray.tune.trainable.metadata:_TrainingRunMetadata.__init__": ("num_failures",),
    "ray.exceptions:RayActorError.__init__": ("_preempted",),
}


def check_ray() -> None:
    """Checks that the installed Ray has all internals that are used here, as they are used.

    Raises:
        StateError: one is missing or has changed; the message names it, and Ray's version.
    """
    wrong = list(_differences())
    if wrong:
        import ray

        raise StateError(
            f"Ray {ray.__version__} differs from the Ray that foldrace was made for:"
            f" {'; '.join(wrong)}; install a version that pyproject.toml allows"
        )


def _differences() -> Iterator[str]:
    for path, parameters in _SIGNATURES.items():
        found = _find(path)
        if found is None:
            yield f"{path} is missing"
        elif tuple(inspect.signature(found).parameters) != parameters:
            yield f"{path} takes other arguments than {parameters}"
    for path, value in _VALUES.items():
        if (found := _find(path)) != value:
            yield f"{path} is {found!r}, not {value!r}"
    yield from (f"{path} is missing" for path in _THERE if _find(path) is None)
    for path, names in _SET.items():
        found = _find(path)
        set_there = found.__code__.co_names if found is not None else ()
        yield from (f"{path} sets no {name}" for name in names if name not in set_there)
    known = _find("ray.tune.constants:TUNE_ENV_VARS") or ()
    for name in (*TUNE_VARIABLES, "TUNE_MAX_PENDING_TRIALS_PG"):
        if name not in known:
            yield f"the environment variable {name} is unknown"


def _find(path: str) -> Any:
    """The object at ``module:name.name``; None if it is missing."""
    module, _, names = path.partition(":")
    try:
        return reduce(getattr, names.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return None


def patch_tune() -> None:
    """Patches Tune in three places; calling it again changes nothing.

    Tune retries a trial whose worker died while it was kept for the next trial. Ray 2.60 reports
    such a death twice, as that of the actor and of the task that resets it. After the first report
    Tune puts the trial back into its queue, as it should; at the second it finds the trial there
    and fails it for good, whatever ``max_failures`` is.

    Tune does not count the loss of a machine that Ray had notice of. Ray knows that only once it
    has noticed the loss, and the trial may see its connection break before. So a trial whose last
    result spoke of the notice does not count either.

    Tune keeps no statistics of a trial's metrics. They are the means of each metric's last five
    and ten values and its extremes: half of what a trial takes in the driver's memory and in each
    snapshot. Only `tune.ResultGrid.get_best_result` with a ``scope`` other than the last result
    reads them.

    Tune gives a new trial of a restored experiment the place at which the experiment began. If its
    folder was moved or copied since, the trial would write its checkpoints there.
    """
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.trainable.metadata import _TrainingRunMetadata

    process = TuneController._process_trial_failure
    if not hasattr(process, "patched"):
        TuneController._process_trial_failure = _counting_what_counts(process)
    add = TuneController.add_trial
    if not hasattr(add, "patched"):
        TuneController.add_trial = _where_the_experiment_is(add)
    _TrainingRunMetadata.update_metric = _keep_no_statistics


def _counting_what_counts(process: Callable[[Any, Any, Exception], None]) -> Any:
    from ray.exceptions import RayActorError
    from ray.tune.experiment import Trial

    from foldrace.trainables.ray.trainable import NOTICE

    def process_trial_failure(self: Any, trial: Trial, exception: Exception) -> None:
        resetting = trial in self._resetting_trials and trial.status != Trial.RUNNING
        if resetting and isinstance(exception, RayActorError):
            self._resetting_trials.discard(trial)
        else:
            if isinstance(exception, RayActorError) and (trial.last_result or {}).get(NOTICE):
                exception._preempted = True
            process(self, trial, exception)

    process_trial_failure.__dict__["patched"] = process
    return process_trial_failure


def _where_the_experiment_is(add: Callable[[Any, Any], None]) -> Any:
    def add_trial(self: Any, trial: Any) -> None:
        if trial.storage.storage_fs_path != self._storage.storage_fs_path:
            storage = copy.copy(trial.storage)
            for name in _PLACE:
                setattr(storage, name, getattr(self._storage, name))
            trial.set_storage(storage)
        add(self, trial)

    add_trial.__dict__["patched"] = add
    return add_trial


def _keep_no_statistics(self: Any, metric: str, value: float, step: int | None = 1) -> None:
    """Replaces the method that adds a metric's value to its statistics."""


def use_started_workers() -> None:
    """Lets trials run in worker processes that Ray has started already.

    Tune asks for processes with a variable for Lightning in their environment, which those do not
    have.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()


@contextmanager
def staging_in(folder: Path) -> Iterator[None]:
    """Within this block, Tune writes its state into a folder before it copies it to storage.

    Tune would write it into Ray's session folder, to which everybody can write. A resume unpickles
    that state.
    """
    from ray.train._internal.storage import StorageContext

    before = StorageContext.experiment_driver_staging_path
    StorageContext.experiment_driver_staging_path = property(
        lambda self: Path(folder, self.experiment_dir_name).as_posix()
    )
    try:
        yield
    finally:
        StorageContext.experiment_driver_staging_path = before


@contextmanager
def in_own_sessions() -> Iterator[None]:
    """Within this block, each of Ray's processes starts in a session of its own.

    A signal to the process group (`timeout`, a shell that ends, a scheduler's SIGTERM) would end
    them before a sweep can save its state. They still die with the process that starts them.
    """
    from ray._private import services

    before = services.ConsolePopen
    services.ConsolePopen = partial(before, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = before


def forget_token() -> None:
    """Lets Ray read its access token again when it next needs one."""
    _find(_TOKEN_LOADER)().reset_cache()
