"""Images or a video of any length in, cameras and points out: windows of a model, joined into one world."""

from flow3r.reconstruction.network import hash_weights
from flow3r.reconstruction.planner import Plan, memory_budget, plan_windows
from flow3r.reconstruction.scene import depth_at_original, reconstruct, spread_frames

__all__ = [
    "Plan",
    "depth_at_original",
    "hash_weights",
    "memory_budget",
    "plan_windows",
    "reconstruct",
    "spread_frames",
]
