"""How a run begins: the sweep's folder and state, its MLflow experiment, and its first record."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foldrace.errors import InputError, StateError
from foldrace.files import write_text_atomically
from foldrace.search.preparing.environment import describe_environment
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.preparing.resources import check_shared
from foldrace.search.recording.folder import (
    TUNE_FORMAT,
    SweepFolder,
    SweepState,
    create_sweep_folder,
)
from foldrace.search.recording.local_store import ARTIFACTS
from foldrace.search.recording.sweep_outbox import deliver_rest
from foldrace.search.recording.tracking import connect, unusable
from foldrace.search.recording.writer import MlflowWriter
from foldrace.search.spec.sweep_spec import SweepSpec

__all__ = ["FoundSweep", "NewSweep", "begin_record", "without_effect"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewSweep:
    """A sweep that starts: its folder, state and MLflow experiment are created."""

    prepared: Prepared
    root: Path
    uri: str

    def open(self, *, on_cluster: bool) -> tuple[SweepFolder, SweepState]:
        """Creates the sweep's folder and state.

        Raises:
            InputError: the folder cannot be created, or not all nodes of the cluster see it.
            StateError: the tracking store cannot be used.
        """
        prepared, spec = self.prepared, self.prepared.spec
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"cannot be created: {error.strerror}"
            raise InputError("--dir", str(self.root), reason) from error
        if on_cluster:
            check_shared(self.root)
        experiment = _experiment(spec.tracking.experiment or spec.name, self.root, self.uri)
        folder = create_sweep_folder(self.root, spec.name)
        if folder.name != spec.name:
            log.info("%s: the name is taken; this sweep is %s", spec.name, folder.name)
        write_text_atomically(folder.spec, spec.to_yaml())
        folder.keep_code(prepared.task.sources)
        state = SweepState(
            uuid.uuid4().hex,
            self.uri,
            experiment,
            dataset_digest=prepared.dataset.digest,
            spec=spec.to_yaml(),
            task_sources=dict(prepared.task.sources),
            tune_format=TUNE_FORMAT,
            name=folder.name,
            code=str(Path.cwd()),
            root=str(self.root.resolve()),
        )
        folder.write_state(state)
        return folder, state


@dataclass(frozen=True)
class FoundSweep:
    """A sweep that continues."""

    folder: SweepFolder
    state: SweepState

    def open(self, *, on_cluster: bool) -> tuple[SweepFolder, SweepState]:
        """The folder and state. Raises: InputError if not all nodes of the cluster see them."""
        if on_cluster:
            check_shared(self.folder.path)
        return self.folder, self.state


def _experiment(name: str, root: Path, uri: str) -> str:
    """The id of the MLflow experiment with this name, created if it is missing. Raises:
    StateError."""
    # A server chooses where its artifacts are. The local store keeps them beside itself, in a
    # folder whose name is safe.
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-") or "experiment"
    location = (root.resolve() / ARTIFACTS / safe).as_uri() if uri.startswith("sqlite:") else None
    try:
        client = connect(uri)
        known = client.get_experiment_by_name(name)
        if known is None:
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except Exception:
                known = client.get_experiment_by_name(name)  # another sweep has just created it
                if known is None:
                    raise
    except StateError:
        raise
    except Exception as error:  # MLflow's own errors, and those of the database below it
        raise unusable(uri, error) from error
    if known.lifecycle_stage != "active":
        raise StateError(
            f"{name}: this MLflow experiment is deleted; restore it, or set tracking.experiment"
        )
    return str(known.experiment_id)


def without_effect(spec: SweepSpec) -> Iterator[str]:
    """Notes on settings that have no effect, in whole or in part, or a bad one."""
    trials, points = spec.search.trials, len(spec.search.start_with)
    if points > trials:
        yield (
            f"search.start_with: of its {points} points the first {trials} are tried, since"
            f" search.trials is {trials}"
        )
    if not spec.resources.gpu:
        if spec.training.precision == "tf32":
            yield "training.precision: tf32 changes nothing without a GPU (resources.gpu is 0)"
        if spec.training.fused is True:
            yield (
                "training.fused: folds as one batched program are slower on a CPU than one after"
                " the other"
            )


def begin_record(
    writer: MlflowWriter, prepared: Prepared, folder: SweepFolder, state: SweepState
) -> None:
    """Delivers the events that an earlier session has left, and records what the sweep is.

    Raises:
        StateError: the tracking store cannot be used.
    """
    spec, text = prepared.spec, state.spec or folder.spec.read_text("utf-8")
    deliver_rest(folder, writer)
    try:
        environment, task = describe_environment(), prepared.task
        writer.start_sweep(
            text,
            environment,
            prepared.dataset,
            task.reference,
            spec.kind,
            task.digest,
            spec.search.objectives,
            prepared.objective,
        )
    except Exception as error:  # MLflow's own errors, and those of the database below it
        raise unusable(state.tracking_uri, error) from error
