"""Opens a recorded sweep: the one way to compute with what an earlier command has begun.

A sweep's numbers belong to its sweep file, its task and its data. Whoever trains or evaluates
under a sweep's name opens it here, where a file, a task or data other than the recorded ones are
refused. Commands that only show a sweep read its record instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from foldrace.errors import StateError, first_line
from foldrace.search.preparing.prepare import prepare
from foldrace.search.preparing.prepared import Prepared
from foldrace.search.recording.folder import SweepFolder, SweepState
from foldrace.search.recording.reader import spec_text
from foldrace.search.recording.runs import Runs
from foldrace.search.recording.tracking import check_tracking, connect
from foldrace.search.spec.sweep_spec import SweepSpec, load_spec, parse_spec
from foldrace.search.spec.yaml_files import read_yaml
from foldrace.trainables.tasks.loading import LoadedTask, load_task
from foldrace.trainables.user_code import add_folder, place_and_name
from foldrace.trainables.user_sources import same_code

__all__ = ["RecordedSweep", "open_recorded", "recorded_spec"]

_MISSING = object()
_SHOWN = 5


@dataclass(frozen=True)
class RecordedSweep:
    """A sweep whose file is the recorded one. Made by `open_recorded`.

    Attributes:
        spec: the recorded sweep file.
    """

    folder: SweepFolder
    state: SweepState
    spec: SweepSpec

    def prepare(
        self, data_dir: Path, *, local: bool = False, spec: SweepSpec | None = None
    ) -> Prepared:
        """As `foldrace.search.preparing.prepare.prepare`, with the recorded task and data.

        Args:
            local: trials are about to run on this node. What only computes here, such as a refit,
                needs no room for a trial.
            spec: the sweep's file as an extension changes it; None: as it is recorded.

        Raises:
            StateError: the task's code or the data differ from the recorded ones.
            InputError: as `foldrace.search.preparing.prepare.prepare`.
        """
        spec = spec or self.spec
        if self.state.code:
            add_folder(Path(self.state.code))
        task = load_task(spec.task, spec.metrics)
        _check_task(self.state, task, self.folder)
        prepared = prepare(spec, data_dir, local=local, task=task)
        dataset = prepared.dataset
        if dataset.digest != self.state.dataset_digest:
            raise StateError(
                f"{dataset.name}: not the data that {self.folder.name} ran on (its digest"
                " differs); put them back, or start a new sweep"
            )
        return prepared


def open_recorded(folder: SweepFolder) -> RecordedSweep:
    """Opens a sweep for a command that computes with it; reads neither task nor data yet.

    Where its files lie may change, as their content is compared: they are looked for beside the
    folder of sweeps, if that was moved or copied with them, and where ``sweep.yaml`` says.

    Raises:
        StateError: the sweep's ``sweep.yaml`` differs from the recorded one in a value, or there
            is no record.
        InputError: ``sweep.yaml`` is not a valid sweep file.
    """
    state = folder.read_state()
    moved = partial(_beside, state.root, folder.root.resolve())
    recorded, now = (
        _with_references(spec, moved)
        for spec in (recorded_spec(folder, state), load_spec(folder.spec))
    )
    before, here = (list(spec.references.values()) for spec in (recorded, now))
    if list(map(_last, before)) == list(map(_last, here)):
        places = dict(zip(before, here, strict=True))
        recorded = _with_references(recorded, lambda reference: places[reference])
    changes = list(_changes(recorded.model_dump(by_alias=True), now.model_dump(by_alias=True)))
    if changes:
        more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        raise StateError(
            f"{folder.name}: its sweep.yaml was changed since it began:"
            f" {'; '.join(changes[:_SHOWN])}{more}; change {folder.spec} back, or start a new"
            " sweep with it"
        )
    return RecordedSweep(folder, state, recorded)


def _with_references(spec: SweepSpec, change: Callable[[str], str]) -> SweepSpec:
    dataset = spec.dataset.model_copy(update={"name": change(spec.dataset.name)})
    metrics = tuple(map(change, spec.metrics))
    changed = {"task": change(spec.task), "dataset": dataset, "metrics": metrics}
    return spec.model_copy(update=changed)


def _beside(before: str, root: Path, reference: str) -> str:
    """A reference to a file, or to the same one as seen from where the folder of sweeps is now."""
    where, name = place_and_name(reference)
    if not before or Path(before) == root or not Path(where).is_absolute():
        return reference
    found = Path(os.path.normpath(root / os.path.relpath(where, before)))
    return f"{found}{name}" if found.exists() else reference


def _last(reference: str) -> str:
    """The end of a reference to a file, which stays where that is moved."""
    return Path(reference).name if Path(reference).is_absolute() else reference


def recorded_spec(folder: SweepFolder, state: SweepState) -> SweepSpec:
    """The sweep's file as it was recorded, whatever stands in its ``sweep.yaml`` now.

    A record of an earlier version that has no copy of the file is looked for in MLflow.

    Raises:
        StateError: it is not recorded, or the tracking store does not answer.
        InputError: this version cannot read it.
    """
    text = state.spec
    if not text:
        text = _text_in_mlflow(folder, state)
    return parse_spec(read_yaml(text, f"{folder.name}'s recorded sweep file"), folder.path)


def _text_in_mlflow(folder: SweepFolder, state: SweepState) -> str:
    uri = state.tracking_uri
    check_tracking(uri)
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).is_file():  # connecting would create it
        raise StateError(f"{folder.name}: its tracking store, {uri}, is missing")
    try:
        client = connect(uri)
        run = Runs(client, state.experiment_id, folder.name, state.key).find(())
        if run is None:
            raise StateError(f"{folder.name}: it has no run in {uri}")
        return spec_text(client, run)
    except StateError:
        raise
    except Exception as error:  # MLflow's errors, and those of the store below it
        raise StateError(
            f"{uri}: the tracking store cannot be read: {first_line(error)}"
        ) from error


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """What differs between two trees: ``search.trials was 20 and is 40``."""
    for name in dict.fromkeys((*before, *now)):
        was, here = before.get(name, _MISSING), now.get(name, _MISSING)
        if isinstance(was, Mapping) and isinstance(here, Mapping):
            yield from _changes(was, here, f"{above}{name}.")
        elif repr(was) != repr(here):
            was, here = ("missing" if each is _MISSING else each for each in (was, here))
            yield f"{above}{name} was {was} and is {here}"


def _check_task(state: SweepState, task: LoadedTask, folder: SweepFolder) -> None:
    """Refuses a task whose code has changed. Raises: StateError."""
    recorded, here = state.task_sources, task.sources
    if recorded:
        changed = [
            name
            for name in sorted({*recorded, *here})
            if name not in recorded
            or name not in here
            or not same_code(recorded[name], here[name])
        ]
    else:  # a built-in task, or the record of an earlier version: the digest of one file, or none
        digests = {hashlib.sha256(text.encode()).hexdigest() for text in here.values()}
        known = state.task_digest in (digests or {""}) or not state.spec
        changed = [] if known else list(here)[:1]
    if changed:
        kept = f" ({folder.code} has it as it was)" if folder.code.is_dir() else ""
        raise StateError(
            f"{task.reference}: its code has changed since {folder.name} began:"
            f" {', '.join(changed[:_SHOWN])}; change it back{kept}, or start a new sweep"
        )
