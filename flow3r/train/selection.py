"""Which weights of a run are the best, and whether it still gets anywhere."""

import math
from typing import Any

from flow3r.config import TrainConfig
from flow3r.errors import TrainingError


class Selection:
    """The best validation of a run by `config.best_by`, and how many have come after it without a better one.

    `progress`: what `state` returned when the run was saved, {} for a new one.
    """

    def __init__(self, config: TrainConfig, progress: dict[str, Any]):
        self.config = config
        self.value: float | None = progress.get("value")
        self.step: int | None = progress.get("step")
        self.since: int = progress.get("since", 0)

    def judge(self, values: dict[str, float], step: int) -> bool:
        """Whether these are the best values so far; what is not a number never is.

        Raises TrainingError if the measure to judge by is not among them.
        """
        name = self.config.best_by
        if name is None:
            return False
        if name not in values:
            raise TrainingError(f"best_by is {name!r}; the validation measures {', '.join(sorted(values))}")
        value = values[name] if self.config.best_is == "lowest" else -values[name]
        best = self.value if self.value is None or self.config.best_is == "lowest" else -self.value
        if math.isfinite(value) and (best is None or value < best):
            self.value, self.step, self.since = values[name], step, 0
            return True
        self.since += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the run's patience has ended."""
        return 0 < self.config.patience <= self.since

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return {"value": self.value, "step": self.step, "since": self.since}
