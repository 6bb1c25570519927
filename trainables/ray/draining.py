"""Whether the machine is about to be taken away."""

from __future__ import annotations

import time

import ray
from ray._private.state import state

__all__ = ["Notice"]

_SECONDS = 2.0


class Notice:
    """A notice that this node will be taken away: a spot machine's, or ``ray drain-node``'s.

    Ray then starts nothing more there, and what runs ends with the machine. It is asked every two
    seconds at most. Without Ray there is none.
    """

    def __init__(self) -> None:
        self._asked, self._given = -_SECONDS, False

    @property
    def given(self) -> bool:
        """Whether there is one."""
        now = time.monotonic()
        if not self._given and now - self._asked >= _SECONDS and ray.is_initialized():
            node = ray.get_runtime_context().get_node_id()
            self._asked, self._given = now, node in state.get_draining_nodes()
        return self._given
