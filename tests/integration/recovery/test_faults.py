"""Sweeps that are hurt at chosen moments leave what an undisturbed one leaves; `make test-faults`
hurts many more."""

from __future__ import annotations

import pytest

from tests.faults.case import Reference, draw_case, run_case, run_reference
from tests.faults.kinds import Kind
from tests.faults.record import Left

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return run_reference()


@pytest.mark.parametrize(
    ("kind", "seed"), [(Kind.WORKER, 100), (Kind.POWER, 1002), (Kind.DRIVER, 1003)]
)
def test_a_sweep_that_is_hurt_leaves_what_an_undisturbed_one_leaves(
    kind: Kind, seed: int, reference: Reference
) -> None:
    outcome = run_case(draw_case(seed, kind, reference.rhythm), reference)
    assert not outcome.amiss, "\n".join([*outcome.log, *outcome.amiss])
    assert outcome.injected.total() > 0 and outcome.sessions > (kind is not Kind.WORKER)


def test_what_is_lost_changed_or_too_much_is_found() -> None:
    whole = Left({"a": 1, "b": 0.1, "c": "x"}, ())
    other = Left({"a": 1, "b": 0.1000000001, "d": 2}, ())
    assert whole.differences(whole) == []
    assert whole.differences(other) == [
        "changed: b: 0.1 -> 0.1000000001",
        "lost: c = x",
        "too many: d = 2",
    ]
