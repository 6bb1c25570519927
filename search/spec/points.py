"""Points of a space: when two are the same, and all of them where they can be counted."""

from __future__ import annotations

import random
from collections.abc import Container, Mapping, Sequence

import optuna

from foldrace.search.spec.distributions import Distribution, Uniform
from foldrace.search.spec.space import SearchSpace
from foldrace.search.spec.space_checks import among, possible_values
from foldrace.trainables.tasks.parameters import Value

__all__ = ["all_points", "point_key", "unseen_point"]

_MOST_POINTS = 4096
_DRAWS = 200

Key = tuple[tuple[str, str], ...]


def point_key(params: Mapping[str, Value]) -> Key:
    """The same for two trials' parameters that are the same configuration; numbers count to 12
    digits."""
    return tuple((name, _text(params[name])) for name in sorted(params))


def _text(value: Value) -> str:
    return f"{value:.12g}" if isinstance(value, float) else repr(value)


def all_points(space: SearchSpace, most: int = _MOST_POINTS) -> list[dict[str, Value]] | None:
    """The parameters of every possible trial; None if one can be continuous or there are more than
    ``most``."""
    points: list[dict[str, Value]] = [{}]
    for name, entry in space.entries.items():
        active = [
            p
            for p in points
            if all(o in p and among(p[o], values) for o, values in entry.when.items())
        ]
        if not active:
            continue
        values = _values(entry)
        if values is None or len(values) * len(active) > most:
            return None
        there = {id(point) for point in active}
        points = [point for point in points if id(point) not in there]
        points += [
            {**p, name: space.declared[name].check(name, value)}
            for p in active
            for value in values
        ]
        if len(points) > most:
            return None
    return points


def _values(entry: Distribution) -> Sequence[Value] | None:
    if isinstance(entry, Uniform) and entry.step:
        low, high = entry.bounds
        return [low + step * entry.step for step in range(round((high - low) / entry.step) + 1)]
    return possible_values(entry)


def unseen_point(space: SearchSpace, seen: Container[Key], seed: int) -> dict[str, Value] | None:
    """The parameters of a trial at random whose key is not in ``seen``; None if there is none, or,
    in a space that cannot be counted, if 200 draws have found none."""
    points = all_points(space)
    if points is not None:
        left = [point for point in points if point_key(point) not in seen]
        return random.Random(seed).choice(left) if left else None
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(_DRAWS):
        params = space.suggest(study.ask())
        if point_key(params) not in seen:
            return params
    return None
