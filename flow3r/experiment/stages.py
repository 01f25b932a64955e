"""Where an experiment lies and how much of it is done, and what its runs need before they begin.

A job is a piece of work that one process does: it has a `key`, its place below OUT/<schedule>, says which jobs it
`needs` and whether it `is_done`. One that was stopped goes on where it was.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from flow3r.config import TrainConfig
from flow3r.data.regimes import REGIMES, Regime, WorldSet
from flow3r.experiment.arms import MATCHING
from flow3r.experiment.provenance import refuse_another
from flow3r.experiment.schedule import Schedule
from flow3r.experiment.sources import Stores
from flow3r.files import write_text
from flow3r.presets import PRESETS
from flow3r.train.loop import train

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Experiment:
    """Where all runs lie and how much is done. `flow_weight` stands in the place of swept ones, if it is given."""

    out: Path
    schedule: Schedule
    device: str | None = None
    flow_weight: float | None = None

    @property
    def folder(self) -> Path:
        return self.out.resolve() / self.schedule.name

    @property
    def stores(self) -> Stores:
        return Stores(self.folder)

    def regime(self, name: str) -> Regime:
        """A regime by name, in the schedule's numbers of worlds."""
        return self.schedule.regime(REGIMES[name])

    def base_regime(self, name: str) -> str:
        """The first regime of the same labelled set: its bases serve for this one too."""
        return next(other for other, regime in REGIMES.items() if regime.labelled == REGIMES[name].labelled)


@runtime_checkable
class Job(Protocol):
    """A piece of work that one process does."""

    @property
    def key(self) -> str: ...

    def needs(self, experiment: Experiment) -> "tuple[Job, ...]": ...

    def steps(self, experiment: Experiment) -> int:
        """Of training."""
        ...

    def is_done(self, experiment: Experiment) -> bool: ...

    def do(self, experiment: Experiment) -> str:
        """Do it, or go on with it; in a line, what came of it."""
        ...


@dataclass(frozen=True)
class Matching:
    """The trunk of both families learns to match, on endless worlds, in the place of a pretrained encoder."""

    seed: int

    @property
    def key(self) -> str:
        return f"matching/seed{self.seed}"

    def needs(self, experiment: Experiment) -> tuple[Job, ...]:
        return ()

    def steps(self, experiment: Experiment) -> int:
        return experiment.schedule.matching

    def config(self, experiment: Experiment) -> TrainConfig:
        config = replace(PRESETS[MATCHING], steps=self.steps(experiment), seed=self.seed)
        return experiment.schedule.scaled(config)

    def is_done(self, experiment: Experiment) -> bool:
        """Raises TrainingError where a run of other settings is finished."""
        folder = experiment.folder / self.key
        if not (folder / WEIGHTS).is_file():
            return False
        if (folder / "config.json").is_file():
            refuse_another(folder, self.config(experiment))
        return True

    def do(self, experiment: Experiment) -> str:
        folder = experiment.folder / self.key
        result = train(self.config(experiment), folder, device=experiment.device, quiet=True)
        return f"{result.steps} steps in {result.seconds:.0f} s"


@dataclass(frozen=True)
class Keep:
    """A set of worlds rendered, labelled by a teacher, or solved from that, once for all runs."""

    worlds: WorldSet
    what: Literal["learnt", "learnt-flow", "measured", "taught", "solved"]

    @property
    def key(self) -> str:
        return f"kept/{self.worlds.domain}-{self.worlds.split}-{self.worlds.count}-{self.what}"

    def needs(self, experiment: Experiment) -> tuple[Job, ...]:
        return (Keep(self.worlds, "taught"),) if self.what == "solved" else ()

    def steps(self, experiment: Experiment) -> int:
        return 0

    def is_done(self, experiment: Experiment) -> bool:
        return self._mark(experiment).is_file()

    def do(self, experiment: Experiment) -> str:
        stores = experiment.stores
        {
            "learnt": stores.learnt_from,
            "learnt-flow": partial(stores.learnt_from, flow=True),
            "measured": stores.measured,
            "taught": stores.taught,
            "solved": stores.solved,
        }[self.what](self.worlds)
        write_text(self._mark(experiment), f"{self.worlds.count} worlds\n")
        return f"{self.worlds.count} worlds"

    def _mark(self, experiment: Experiment) -> Path:
        return experiment.folder / f"{self.key}.txt"
