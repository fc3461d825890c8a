"""Until when a selftest may work: what is not done by then stays open, and is named."""

import math
import time


class Clock:
    """Counts down; without seconds it never ends."""

    def __init__(self, seconds: float | None = None):
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    @property
    def over(self) -> bool:
        return self.left <= 0

    def limit(self, most: float | None = None) -> float | None:
        """The seconds that a child process may take, `most` of them at most."""
        seconds = min(max(self.left, 0.01), math.inf if most is None else most)
        return None if math.isinf(seconds) else seconds

    def part(self, parts: int) -> "Clock":
        """A clock for one of so many parts of the work that is left."""
        return Clock(None if math.isinf(self._end) else self.left / parts)


ENDLESS = Clock()
