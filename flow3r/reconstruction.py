"""Images or a video in, cameras and points out: one feed-forward pass, and the pinholes that explain it."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from flow3r.config import ModelConfig
from flow3r.data.arrays import FrameSource, open_frames
from flow3r.data.frame import Sequence
from flow3r.data.transforms import SMALLEST_SIDE, choose_grid, fit_depth, fit_frame
from flow3r.errors import CheckpointError, InputError
from flow3r.geometry.camera import (
    centred_intrinsics,
    focal_from_points,
    pixel_grid,
    project,
    shared_focal_from_points,
    unproject,
)
from flow3r.geometry.se3 import from_parts, invert, nearest_rotation, transform_maps
from flow3r.model.checkpoints import load_model
from flow3r.nn.precision import fast_dtype
from flow3r.types import Prediction, Reconstruction

NEAREST = 1e-6  # points at smaller z are not in front of their camera


def reconstruct(
    source: FrameSource,
    model: str | Path | nn.Module = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    fit: Literal["crop", "pad"] = "crop",
    max_frames: int = 32,
    tokens: tuple[int, int] | None = None,
    pinhole: Literal["auto", "shared", "per-frame"] = "auto",
) -> Reconstruction:
    """Cameras, intrinsics, depth, points and confidence of a video or images, in one pass of `model`.

    `source`: a video, image, folder, glob, list of images or paths, Sequence, uint8 array (N H W 3), or tensor
    (N 3 H W). At most `max_frames` frames, evenly spread, are read, one at a time. All are cropped or padded (`fit`) to
    one grid of their median aspect, of `tokens` patches (by default as many as the model is made for). `model` is a
    name or path that load_model understands, or a module that maps images (1 N 3 H W) to a Prediction; it runs without
    gradients, in evaluation mode, and is given back in the mode it had. `device`: that of a module, or else CUDA where
    there is one. `dtype`: of autocast; by default bfloat16 where the device is fast in it. `pinhole`: one for all
    frames or one for each; "auto" shares it if all originals have one size.

    The world is the frame of the first camera, and the scale is relative. Raises InputError for a source that cannot
    be used, CheckpointError for a model that predicts NaN or infinity.
    """
    if max_frames < 1:
        raise InputError(f"max_frames is {max_frames}; expected at least 1")
    began = time.perf_counter()
    sequence = open_frames(source)
    network, name = _network(model, device)
    loaded = time.perf_counter()
    tokens = tokens or _tokens_of(network)
    frames = _read_frames(sequence, spread_frames(len(sequence), max_frames), tokens, fit)
    read = time.perf_counter()
    prediction = _predict(network, name, frames, dtype)
    predicted = time.perf_counter()
    geometry = _recover_geometry(prediction, frames, pinhole)
    timings = {"load": loaded - began, "read": read - loaded, "predict": predicted - read}
    return Reconstruction(
        names=frames.names,
        frame_indices=frames.indices,
        timestamps=frames.timestamps,
        original_sizes=frames.original_sizes,
        original_from_model=frames.original_from_model,
        colours=frames.images,
        **geometry,
        source=sequence.name,
        model=name,
        weights_sha256=hash_weights(network),
        timings={**timings, "geometry": time.perf_counter() - predicted},
    )


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


def hash_weights(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and values of all tensors of a model, wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Frames:
    """The frames that are used, on the model's grid."""

    images: UInt8[np.ndarray, "N H W 3"]
    valid: Bool[np.ndarray, "N H W"]
    original_from_model: Float[np.ndarray, "N 3 3"]
    original_sizes: Int[np.ndarray, "N 2"]
    indices: Int[np.ndarray, "N"]
    timestamps: Float[np.ndarray, "N"]
    names: tuple[str, ...]


def _network(model: str | Path | nn.Module, device: str | torch.device | None) -> tuple[nn.Module, str]:
    """The model, loaded where it is not one yet, and its name."""
    if not isinstance(model, nn.Module):
        return load_model(model, device or ("cuda" if torch.cuda.is_available() else "cpu")), Path(model).name
    if device is not None and _device_of(model).type != torch.device(device).type:
        raise InputError(
            f"the model is on {_device_of(model)}, not on {device}: move it there first, or leave out device"
        )
    return model, type(model).__name__


def _tokens_of(network: nn.Module) -> tuple[int, int]:
    """The patches of an image that a model is made for; the public model's where it does not say."""
    config = getattr(network, "config", None)
    return config.tokens if isinstance(config, ModelConfig) else ModelConfig().tokens


def _device_of(network: nn.Module) -> torch.device:
    first = next(network.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _read_frames(
    sequence: Sequence, indices: list[int], tokens: tuple[int, int], fit: Literal["crop", "pad"]
) -> _Frames:
    """Read and fit one frame at a time, so that the originals never stand in memory together.

    The grid is guessed from the first frame; where the others change it, all are read again.
    """
    grid, final = None, None
    while grid is None or grid != final:
        grid = final
        fitted, sizes, times, names = [], [], [], []
        for frame in sequence.frames(indices):
            height, width = frame.image.shape[:2]
            if min(height, width) < SMALLEST_SIDE:
                raise InputError(f"{frame.name}: is {height}x{width}; expected at least {SMALLEST_SIDE} on both sides")
            sizes.append((height, width))
            grid = grid or choose_grid(sizes, tokens)
            fitted.append(fit_frame(frame.image, grid, fit))
            times.append(frame.timestamp)
            names.append(frame.name)
        if not sizes:
            raise InputError(f"{sequence.name}: gave no frames; expected at least one")
        final = choose_grid(sizes, tokens)
    return _Frames(
        images=np.stack([frame.image for frame in fitted]),
        valid=np.stack([frame.valid for frame in fitted]),
        original_from_model=np.linalg.inv(np.stack([frame.model_from_original for frame in fitted])),
        original_sizes=np.array(sizes),
        indices=np.array(indices),
        timestamps=np.array(times, dtype=np.float64),
        names=tuple(names),
    )


def _predict(network: nn.Module, name: str, frames: _Frames, dtype: torch.dtype | None) -> Prediction:
    """One forward pass without gradients. The prediction, B = 1, is finite, in float64, on the CPU."""
    device = _device_of(network)
    dtype = dtype or fast_dtype(device)
    images = torch.from_numpy(frames.images).to(device).movedim(-1, -3)[None].float() / 255
    autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
    with _evaluating(network), torch.inference_mode(), autocast:
        prediction = network(images, outputs=("points", "confidence", "cameras"))
    fields = ("local_points", "confidence_logit", "world_from_camera")
    found = {field: getattr(prediction, field)[0].cpu().double() for field in fields}
    for field, value in found.items():
        for frame, finite in enumerate(torch.isfinite(value).flatten(1).all(dim=1).tolist()):
            if not finite:
                raise CheckpointError(
                    f"{name}: predicts NaN or infinite {field} for {frames.names[frame]} in {dtype}; expected finite "
                    "values: its weights are damaged, or pass dtype=torch.float32"
                )
    return Prediction(**{field: value[None] for field, value in found.items()})


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is back in the mode that it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _recover_geometry(prediction: Prediction, frames: _Frames, pinhole: str) -> dict[str, np.ndarray | str]:
    """Poses in the first camera's frame, pinholes from the pointmaps, points at their depth on the pinholes' rays."""
    local, poses = prediction.local_points[0], prediction.world_from_camera[0]
    confidence = prediction.confidence[0]
    poses = from_parts(nearest_rotation(poses[:, :3, :3]), poses[:, :3, 3])
    first = torch.eye(4, dtype=poses.dtype)[None]  # exactly, not to rounding
    world_from_camera = torch.cat([first, invert(poses[:1]) @ poses[1:]])

    valid = torch.from_numpy(frames.valid) & (local[..., 2] > NEAREST)
    weight = torch.where(valid, confidence, 0.0)
    height, width = valid.shape[-2:]
    frame_intrinsics = centred_intrinsics(focal_from_points(local, weight), height, width)
    shared_intrinsics = centred_intrinsics(shared_focal_from_points(local, weight), height, width)
    if pinhole == "auto":
        pinhole = "shared" if (frames.original_sizes == frames.original_sizes[0]).all() else "per-frame"
    intrinsics = shared_intrinsics.expand_as(frame_intrinsics) if pinhole == "shared" else frame_intrinsics

    depth = torch.where(valid, local[..., 2], 0.0)
    return {
        "world_from_camera": world_from_camera.numpy(),
        "intrinsics": intrinsics.numpy().copy(),
        "frame_intrinsics": frame_intrinsics.numpy(),
        "shared_intrinsics": shared_intrinsics.numpy(),
        "intrinsics_residual": _residual(local, intrinsics, weight).numpy(),
        "depth": depth.float().numpy(),
        "points": transform_maps(world_from_camera, unproject(depth, intrinsics)).float().numpy(),
        "raw_points": transform_maps(world_from_camera, local).float().numpy(),
        "confidence": confidence.float().numpy(),
        "valid": valid.numpy(),
        "pinhole": pinhole,
    }


def _residual(
    local: Float[Tensor, "N H W 3"], intrinsics: Float[Tensor, "N 3 3"], weight: Float[Tensor, "N H W"]
) -> Float[Tensor, "N"]:
    """RMS pixels, weighted by confidence, between where raw points project and the centres of their pixels."""
    height, width = weight.shape[-2:]
    error = project(local, intrinsics) - pixel_grid(height, width, dtype=local.dtype)
    squared = (weight * error.square().sum(-1)).sum((-2, -1))
    return (squared / weight.sum((-2, -1)).clamp_min(torch.finfo(weight.dtype).tiny)).sqrt()
