"""Reads runs, metric histories and artifacts from MLflow."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foldrace.errors import InputError, StateError
from foldrace.search.recording.schema import SPEC_FILE, Level, Tag, having
from foldrace.trainables.tasks.objective import MAXIMIZE, Objective
from foldrace.trainables.tasks.parameters import Parameter, Value

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

__all__ = [
    "artifact",
    "artifact_arrays",
    "artifact_names",
    "metric_points",
    "parameter_values",
    "recorded_objective",
    "runs_of",
    "search_runs",
    "spec_text",
]

_PAGE = 5000  # runs that are asked for at once
_AT_ONCE = 8  # requests side by side


def search_runs(
    client: MlflowClient, condition: str, experiments: Sequence[str] | None = None
) -> Iterator[Run]:
    """Every run that meets the condition, the earliest first, page by page.

    Args:
        condition: in MLflow's filter language, see `foldrace.search.recording.schema.having`.
        experiments: ids; None: all experiments.
    """
    if experiments is None:
        experiments = [found.experiment_id for found in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(
            experiments,
            condition,
            max_results=_PAGE,
            order_by=["attributes.start_time"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def runs_of(
    client: MlflowClient, sweep: Run, level: Level | None = None, trial: int | None = None
) -> list[Run]:
    """The runs below a sweep's run, the earliest first.

    Args:
        level: runs of this level only; None: of all levels, the sweep's own run included.
        trial: runs of this trial only.
    """
    wanted = {"sweep_key": sweep.data.tags[Tag.SWEEP_KEY], "level": level, "trial": trial}
    condition = having(**{name: value for name, value in wanted.items() if value is not None})
    return list(search_runs(client, condition))


def metric_points(
    client: MlflowClient, run_ids: Iterable[str], metrics: Sequence[str]
) -> dict[tuple[str, str], Sequence[Metric]]:
    """By (run id, metric): every recorded point.

    MLflow answers for one metric of one run at a time, so several requests run side by side.
    """
    wanted = [(run_id, name) for run_id in dict.fromkeys(run_ids) for name in metrics]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda ask: client.get_metric_history(*ask), wanted)
        return dict(zip(wanted, answers, strict=True))


def parameter_values(
    texts: Mapping[str, str], declared: Mapping[str, Parameter]
) -> dict[str, Value]:
    """A trial's recorded parameters, which MLflow keeps as text, in their types.

    Raises:
        InputError: the task has no such parameter, or the parameter no such value.
    """
    values = {}
    for name, text in texts.items():
        field = f"space.{name}"
        if name not in declared:
            raise InputError(field, text, "the task has no such parameter")
        values[name] = declared[name].check(field, declared[name].read(text))
    return values


def artifact_names(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """The paths of a run's artifacts at the top, or in a folder; sorted."""
    return sorted(item.path for item in client.list_artifacts(run_id, folder))


def artifact(client: MlflowClient, run_id: str, path: str) -> bytes | None:
    """The content of an artifact; None if the run has none at that path."""
    above = str(PurePosixPath(path).parent)
    if path not in artifact_names(client, run_id, None if above == "." else above):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_bytes()


def artifact_arrays(client: MlflowClient, run_id: str, path: str) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` artifact by name; empty if the run has none at that path."""
    content = artifact(client, run_id, path)
    if content is None:
        return {}
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def spec_text(client: MlflowClient, sweep: Run) -> str:
    """The recorded sweep file.

    Raises:
        StateError: there is none.
    """
    content = artifact(client, sweep.info.run_id, SPEC_FILE)
    if content is None:
        raise StateError(f"{sweep.data.tags[Tag.SWEEP]}: its file, {SPEC_FILE}, is not recorded")
    return content.decode()


def recorded_objective(sweep: Run) -> Objective:
    """What the trials of a sweep are compared by; of an older record, a loss without a name."""
    tags = sweep.data.tags
    return Objective(tags.get(Tag.METRIC), tags.get(Tag.DIRECTION) == MAXIMIZE)
