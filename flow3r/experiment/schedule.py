"""How much of the experiments is done: steps, batches, worlds, for two CPU cores, for an accelerator, or as a toy."""

from dataclasses import dataclass, replace

from flow3r.config import MatcherConfig, TrainConfig
from flow3r.data.regimes import Regime, WorldSet


@dataclass(frozen=True)
class Schedule:
    """Sizes that all runs have in common; what the arms are does not depend on them."""

    name: str
    matching: int  # steps of matching, which both families start from
    base: int  # steps on labels alone
    fork: int  # steps of an arm
    sweep: int  # steps of an arm that tries a weight of the flow loss
    seeds: tuple[int, ...] = (0, 1, 2)
    images_per_batch: int | None = None  # None: the preset's
    matching_images: int | None = None
    matching_curriculum: int | None = None  # steps over which matching's pairs get harder
    checkpoint_every: int = 100
    workers: int = 0  # processes that read ahead in each run
    device: str | None = None  # by default; None: CUDA where there is one
    render_on_device: bool = False  # worlds that are not kept are rendered on the device of the run
    worlds: int | None = None  # at most so many of every set; None: all
    seconds_per_step: float = 0.0  # of one run, for forecasts
    seconds_to_score: float = 0.0

    def scaled(self, config: TrainConfig) -> TrainConfig:
        """A run in this schedule's batches."""
        matching = isinstance(config.model, MatcherConfig)
        images = self.matching_images if matching else self.images_per_batch
        data = replace(config.data, workers=self.workers)
        if matching and self.matching_curriculum is not None:
            data = replace(data, curriculum_steps=self.matching_curriculum)
        return replace(
            config,
            data=data if images is None else replace(data, images_per_batch=images),
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=1,
            image_every=config.steps + 1,  # no pictures
        )

    def regime(self, regime: Regime) -> Regime:
        """A regime with as many worlds of each set as the schedule has."""
        return Regime(*(self._few(one) for one in (regime.labelled, regime.unlabelled, regime.validation, regime.test)))

    def _few(self, worlds: WorldSet) -> WorldSet:
        return worlds if self.worlds is None else replace(worlds, count=min(worlds.count, self.worlds))


SCHEDULES = {
    schedule.name: schedule
    for schedule in (
        # CPU seconds of one thread, with other work beside it; not those of rendering worlds, 0.1 to 0.8 each, once.
        Schedule("cpu", 400, 500, 500, 150, device="cpu", seconds_per_step=0.5, seconds_to_score=75.0),
        Schedule(  # about two minutes a run on an H200 is what it is made for; not measured
            "cuda",
            4000,
            4000,
            4000,
            1000,
            images_per_batch=96,
            matching_images=256,
            matching_curriculum=12_000,  # as in the preset, three times the steps
            checkpoint_every=1000,
            workers=2,
            device="cuda",
            render_on_device=True,
            seconds_per_step=0.03,
            seconds_to_score=10.0,
        ),
        Schedule(
            "toy",
            2,
            2,
            2,
            2,
            images_per_batch=4,
            matching_images=4,
            matching_curriculum=6,
            device="cpu",
            worlds=2,
        ),
    )
}
