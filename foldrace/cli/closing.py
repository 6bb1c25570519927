"""The last words of a command: what was done, and what to type next."""

from __future__ import annotations

from foldrace.commands import program
from foldrace.search.recording.outbox import waiting_records
from foldrace.search.sweeps.result import SweepResult

__all__ = ["closing_lines"]


def closing_lines(
    result: SweepResult, place: str, *, refitted: bool, again: str = "resume"
) -> list[str]:
    """How a sweep ended, and the commands that go on from there.

    Args:
        place: `at` the sweep's folder.
        again: the command that goes on with what was interrupted.
    """
    command = program()
    counts = ", ".join(f"{count} {name}" for name, count in result.trials.items())
    lines = [
        f"{result.sweep}: {counts}; {result.fold_epochs} fold-epochs in"
        f" {result.wall_seconds:.0f} s"
    ]
    if result.trials["failed"]:
        lines.append(
            f"Why trials failed:                     {command} status {result.sweep}{place}"
        )
    if result.interrupted:
        lines.append(
            f"Interrupted; all of it is kept.  Go on:  {command} {again} {result.sweep}{place}"
        )
    elif result.best is None:
        lines.append("No trial was evaluated to the end, so there is no winner.")
    elif not refitted and not waiting_records(result.folder):
        lines.append(
            f"Refit the winner and test it once:     {command} refit {result.sweep}{place}"
        )
    if (result.folder / "overview.png").is_file():
        lines.append(f"The sweep in one picture:              {result.folder / 'overview.png'}")
    if result.fold_epochs:
        lines.append(
            f"Its reports:                           {command} report {result.sweep}{place}"
        )
    lines.append(f"Open the record in MLflow:             {command} ui{place}")
    return lines
