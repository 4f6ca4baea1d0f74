"""Virtual time: a heap of things to do, and nothing else.

Things due at the same time happen in the order in which they were asked for, so a run doesn't
depend on how the heap is laid out or on hash seeds.
"""
from __future__ import annotations

import heapq
from typing import Any, Callable, List, Tuple

Action = Callable[[Any], None]


class World:
    """`at(time, action, argument)`; `run()` until nothing is left or somebody sets `over`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.over = False
        self._heap: List[Tuple[float, int, Action, Any]] = []
        self._number = 0

    def at(self, at: float, action: Action, argument: Any = None) -> None:
        """Call `action(argument)` at that time."""
        assert at >= self.now, (at, self.now)
        self._number = number = self._number + 1
        heapq.heappush(self._heap, (at, number, action, argument))

    def run(self, limit_s: float) -> None:
        """Go on until it is over, or the time limit, or nothing is left."""
        heap, pop = self._heap, heapq.heappop
        while heap and not self.over:
            at, _, action, argument = pop(heap)
            if at > limit_s:
                self.now = limit_s
                return
            self.now = at
            action(argument)
