"""What a reconstruction tells of itself: seconds per stage, and what went otherwise than planned."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Journal:
    """Grows while a reconstruction runs."""

    timings: dict[str, float] = field(default_factory=dict)  # seconds
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time inside to that of `stage`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings[stage] = self.timings.get(stage, 0.0) + time.perf_counter() - began
