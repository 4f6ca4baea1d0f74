"""What a machine is: facts in, orders out, time as an argument.

A driver (net/, service/ or sim/) tells a machine what happened and when, carries out what it
answers, and calls it again at `deadline()` at the latest, with the event that means "time
passed". A machine never asks for the time, never acts, and is never called from two threads.
Given the same events at the same times (and the same random.Random) it gives the same orders.
"""
from __future__ import annotations

from typing import List, Optional, Protocol, TypeVar

Event = TypeVar("Event", contravariant=True)
Effect = TypeVar("Effect")


class Machine(Protocol[Event, Effect]):
    """Anything in core/ that decides."""

    def step(self, event: Event, now: float) -> List[Effect]:
        """Orders that follow from one fact, in the order in which to carry them out."""
        ...

    def deadline(self) -> Optional[float]:
        """When time alone will make a difference; None = never."""
        ...
