"""How long work will still take, by its pace so far."""

import time
from collections.abc import Callable

WORTH_SAYING = 60.0  # seconds left; less is waited for without being told


class Pace:
    """The pace of work that is counted in units, from a first count on.

    Args:
        total: units of the whole work.
        done: units that were done before the clock started, as in a resumed run.
        clock: seconds.
    """

    def __init__(self, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic):
        self.total, self.first, self.clock = total, done, clock
        self.began = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the clock started."""
        return self.clock() - self.began

    def left(self, done: int) -> float | None:
        """Seconds that the rest takes at the pace so far; None before a unit is done."""
        return self.elapsed / (done - self.first) * (self.total - done) if done > self.first else None

    def words(self, done: int) -> str:
        """``about 12 min left``; empty where that is not known, or not worth saying."""
        left = self.left(done)
        return "" if left is None or left < WORTH_SAYING else f"about {duration(left)} left"


def duration(seconds: float) -> str:
    """A time as people say it: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
