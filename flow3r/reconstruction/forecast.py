"""What a reconstruction will do and take, in words, from sizes alone: `flow3r plan`."""

from pathlib import Path

import torch

from flow3r.config import MatcherConfig, ModelConfig, VggtConfig
from flow3r.data.arrays import FrameSource, open_frames
from flow3r.data.frame import frame_sizes
from flow3r.data.transforms import choose_grid
from flow3r.errors import InputError
from flow3r.model.checkpoints import load_model
from flow3r.nn.precision import choose_device, fast_dtype, product_rate
from flow3r.presets import PRESETS
from flow3r.reconstruction.network import TOKENS_AT_ONCE, kept_in
from flow3r.reconstruction.planner import Plan, memory_budget, plan_windows
from flow3r.reconstruction.scene import MAX_FRAMES, SHOT, check_max_frames, spread_frames, take_shot


def forecast(
    source: FrameSource,
    model: str | Path = "nano",
    *,
    max_frames: int | None = MAX_FRAMES,
    shot: str = SHOT,
    device: str | torch.device | None = None,
    views: int | None = None,
    overlap: int | None = None,
    memory_gb: float | None = None,
) -> list[str]:
    """Lines that say which frames of `source` `reconstruct` would take, in which windows, and the memory and time.

    The same arguments mean the same run. The sizes of `model`, a preset or what load_model understands, are all that is
    used of it; a few matrix products measure the device. A video is decoded once to find its shots, unless `shot` is
    "all". Raises InputError as `reconstruct` does.
    """
    check_max_frames(max_frames)
    device = choose_device(device)
    dtype = fast_dtype(device)
    whole, config, notes = open_frames(source), _sizes(model), []
    sequence, _ = take_shot(whole, shot, notes)
    indices = spread_frames(len(sequence), max_frames or len(sequence))
    grid = choose_grid(frame_sizes(sequence, indices), config.tokens)
    budget = memory_budget(device, memory_gb)
    plan = plan_windows(
        config,
        grid,
        len(indices),
        budget,
        dtype=dtype,
        weights=kept_in(device, dtype),
        chunk_tokens=TOKENS_AT_ONCE,
        views=views,
        overlap=overlap,
    )
    seconds = plan.seconds(product_rate(device, dtype))
    return [
        *(f"shot       {note}" for note in notes),
        f"input      {sequence.name}: {len(indices)} of {len(sequence)} frames, in the model {grid[1]} x {grid[0]}",
        f"model      {model}, products in {str(dtype).removeprefix('torch.')}",
        f"windows    {_windows(plan)}",
        f"memory     {plan.peak_bytes / 1e9:.2f} GB at the peak, of {budget / 1e9:.2f} GB on {device}"
        + ("" if plan.fits else "; EXPECTED NOT TO FIT: windows will be halved until they do"),
        f"time       {_duration(seconds)} in the model; reading, joining and writing come on top",
    ]


def _sizes(model: str | Path) -> ModelConfig | VggtConfig:
    sizes = PRESETS[model].model if model in PRESETS else load_model(model).config
    if isinstance(sizes, MatcherConfig):
        raise InputError(f"{model} predicts no geometry; plan with a model that is started from it")
    return sizes


def _windows(plan: Plan) -> str:
    if plan.windows == 1:
        return f"one, of all {plan.frames} frames"
    return f"{plan.windows} of {plan.views_per_window} frames, overlapping by at least {plan.overlap}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.2g} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"
