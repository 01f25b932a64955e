"""A teacher that ends or hangs its process on some videos, as a broken decoder does; the others it labels."""

import os
import signal
import time
from dataclasses import dataclass

import torch
from fixed_teacher import FixedTeacher

from flow3r.types import FlowLabels

KILLS, HANGS, FAILS = 3, 5, 7  # numbers of frames of the clips that do


@dataclass(frozen=True)
class WorstTeacher(FixedTeacher):
    name: str = "worst"

    def __call__(self, images: torch.Tensor, pairs: torch.Tensor) -> FlowLabels:
        if len(images) == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(images) == HANGS:
            time.sleep(3600)
        if len(images) == FAILS:
            raise RuntimeError("out of memory")
        return super().__call__(images, pairs)
