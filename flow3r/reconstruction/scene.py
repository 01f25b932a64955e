"""From a source of frames to one Reconstruction."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flow3r.data.arrays import FrameSource, open_frames
from flow3r.data.frame import Sequence, frame_sizes
from flow3r.data.transforms import choose_grid, fit_depth
from flow3r.data.video import choose_shot
from flow3r.errors import InputError
from flow3r.geometry.stitch import chain
from flow3r.reconstruction.frames import FrameReader
from flow3r.reconstruction.journal import Journal
from flow3r.reconstruction.loops import correct_drift
from flow3r.reconstruction.network import Network, open_network
from flow3r.reconstruction.planner import Plan, memory_budget, plan_windows
from flow3r.reconstruction.record import Record, in_memory, on_disk
from flow3r.reconstruction.windows import POOR_FIT, describe_poor_fit, join, predict_windows, seam
from flow3r.types import Reconstruction

PINHOLES = ("auto", "shared", "per-frame")
MAX_FRAMES, SHOT = 32, "longest"  # ours: what a model sees at once in seconds, and no cut among it


def reconstruct(
    source: FrameSource,
    model: str | Path | nn.Module = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    fit: Literal["crop", "pad"] = "crop",
    max_frames: int | None = MAX_FRAMES,
    shot: str = SHOT,
    tokens: tuple[int, int] | None = None,
    pinhole: Literal["auto", "shared", "per-frame"] = "auto",
    views_per_window: int | None = None,
    overlap: int | None = None,
    loops: bool = False,
    memory_gb: float | None = None,
    cache: Path | None = None,
) -> Reconstruction:
    """Cameras, intrinsics, depth, points and confidence of a video or images of any length.

    `source`: a video, image, folder, glob, list of images or paths, Sequence, uint8 array (N H W 3), or tensor
    (N 3 H W). Of a video file with cuts, the `shot` between two of them is taken: "longest", a number from 1, or "all"
    to go across the cuts; `notes` says which. Of it at most `max_frames` frames, evenly spread, are used, None for all;
    they are read one at a time, and `frame_indices` count from the start of the source. All are
    cropped or padded (`fit`) to one grid of their median aspect, of `tokens` patches (by default as many as the model
    is made for). `model` is a name or path that load_model understands, or a module that maps images (1 N 3 H W) to a
    Prediction; it runs without gradients, in evaluation mode, and is given back in the mode it had. `device`: that of a
    module, or else CUDA where there is one. `dtype`: of autocast; by default bfloat16 where the device is fast in it.
    `pinhole`: one for all frames or one for each; "auto" shares it if all originals have one size.

    Frames that fit into one window of `views_per_window` take one pass of the model. More are taken in windows that
    share `overlap` frames (by default a quarter), joined by robust similarities of what both saw; what has a value per
    pixel is then kept on disk, in the folder `cache` (or else in a temporary one that goes with the result), so that
    host memory does not grow with the number of frames. By default a window is as large as the free memory of the
    device, or `memory_gb`, lets it be (`plan_windows`), at most 64 frames; one that does not fit after all is halved,
    as `notes` tells. With `loops`, places that the path comes back to are looked for, proved by predicting both visits
    together, and used to take back the drift between them.

    The world is the frame of the first camera, and the scale is relative. Raises InputError for a source or settings
    that cannot be used, CheckpointError for a model that predicts NaN or infinity.
    """
    check_max_frames(max_frames)
    if pinhole not in PINHOLES:
        raise InputError(f"pinhole is {pinhole!r}; expected one of {', '.join(PINHOLES)}")
    journal = Journal()
    with journal.timed("load"):
        opened = open_frames(source)
        network = open_network(model, device, dtype)
    with journal.timed("read"):
        sequence, first = take_shot(opened, shot, journal.notes)
        indices = spread_frames(len(sequence), max_frames or len(sequence))
        grid = choose_grid(frame_sizes(sequence, indices), tokens or network.tokens)
    plan = plan_windows(
        network.config,
        grid,
        len(indices),
        memory_budget(network.device, memory_gb, network.bytes),
        dtype=network.dtype,
        weights=network.weights,
        chunk_tokens=network.chunk_tokens,
        views=views_per_window,
        overlap=overlap,
    )
    reader = FrameReader(sequence, indices, grid, fit)
    record, world_from_window = _predict_all(network, reader, plan, loops, cache, journal)
    with journal.timed("geometry"):
        geometry = record.finish(world_from_window, _pinhole_of(pinhole, reader.sizes))
    return Reconstruction(
        names=tuple(reader.names),
        frame_indices=first + np.array(indices),
        timestamps=reader.timestamps,
        original_sizes=reader.sizes,
        original_from_model=reader.original_from_model,
        **geometry,
        source=sequence.name,
        model=network.name,
        weights_sha256=network.sha256,
        timings=journal.timings,
        notes=tuple(journal.notes),
    )


def _predict_all(
    network: Network, reader: FrameReader, plan: Plan, loops: bool, cache: Path | None, journal: Journal
) -> tuple[Record, Float[Tensor, "N 4 4"]]:
    """All frames, each from one window, and the similarity of every frame's window into the world of the first."""
    windows = predict_windows(network, reader, plan.frames, plan.views_per_window, plan.overlap, journal)
    before, steps = next(windows), []
    whole = before.stop == plan.frames
    record = Record(in_memory(plan.frames, plan.grid) if whole else on_disk(plan.frames, plan.grid, cache))
    for number, after in enumerate(windows):
        with journal.timed("join"):
            fit = join(before, after)
            steps.append(fit.target_from_source)
            if fit.residual > POOR_FIT:
                journal.notes.append(describe_poor_fit(before, after, fit))
            record.add(before, number, seam(before, after))
        before = after
    record.add(before, len(steps), plan.frames)
    placed = chain(steps)
    if not loops or not steps:
        return record, placed[record.windows]
    with journal.timed("loops"):
        closed, count = correct_drift(network, record, placed, before.stop - before.start)
    journal.notes.append(f"loops: {count} found and closed")
    return record, closed


def _pinhole_of(choice: str, sizes: Int[np.ndarray, "N 2"]) -> str:
    """One pinhole for all frames, or one for each; "auto" shares it if the originals are of one size."""
    if choice != "auto":
        return choice
    return "shared" if (sizes == sizes[0]).all() else "per-frame"


def check_max_frames(most: int | None) -> None:
    """InputError for a number of frames that is none."""
    if most is not None and most < 1:
        raise InputError(f"max_frames is {most}; expected at least 1, or None (--max-frames 0) for all frames")


def take_shot(whole: Sequence, shot: str, notes: list[str]) -> tuple[Sequence, int]:
    """The frames to reconstruct, and where they begin in the whole; `notes` gains a line if it has cuts."""
    sequence, said = choose_shot(whole, shot)
    notes += [said] if said else []
    return sequence, 0 if sequence is whole else sequence.start


def spread_frames(length: int, most: int) -> list[int]:
    """At most `most` indices below `length`, evenly spread, the first and the last among them (the first, if one)."""
    return np.linspace(0, length - 1, min(length, most)).round().astype(int).tolist()


def depth_at_original(reconstruction: Reconstruction, frame: int) -> Float[np.ndarray, "H W"]:
    """The depth of a frame at the size of its upright original image, for `original_intrinsics`.

    Every pixel takes the depth of the model pixel that it lies in, so that no depth is a mixture of two surfaces; 0
    where the model saw nothing (cropped away) or no point.
    """
    height, width = reconstruction.original_sizes[frame].tolist()
    depth = np.where(reconstruction.valid[frame], reconstruction.depth[frame], 0)
    return fit_depth(depth.astype(np.float32), reconstruction.original_from_model[frame], (height, width))
