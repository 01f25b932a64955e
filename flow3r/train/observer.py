"""What a run says of itself while it goes on: means over all ranks, pace, memory, pictures, in the first rank's log."""

import itertools
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType

import torch
from torch import Tensor

from flow3r.draw import training_picture
from flow3r.train.distributed import Ranks
from flow3r.train.log import RunLog
from flow3r.train.measure import Stopwatch, peak_memory
from flow3r.train.run import Run, is_due
from flow3r.types import Views


class Observer:
    """A context that records a run on its first rank. All ranks make the same calls."""

    def __init__(self, run: Run, device: torch.device, quiet: bool, wandb: str | None):
        self.run, self.device, self.ranks = run, device, run.ranks
        self.watch, self.images, self.lapped = Stopwatch(), 0, run.first_step
        self.open = ExitStack()
        with self.ranks.together("at the start"):
            self.log = RunLog(run.out, run.config.steps, run.first_step, quiet, wandb) if self.ranks.first else None

    def __enter__(self) -> "Observer":
        if self.log is not None:
            self.open.enter_context(self.log)
            if self.run.first_step:
                self.log.say(f"going on after step {self.run.first_step} of {self.run.config.steps}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.__exit__(kind, error, trace)

    def over(self) -> None:
        """Say that a run was over before, though not for its number of steps."""
        if self.log is not None:
            self.log.say(f"it was over after {self.run.seconds:.0f} s: give it more time, or more patience, to go on")

    def stopped(self, done: int) -> None:
        """Say that a run that was told to end has saved what it has."""
        if self.log is not None:
            self.log.say(f"stopped after step {done}, saved in {self.run.checkpoints.folder}; the same command goes on")

    def waiting(self) -> AbstractContextManager[None]:
        """A context for what waits for data."""
        return self.watch.waiting()

    def step(
        self,
        done: int,
        batches: list[Views],
        terms: list[dict[str, Tensor]],
        values: dict[str, float | Tensor],
        measured: dict[str, float],
    ) -> None:
        """Record step `done`: of every batch its `terms`, `values` that all ranks agree on, and what was measured after
        this step in particular, whether or not its terms are logged."""
        config, record = self.run.config, dict(measured)
        self.images += self.ranks.world * sum(views.images.shape[:2].numel() for views in batches)
        if is_due(done, config.log_every) or done == config.steps:
            record = {**values, **mean_terms(self.ranks, terms), **self.run.tally.records(), **record}
            record |= self.watch.lap(done - self.lapped, self.images)
            record |= {"memory_gb": peak_memory(self.device) / 1e9}
            self.lapped, self.images = done, 0
        seen = self.run.look(batches[-1]) if is_due(done, config.image_every) else None
        with self.ranks.together(f"step {done}, the log"):
            if self.log is not None:
                self.log.advance(done)
                if record:
                    self.log.scalars(done, record)
                if seen is not None and self.log.draws:
                    self.log.picture(done, "flow_and_points", training_picture(batches[-1], seen))


def mean_terms(ranks: Ranks, records: list[dict[str, Tensor]]) -> dict[str, float]:
    """Of every value, the mean over the batches of all ranks that have it."""
    plain = [{name: float(value) for name, value in record.items()} for record in records]
    values: dict[str, list[float]] = {}
    for record in itertools.chain.from_iterable(ranks.gather(plain)):
        for name, value in record.items():
            values.setdefault(name, []).append(value)
    return {name: sum(several) / len(several) for name, several in values.items()}
