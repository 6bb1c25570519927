"""Hurts sweeps at random and compares each with an undisturbed one: ``python -m tests.faults
--help``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.faults.case import draw_case, run_case, run_reference
from tests.faults.kinds import Kind, can_mount
from tests.faults.table import markdown, to_json

_TURNS = (
    Kind.WORKER,
    Kind.DRIVER,
    Kind.POWER,
    Kind.DRIVER,
    Kind.INTERRUPT,
    Kind.MIXED,
    Kind.RAYLET,
    Kind.DISK,
    Kind.DRIVER,
    Kind.POWER,
)
"""Which kind comes when: the driver and the power most often."""


def main() -> int:
    """Returns 1 if anything was lost, changed or left behind."""
    asked = _arguments()
    kinds = [kind for kind in _TURNS if kind in asked.kinds] or list(asked.kinds)
    if Kind.DISK in kinds and not can_mount():
        _say(
            "NO FULL DISK: this takes the right to mount a file system, which this process has"
            " not. LEFT OUT."
        )
        kinds = [kind for kind in kinds if kind is not Kind.DISK]
        if not kinds:
            return 0
    _say(f"seed {asked.seed}, {asked.sweeps} sweeps, kinds: {', '.join(sorted(set(kinds)))}")
    reference = run_reference()
    rhythm = reference.rhythm
    _say(
        f"undisturbed: {rhythm.fold_epochs} fold-epochs in {reference.seconds:.1f} s,"
        f" {rhythm.start:.1f} s before the first, {rhythm.closing:.1f} s after the last;"
        f" {len(reference.left.facts)} facts to compare"
    )
    outcomes = []
    for turn in range(asked.sweeps):
        case = draw_case(asked.seed + turn, kinds[turn % len(kinds)], rhythm)
        outcome = run_case(case, reference, keep=asked.keep)
        outcomes.append(outcome)
        verdict = f"{len(outcome.amiss)} AMISS" if outcome.amiss else "as undisturbed"
        _say(
            f"[{turn + 1}/{asked.sweeps}] {case.kind}, seed {case.seed}: {'; '.join(outcome.log)}:"
            f" {verdict}"
        )
        for line in outcome.amiss[:12]:
            _say(f"    {line}")
        if outcome.amiss:
            _say(
                f"    alone: python -m tests.faults --seed {case.seed} --sweeps 1 --kinds"
                f" {case.kind} --keep"
            )
    table = markdown(outcomes, reference, asked.seed)
    print(table)
    if asked.output is not None:
        asked.output.mkdir(parents=True, exist_ok=True)
        (asked.output / "faults.md").write_text(table)
        (asked.output / "faults.json").write_text(
            json.dumps(to_json(outcomes, reference, asked.seed), indent=2)
        )
    return int(any(outcome.amiss for outcome in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--sweeps", type=int, default=50, help="how many sweeps are hurt (50)")
    parser.add_argument(
        "--seed",
        type=int,
        default=int(time.time()),
        help="of all that is drawn; the time by default",
    )
    parser.add_argument("--kinds", type=Kind, nargs="+", default=list(Kind), help="; ".join(Kind))
    parser.add_argument(
        "--keep", action="store_true", help="keep the folder of a sweep that went wrong"
    )
    parser.add_argument("--output", "-o", type=Path, help="a folder for faults.md and faults.json")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
