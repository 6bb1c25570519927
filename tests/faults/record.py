"""What a sweep has left behind, read where it lies: MLflow's tables, the result, Optuna's journal,
the folder."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldrace.search.sampling.journal import STUDY_NAME, open_journal

__all__ = ["Left", "read_left"]

_TIMES = ("train_seconds",)
_RUNS = """
select r.run_uuid, r.status, t.key, t.value from runs r join tags t on t.run_uuid = r.run_uuid
where t.key like 'foldrace.%'
and r.run_uuid in (select run_uuid from tags where key = 'foldrace.sweep_key' and value = ?)
"""
_POINTS = (
    "select run_uuid, key, step, value, is_nan, count(*) from metrics group by run_uuid, key, step"
)
_PARAMS = "select run_uuid, key, value from params"
_KEPT_TAGS = (
    "foldrace.pruned_at",
    "foldrace.failure",
    "foldrace.epochs",
    "foldrace.stopped_early",
)
_TEMPORARY = ("*.part", "*.tmp", "*.torn", "refused.jsonl", "spool")


@dataclass(frozen=True)
class Left:
    """Everything that must not depend on faults, and what must not be there at all.

    Attributes:
        facts: by name; those of two sweeps are compared.
        amiss: what is wrong in itself.
    """

    facts: Mapping[str, object]
    amiss: tuple[str, ...]

    def differences(self, other: Left) -> list[str]:
        """In which facts another one differs from this one."""
        found = []
        for name in sorted({*self.facts, *other.facts}):
            if name not in other.facts:
                found.append(f"lost: {name} = {self.facts[name]}")
            elif name not in self.facts:
                found.append(f"too many: {name} = {other.facts[name]}")
            elif self.facts[name] != other.facts[name]:
                found.append(f"changed: {name}: {self.facts[name]} -> {other.facts[name]}")
        return found


def read_left(sweep: Path) -> Left:
    """What the sweep in this folder has left; its tracking store lies beside it."""
    state = json.loads((sweep / "state.json").read_text())
    facts, amiss = _read_store(sweep.parent / "mlflow.db", state["key"])
    facts |= (
        _read_result(sweep / "result.json")
        | _read_study(sweep / "optuna.log")
        | _read_winner(sweep / "winner")
    )
    for pattern in _TEMPORARY:
        amiss += [
            f"left in the folder: {path.relative_to(sweep)}" for path in sweep.rglob(pattern)
        ]
    return Left(facts, tuple(amiss))


def _read_store(path: Path, key: str) -> tuple[dict[str, object], list[str]]:
    facts: dict[str, object] = {}
    amiss = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
        rows = base.execute(_RUNS, (key,)).fetchall()
        tags: dict[str, dict[str, str]] = {}
        status = {}
        for run, state, name, value in rows:
            tags.setdefault(run, {})[name] = value
            status[run] = state
        places = {run: _place(its) for run, its in tags.items()}
        for place, count in Counter(places.values()).items():
            if count > 1:
                amiss.append(f"{count} runs for {place}")
        for run, place in places.items():
            facts[f"{place} status"] = status[run]
            facts |= {
                f"{place} {name}": tags[run][name] for name in _KEPT_TAGS if name in tags[run]
            }
            if status[run] == "RUNNING":
                amiss.append(f"{place} is RUNNING")
        for run, name, value in base.execute(_PARAMS):
            if run in places:
                facts[f"{places[run]} param {name}"] = value
        for run, name, step, value, is_nan, count in base.execute(_POINTS):
            if run not in places:
                continue
            if count > 1:
                amiss.append(f"{places[run]} {name} at {step}: {count} points")
            if name not in _TIMES and places[run] != "sweep":
                facts[f"{places[run]} {name} at {step}"] = "nan" if is_nan else value
    return facts, amiss


def _place(tags: Mapping[str, str]) -> str:
    parts = [
        tags["foldrace.level"],
        *(tags[name] for name in ("foldrace.trial", "foldrace.fold") if name in tags),
    ]
    return " ".join(parts)


def _read_result(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    told: dict[str, Any] = json.loads(path.read_text())
    left_out = {"wall_seconds", "tracking_uri", "run_id", "sweep"}
    return {
        f"result.json {name}": json.dumps(value)
        for name, value in told.items()
        if name not in left_out
    }


def _read_study(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    storage = open_journal(path)
    study = storage.get_study_id_from_name(STUDY_NAME)
    facts: dict[str, object] = {}
    for trial in storage.get_all_trials(study):
        if "trial" in trial.user_attrs:
            told = (
                trial.state.name,
                trial.values,
                trial.params,
                sorted(trial.intermediate_values.items()),
            )
            facts[f"optuna trial {trial.user_attrs['trial']}"] = told
    return facts


def _read_winner(folder: Path) -> dict[str, object]:
    return {
        f"winner/{path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        for path in folder.rglob("*")
        if path.name in ("state_dict.pt", "validation_indices.npy")
    }
