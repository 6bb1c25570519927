"""Whether an experiment of Ray Tune's can be gone on with, when a machine has died while it was written."""

from __future__ import annotations

import itertools
import json
import pickletools
from collections.abc import Callable
from pathlib import Path

__all__ = ["find_restorable"]

_TUNER = "tuner.pkl"
_STATE, _GENERATOR, _SEARCHER = "experiment_state-*.json", "search_gen_state-*.json", "searcher-state-*.pkl"


def find_restorable(experiment: Path, say: Callable[[str], None]) -> bool:
    """Whether Tune can restore the experiment in this folder: from its newest state that is whole.

    What is damaged is set aside, a session's files together. If nothing whole is left, so is the folder: the experiment
    begins anew then. Its trials train again what they had trained, to the same numbers.
    """
    if not (experiment / _TUNER).exists():
        return False
    if _reads(experiment / _TUNER):
        for state in sorted(experiment.glob(_STATE), reverse=True):  # a file a session, named by its beginning
            session = state.stem.removeprefix("experiment_state-")
            files = [path for pattern in (_STATE, _GENERATOR, _SEARCHER) for path in experiment.glob(pattern)]
            own = [path for path in files if path.stem.endswith(session)]
            if len(own) == 3 and all(map(_reads, own)):
                return True
            for path in own:
                path.rename(path.with_name(f"damaged-{path.name}"))
            say(f"{state.name} is damaged: the sweep goes on from an older state")
    places = (experiment.with_name(f"lost-{experiment.name}-{number}") for number in itertools.count(1))
    aside = next(place for place in places if not place.exists())
    experiment.rename(aside)
    say(f"{experiment.name}: no state is whole; its trials begin anew (what was there is in {aside.name})")
    return False


def _reads(path: Path) -> bool:
    """Whether a file can be read as what it is."""
    try:
        content = path.read_bytes()
        if path.suffix == ".json":
            json.loads(content)
        else:
            for _ in pickletools.genops(content):  # to its end; nothing in it is made
                pass
    except Exception:  # a pickle that is cut off may raise anything
        return False
    return True
