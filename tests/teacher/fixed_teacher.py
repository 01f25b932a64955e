"""A teacher that needs no matching: every pair moves by the number of frames between; it refuses long strides."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from flow3r.types import Flow, FlowLabels


@dataclass(frozen=True)
class FixedTeacher:
    """Flow (j - i, 0.5) in pixels of the images it sees; `delay` seconds for every clip."""

    delay: float = 0.0
    reach: int = 5
    name: str = "fixed"

    @property
    def parameters(self) -> dict[str, Any]:
        return {"reach": self.reach}

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        time.sleep(self.delay)
        size = (len(pairs), *images.shape[2:])
        displacement = torch.full((1, *size, 2), 0.5)
        displacement[0, ..., 0] = (pairs[:, 1] - pairs[:, 0])[:, None, None].float()
        short = (pairs[:, 1] - pairs[:, 0]).abs() <= self.reach
        covisible = short[:, None, None].float().expand(size)[None].clone()
        refusals = tuple("" if ok else f"too long (over {self.reach})" for ok in short.tolist())
        return FlowLabels(Flow(pairs[None], displacement, covisible), refusals)
