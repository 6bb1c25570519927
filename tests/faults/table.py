"""The table of a run: by kind of fault, how often, whether it was survived, and what it cost."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from tests.faults.case import Outcome, Reference
from tests.faults.kinds import Kind

__all__ = ["markdown", "to_json"]


def markdown(outcomes: Sequence[Outcome], reference: Reference, seed: int) -> str:
    """A row for each kind of sweep; a mixed one counts the faults of all its kinds."""
    lines = [
        (
            "| kind | sweeps | faults | sessions | undisturbed | repeated fold-epochs: mean, most"
            " | seconds more: mean |"
        ),
        "|---|---|---|---|---|---|---|",
    ]
    for kind in Kind:
        if rows := [outcome for outcome in outcomes if outcome.case.kind is kind]:
            lines.append(_row(kind.value, rows))
    lines.append(_row("all", outcomes))
    lines.append("")
    lines.append(
        f"Seed {seed}. Undisturbed: {reference.rhythm.fold_epochs} fold-epochs in"
        f" {reference.seconds:.1f} s, {reference.rhythm.start:.1f} s before the first;"
        f" {len(reference.left.facts)} facts compared a sweep."
    )
    return "\n".join(lines) + "\n"


def _row(name: str, rows: Sequence[Outcome]) -> str:
    faults = sum(sum(row.injected.values()) for row in rows)
    good = sum(not row.amiss for row in rows)
    repeated = [row.repeated for row in rows]
    seconds = statistics.fmean(row.seconds for row in rows)
    sessions = sum(row.sessions for row in rows)
    return (
        f"| {name} | {len(rows)} | {faults} | {sessions} | {good} | "
        f"{statistics.fmean(repeated):.1f}, {max(repeated)} | {seconds:.1f} |"
    )


def to_json(outcomes: Sequence[Outcome], reference: Reference, seed: int) -> dict[str, Any]:
    """All of it, case by case."""
    return {
        "seed": seed,
        "undisturbed": {"seconds": reference.seconds, "fold_epochs": reference.rhythm.fold_epochs},
        "cases": [
            {
                "seed": outcome.case.seed,
                "kind": outcome.case.kind.value,
                "injected": {kind.value: count for kind, count in outcome.injected.items()},
                "sessions": outcome.sessions,
                "amiss": outcome.amiss,
                "repeated_fold_epochs": outcome.repeated,
                "more_seconds": round(outcome.seconds, 1),
                "log": outcome.log,
            }
            for outcome in outcomes
        ],
    }
