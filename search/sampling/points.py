"""Points of a space: when two are the same, and all of them where they can be counted."""

from __future__ import annotations

import random
from collections.abc import Container, Mapping

from foldrace.search.spec.space import SearchSpace
from foldrace.trainables.tasks.parameters import Value

__all__ = ["Key", "all_points", "point_key", "unseen_point"]

_MOST_POINTS = 4096
_DRAWS = 200

Key = tuple[tuple[str, str], ...]


def point_key(params: Mapping[str, Value]) -> Key:
    """Equal for equal configurations; numbers are compared to 12 significant digits.

    >>> point_key({"lr": 0.1 + 0.2}) == point_key({"lr": 0.3})
    True
    """
    return tuple((name, _text(params[name])) for name in sorted(params))


def _text(value: Value) -> str:
    return f"{value:.12g}" if isinstance(value, float) else repr(value)


def all_points(space: SearchSpace, most: int = _MOST_POINTS) -> list[dict[str, Value]] | None:
    """The parameters of every possible trial.

    None if a parameter is continuous or there are more than ``most`` points.
    """
    points: list[dict[str, Value]] = [{}]
    for name, entry in space.entries.items():
        active = [point for point in points if entry.active(point)]
        if not active:
            continue
        values = entry.grid
        if values is None or len(values) * len(active) > most:
            return None
        replaced = {id(point) for point in active}
        points = [point for point in points if id(point) not in replaced]
        declared = space.declared[name]
        points += [{**p, name: declared.check(name, value)} for p in active for value in values]
        if len(points) > most:
            return None
    return points


def unseen_point(space: SearchSpace, seen: Container[Key], seed: int) -> dict[str, Value] | None:
    """The parameters of a random trial whose key is not in ``seen``.

    None if there is none, or if 200 draws from a space that cannot be counted found none.
    """
    points = all_points(space)
    if points is not None:
        left = [point for point in points if point_key(point) not in seen]
        return random.Random(seed).choice(left) if left else None
    import optuna  # a sweep file is checked without it

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(_DRAWS):
        params = space.suggest(study.ask())
        if point_key(params) not in seen:
            return params
    return None
