"""How many views a window takes on a device, and what it will cost, before anything is run."""

from dataclasses import dataclass

import torch

from flow3r.config import ModelConfig, VggtConfig
from flow3r.errors import InputError
from flow3r.model.cost import forward_flops, peak_bytes
from flow3r.reconstruction.memory import free_bytes
from flow3r.reconstruction.windows import check_windows, default_overlap, split

MOST_VIEWS = 64  # more at once lower the quality of such models: users found 60-75 a window better than 120
SAFE_SHARE = 0.8  # of the free memory; ours: allocators and kernels take some beside the activations
# Of the rate of large matrix products that a model reaches; ours, measured: `python -m benchmarks.windows`.
REACHED_SHARE = 0.65


@dataclass(frozen=True)
class Plan:
    """How a sequence is cut into windows, and what they are expected to take."""

    frames: int
    grid: tuple[int, int]  # (H, W) of the frames in the model
    views_per_window: int
    overlap: int  # frames that a window shares with the next, at least
    windows: int
    budget_bytes: int  # for the weights and a window
    peak_bytes: int | None = None  # of the weights and a window; None for a model that does not say its sizes
    flops: int | None = None  # of all windows

    @property
    def fits(self) -> bool:
        """Whether a window is expected to stay within the budget."""
        return self.peak_bytes is None or self.peak_bytes <= self.budget_bytes

    def seconds(self, rate: float) -> float | None:
        """The time of the model's passes on a device of `rate` (`product_rate`)."""
        return None if self.flops is None else self.flops / (REACHED_SHARE * rate)


def plan_windows(
    config: ModelConfig | VggtConfig | None,
    grid: tuple[int, int],
    frames: int,
    budget_bytes: int,
    *,
    dtype: torch.dtype = torch.float32,
    weights: torch.dtype = torch.float32,
    chunk_tokens: int | None = None,
    views: int | None = None,
    overlap: int | None = None,
) -> Plan:
    """Windows of `views` frames (by default as many as the budget holds, at most 64) for frames on a grid (H, W).

    `config`: the model's sizes, None if they are unknown. `dtype` and `weights`: of products, and of what is kept;
    `chunk_tokens`: as `Memory.tokens` of the model. `overlap`: by default a quarter of a window. Raises InputError for
    windows that cannot be joined.
    """

    def peak(count: int) -> int | None:
        if config is None:
            return None
        return peak_bytes(config, count, *grid, dtype=dtype, chunk_tokens=chunk_tokens, weights=weights)

    if views is None:
        views = min(frames, MOST_VIEWS)
        while views > 2 and (peak(views) or 0) > budget_bytes:
            views -= 1
    if frames > views:
        overlap = default_overlap(views) if overlap is None else overlap
        check_windows(views, overlap)
    else:
        views, overlap = frames, 0
    windows = len(split(frames, views, overlap))
    flops = None if config is None else windows * forward_flops(config, views, *grid)
    return Plan(frames, grid, views, overlap, windows, budget_bytes, peak(views), flops)


def memory_budget(device: torch.device, memory_gb: float | None = None, held: int = 0) -> int:
    """Bytes for the weights and a window: `memory_gb`, or SAFE_SHARE of what is free on the device and of the `held`
    that the weights already take there. Raises InputError for a budget that is not positive."""
    if memory_gb is None:
        return int(SAFE_SHARE * (free_bytes(device) + held))
    if not memory_gb > 0:
        raise InputError(f"memory_gb is {memory_gb}; expected a positive number of gigabytes")
    return int(memory_gb * 1e9)
