"""Live objects are found by their type and key, for the time of a block."""

from __future__ import annotations

import pytest

from foldrace.search.live_objects import attached, live_object


class Clock:
    pass


def test_an_object_is_found_by_its_type_and_key_within_the_block_only() -> None:
    first, second = Clock(), Clock()
    with attached("a", first), attached("b", second), attached("a", "text"):
        assert live_object(Clock, "a") is first
        assert live_object(Clock, "b") is second
        assert live_object(str, "a") == "text"
    with pytest.raises(LookupError, match="a: no Clock is attached in this process"):
        live_object(Clock, "a")


def test_an_inner_block_takes_the_place_of_the_outer_one_until_it_ends() -> None:
    outer, inner = Clock(), Clock()
    with attached("a", outer):
        with pytest.raises(ZeroDivisionError), attached("a", inner):
            assert live_object(Clock, "a") is inner
            raise ZeroDivisionError
        assert live_object(Clock, "a") is outer
