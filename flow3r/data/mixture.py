"""What each step of a run sees: labelled procedural worlds and unlabelled clips, as a pure function of (run, step).

Since a batch depends on nothing else, workers, ranks, and a run that was killed and resumed all agree on it.
"""

import hashlib
import math
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flow3r.config import DataConfig, TrainConfig
from flow3r.data.worlds import render_worlds
from flow3r.types import Views

TRAINING_SEEDS = 2**40  # worlds below are for training, those from here on for measuring


@runtime_checkable
class ClipSource(Protocol):
    """Unlabelled clips with flow labels: `scenes` scenes of `views` frames and `pairs` labelled ordered pairs."""

    def draw(self, scenes: int, views: int, pairs: int, generator: torch.Generator) -> Views: ...


def stream(seed: int, step: int, purpose: str) -> torch.Generator:
    """An independent random stream for one purpose of one step."""
    digest = hashlib.sha256(f"{seed}/{step}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def draw_integer(low: int, high: int, generator: torch.Generator) -> int:
    """An integer in [low, high], uniform."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def grids(tokens: tuple[int, int], aspect: tuple[float, float]) -> list[tuple[int, int]]:
    """All (rows, columns) of patches with a token count and an aspect (width / height) in the given ranges."""
    longest = math.ceil(math.sqrt(tokens[1] * max(aspect[1], 1 / aspect[0])))
    sides = range(1, longest + 1)
    return [(h, w) for h in sides for w in sides if tokens[0] <= h * w <= tokens[1] and aspect[0] <= w / h <= aspect[1]]


def draw_pairs(scenes: int, views: int, count: int, generator: torch.Generator) -> Int[Tensor, "B P 2"]:
    """Distinct ordered pairs i != j per scene, uniform; all of them where there are no more than `count`."""
    every = torch.tensor([(i, j) for i in range(views) for j in range(views) if i != j])
    order = torch.rand(scenes, len(every), generator=generator).argsort(dim=1)
    return every[order[:, :count]]


class StepBatches(Dataset):
    """The batches of a run by step. Worlds are rendered on `device`; clips come from the label store as they are."""

    def __init__(self, config: TrainConfig, clips: ClipSource | None = None, device: torch.device | str = "cpu"):
        self.config, self.clips, self.device = config, clips, device

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Views:
        data, generator = self.config.data, stream(self.config.seed, step, "batch")
        unlabelled = self.clips is not None and torch.rand((), generator=generator) < data.unlabelled_share
        small = step < data.small_steps
        views = draw_integer(*data.views, generator)
        scenes = max(1, (data.small_images if small else data.images_per_batch) // views)
        if unlabelled:
            return self.clips.draw(scenes, views, data.pairs_per_scene, generator)
        return self._worlds(data, step, scenes, views, data.small_tokens if small else data.tokens, generator)

    def _worlds(
        self,
        data: DataConfig,
        step: int,
        scenes: int,
        views: int,
        tokens: tuple[int, int],
        generator: torch.Generator,
    ) -> Views:
        patch = self.config.model.encoder.patch
        shapes = grids(tokens, data.aspect)
        rows, columns = shapes[draw_integer(0, len(shapes) - 1, generator)]
        pairs = draw_pairs(scenes, views, data.pairs_per_scene, generator) if self.config.model.flow else None
        seeds = torch.randint(0, TRAINING_SEEDS, (scenes,), generator=generator).tolist()
        worlds = render_worlds(
            seeds,
            views,
            (rows * patch, columns * patch),
            config=data.worlds,
            pairs=pairs,
            difficulty=min(1.0, step / data.curriculum_steps) if data.curriculum_steps else 1.0,
            device=self.device,
        )
        return worlds.views


def iterate_batches(
    config: TrainConfig, first_step: int, clips: ClipSource | None, device: torch.device
) -> Iterator[Views]:
    """Batches from `first_step` on, on `device`: made ahead by workers on a CPU, in place on an accelerator."""
    if device.type != "cpu" or config.data.workers == 0:
        batches = StepBatches(config, clips, device)
        yield from (batches[step].to(device) for step in range(first_step, config.steps))
        return
    yield from DataLoader(
        StepBatches(config, clips),
        batch_size=None,
        sampler=range(first_step, config.steps),
        num_workers=config.data.workers,
        prefetch_factor=4,
    )
