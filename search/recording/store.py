"""Where sweeps live: a folder with one MLflow store and a folder a sweep, or a tracking server."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from foldrace.errors import InputError, StateError, nearest
from foldrace.files import write_text_atomically

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before anything imports MLflow

__all__ = [
    "SweepFolder",
    "SweepState",
    "check_root",
    "check_tracking",
    "connect",
    "create_sweep_folder",
    "find_sweep",
    "import_store_meanwhile",
    "sweep_names",
    "tracking_uri",
]

_STORE = "mlflow.db"
_SPEC = "sweep.yaml"
ARTIFACTS = "artifacts"
_URI = re.compile(
    r"(https?|sqlite|postgresql(\+\w+)?|mysql(\+\w+)?|mssql(\+\w+)?)://.|databricks(://.*)?$"
)
_RESERVED = (_STORE, ARTIFACTS)


@dataclass(frozen=True)
class SweepState:
    """What a sweep needs to find its record again.

    Attributes:
        key: the sweep's, unique among all sweeps; its runs are looked up by it.
        seconds: spent so far, all sessions together.
        dataset_digest: of the data that it runs on.
        spec: the sweep's file as it was when the sweep began, every default written out.
        task_digest: of the user's file that the task comes from; none for a task that is built in.
    """

    key: str
    tracking_uri: str
    experiment_id: str
    seconds: float = 0.0
    dataset_digest: str = ""
    spec: str = ""
    task_digest: str = ""

    def check_spec(self, spec: str, sweep: str) -> None:
        """Refuses another file than the sweep began with (written out as that one). Raises:
        StateError."""
        before, now = (_flat(yaml.safe_load(text) or {}) for text in (self.spec or spec, spec))
        changed = [
            f"{name} was {before.get(name, 'not there')} and is {now.get(name, 'not there')}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name, _NOT_THERE) != now.get(name, _NOT_THERE)
        ]
        if changed:
            what = "; ".join(changed[:5]) + (
                f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
            )
            raise StateError(
                f"{sweep}: its sweep.yaml was changed since it began: {what}. Change it back"
            )

    def check_task(self, reference: str, digest: str, sweep: str) -> None:
        """Refuses a task whose file has changed. Raises: StateError."""
        if self.spec and digest != self.task_digest:
            raise StateError(
                f"{reference}: its file has changed since {sweep} began; change it back, or begin"
                " anew"
            )

    def check_data(self, name: str, digest: str, sweep: str) -> None:
        """Refuses other data than the sweep ran on. Raises: StateError."""
        if digest != self.dataset_digest:
            raise StateError(f"{name}: not the data that {sweep} ran on (its digest differs)")


_NOT_THERE = object()


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """``{"search.trials": 20, …}``: what is below each name, down to what is no mapping."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        place = f"{above}{name}"
        flat |= _flat(value, f"{place}.") if isinstance(value, dict) and value else {place: value}
    return flat


@dataclass(frozen=True)
class SweepFolder:
    """One sweep's folder below the folder of all sweeps (``--dir``)."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def spec(self) -> Path:
        """The sweep's own copy of its file."""
        return self.path / _SPEC

    @property
    def tune(self) -> Path:
        """Ray Tune's state and the trials' checkpoints."""
        return self.path / "tune"

    @property
    def optuna(self) -> Path:
        """The journal of the sweep's Optuna study."""
        return self.path / "optuna.log"

    def extension(self, epochs: int) -> Path:
        """The same of the trials that were trained on to so many epochs."""
        return self.path / f"tune-{epochs}"

    def checkpoint(self, trial: int, file: str, epochs: int) -> Path | None:
        """The folder of a trial's newest checkpoint that holds ``file``, of the sweep or of an
        extension to at most ``epochs``; None if there is none."""
        longer = {int(path.name.removeprefix("tune-")): path for path in self.path.glob("tune-*")}
        places = [self.tune, *(longer[reached] for reached in sorted(longer) if reached <= epochs)]
        for place in reversed(places):
            found = sorted(place.glob(f"trial-{trial:04d}/checkpoint_*/{file}"))
            if found:
                return found[-1].parent
        return None

    @property
    def winner(self) -> Path:
        """The winner's models, a folder a fold."""
        return self.path / "winner"

    def check_private(self) -> None:
        """Refuses a folder that another user can write to: going on with a sweep loads pickles
        from it, and who writes a pickle runs what he likes. Raises: StateError."""
        there = self.path.stat()
        if there.st_uid != os.getuid():
            remedy = f"`chown {os.getuid()} {self.path}`, if you trust what is in it"
            raise StateError(
                f"{self.name}: {self.path} belongs to another user (uid {there.st_uid}); {remedy}"
            )
        if there.st_mode & 0o022:
            raise StateError(
                f"{self.name}: others can write to {self.path}, so it is not trusted; `chmod"
                " go-w` it"
            )

    @property
    def _lock(self) -> Path:
        return self.path / "lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within this block no other process drives this sweep. Raises: StateError if one does."""
        with self._lock.open("w") as file:
            for patience in (
                0.05,
                0.2,
                None,
            ):  # who looks whether it is driven holds it for a moment
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if patience is None:
                        raise StateError(
                            f"{self.name}: another process is running this sweep"
                        ) from error
                    time.sleep(patience)
            yield

    @property
    def abandoned(self) -> bool:
        """Whether the sweep was begun here and no process of this machine drives it now."""
        try:
            with self._lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:  # there is none, or it is held
            return False
        return True

    def write_state(self, state: SweepState) -> None:
        """Replaces the sweep's state, whole or not at all."""
        write_text_atomically(self.path / "state.json", json.dumps(asdict(state)))

    def read_state(self) -> SweepState:
        """The sweep's state. Raises: StateError if it was never written or cannot be read."""
        try:
            state = SweepState(**json.loads((self.path / "state.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise StateError(
                f"{self.name}: its state.json cannot be read, so it cannot go on: {error}"
            ) from error
        for field in fields(state):
            if type(getattr(state, field.name)).__name__ != field.type:
                raise StateError(
                    f"{self.name}: its state.json is damaged: {field.name} is not a {field.type}"
                )
        return state

    def read_result(self) -> dict[str, Any]:
        """The sweep's result, as ``--json`` prints it. Raises: StateError if it has not ended or
        cannot be read."""
        if not self.result.is_file():
            raise StateError(f"{self.name}: the sweep has not ended, so there is no result yet")
        try:
            result: dict[str, Any] = json.loads(self.result.read_text())
            if not {"tracking_uri", "run_id", "best", "trials"} <= set(result):
                raise ValueError("it is not a sweep's result")
        except (OSError, ValueError, TypeError) as error:
            raise StateError(f"{self.name}: its result.json cannot be read: {error}") from error
        return result

    @property
    def result(self) -> Path:
        """The sweep's result as JSON, once it has ended."""
        return self.path / "result.json"


def tracking_uri(root: Path, uri: str | None = None) -> str:
    """The given server, else MLFLOW_TRACKING_URI, else the SQLite store in ``root``."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(root / _STORE).resolve()}"


def connect(uri: str) -> MlflowClient:
    """A client of the store, with MLflow's chatter off and its retries few."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store").setLevel(
        logging.CRITICAL
    )  # it shows what it also raises, with a traceback
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def import_store_meanwhile(uri: str) -> None:
    """Imports, in a thread, what `connect` and the first use of a client of that store will
    import: seconds of it."""
    kind = "rest_store" if uri.startswith(("http://", "https://")) else "sqlalchemy_store"
    name = f"mlflow.store.tracking.{kind}"
    threading.Thread(
        target=importlib.import_module, args=(name,), name="import MLflow", daemon=True
    ).start()


def check_root(root: Path) -> None:
    """Refuses a folder of sweeps that cannot be made or written to; makes nothing. Raises:
    InputError."""
    try:
        if set("?#%") & set(str(root.resolve())):
            raise InputError(
                "--dir", str(root), "must not hold ?, # or %, which the store's address cannot"
            )
        there = next(path for path in (root.resolve(), *root.resolve().parents) if path.exists())
    except OSError as error:
        raise InputError(
            "--dir", str(root), f"is no folder that can be used: {error.strerror}"
        ) from error
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "is not writable" if there.is_dir() else "is a file"
        raise InputError("--dir", str(root), f"{there} {what}", "choose another folder")


def check_tracking(uri: str) -> None:
    """Refuses an address that is none of MLflow's, and a tracking server that does not answer.

    Raises:
        InputError, StateError: respectively.
    """
    if not _URI.match(uri):
        raise InputError(
            "tracking.uri",
            uri,
            "must be http://…, https://…, sqlite:///…, postgresql://… or databricks",
        )
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            pass
    except urllib.error.HTTPError:
        pass  # something answers; what it allows shows when it is used
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StateError(
            f"tracking.uri: {uri}: the MLflow server does not answer ({reason}); start it, or"
            " leave the URI out"
        ) from error


def create_sweep_folder(root: Path, name: str) -> SweepFolder:
    """A new folder for a sweep: ``name``, or ``name-2``, ``name-3``, … if there have been sweeps
    of that name."""
    root.mkdir(parents=True, exist_ok=True)
    number = 2 if name in _RESERVED else 1
    while True:
        folder = SweepFolder(root.resolve(), name if number == 1 else f"{name}-{number}")
        try:
            folder.path.mkdir(mode=0o700)  # it holds pickles
        except FileExistsError:
            number += 1
        else:
            return folder


def sweep_names(root: Path) -> list[str]:
    """All sweeps in a folder, the oldest first."""
    if not root.is_dir():
        return []
    found = [path.parent for path in root.glob(f"*/{_SPEC}")]
    return [
        path.name
        for path in sorted(
            found, key=lambda path: ((path / _SPEC).stat().st_mtime_ns, _natural(path))
        )
    ]


def _natural(path: Path) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", path.name)
    ]


def find_sweep(root: Path, name: str | None) -> SweepFolder:
    """The sweep of that name, or the latest. Raises: StateError if there is none."""
    names = sweep_names(root)
    if not names:
        raise StateError(
            f"{root}: no sweep here; start one with `foldrace sweep`, or name its folder with"
            " --dir"
        )
    if name is None:
        return SweepFolder(root.resolve(), names[-1])
    if name not in names:
        raise StateError(f"{name}: no such sweep in {root}; {nearest(name, names)}")
    return SweepFolder(root.resolve(), name)
