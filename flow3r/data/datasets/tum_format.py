"""The files of the TUM RGB-D benchmark, which other RGB-D sequences follow: three streams, each with its own clock.

`rgb.txt` and `depth.txt` list `timestamp file`, `groundtruth.txt` lists `timestamp tx ty tz qx qy qz qw`, the pose of
what the motion capture tracks in its world. The file formats page of the benchmark: depth is 16-bit PNG of 5000 steps
a metre, registered to the colour image, 0 where unknown; comments start with #.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from flow3r.data.datasets.dataset import Listing, PosedImage
from flow3r.data.datasets.encodings import read_depth
from flow3r.errors import InputError
from flow3r.geometry.se3 import rotation_from_quaternion

STEPS = 5000.0  # of depth in a metre
GAP = 0.02  # seconds by which two streams may differ, as in the benchmark's own association
POSE_COLUMNS = 8


def listed_frames(
    folder: Path,
    intrinsics: Float[np.ndarray, "3 3"],
    distortion: tuple[float, ...],
    world_from_camera: Callable[[Float[np.ndarray, "4 4"]], Float[np.ndarray, "4 4"]],
) -> Listing:
    """The colour images of a sequence with the depth and the tracked pose nearest in time; `world_from_camera` maps the
    latter to the camera's.
    """
    times, files = _stamped_files(folder / "rgb.txt")
    depth_times, depth_files = _stamped_files(folder / "depth.txt")
    track = _track(folder / "groundtruth.txt")
    depth_of, depth_gap = nearest(times, depth_times)
    pose_of, pose_gap = nearest(times, np.array([time for time, _ in track]))
    images, left_out = [], Counter()
    for k, (time, file) in enumerate(zip(times, files)):
        if depth_gap[k] > GAP or pose_gap[k] > GAP:
            left_out[f"no {'depth' if depth_gap[k] > GAP else 'pose'} within {GAP} s"] += 1
            continue
        tracked = track[pose_of[k]][1]
        depth_file = folder / depth_files[depth_of[k]]
        if not np.isfinite(tracked).all():
            left_out["pose not finite"] += 1
        elif not (folder / file).is_file() or not depth_file.is_file():
            left_out["image or depth file missing"] += 1
        else:
            pose = world_from_camera(tracked)
            depth = _reader(depth_file)
            images.append(PosedImage(folder / file, intrinsics, pose, float(time), depth, distortion=distortion))
    return Listing(images, left_out)


def nearest(times: Float[np.ndarray, "N"], others: Float[np.ndarray, "M"]) -> tuple[Int[np.ndarray, "N"], np.ndarray]:
    """For each time, the index of the nearest of `others` and its distance (N,), infinite if there are none."""
    if len(others) == 0:
        return np.zeros(len(times), dtype=np.int64), np.full(len(times), np.inf)
    order = np.argsort(others, kind="stable")
    right = np.searchsorted(others[order], times).clip(1, max(len(others) - 1, 1))
    right = np.minimum(right, len(others) - 1)
    left = np.maximum(right - 1, 0)
    closer = np.where(times - others[order[left]] <= others[order[right]] - times, left, right)
    return order[closer].astype(np.int64), np.abs(others[order[closer]] - times)


def _rows(index: Path, columns: int) -> list[list[str]]:
    """The words of each line that is no comment. InputError if a line has fewer than `columns`."""
    try:
        lines = index.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{index}: not a list of timestamps that can be read ({error})") from error
    rows = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for row in rows:
        if len(row) < columns:
            raise InputError(f"{index}: a line of {len(row)} words, {' '.join(row)!r}; expected {columns}")
    return rows


def _stamped_files(index: Path) -> tuple[Float[np.ndarray, "N"], list[str]]:
    """(times ascending, files) of rgb.txt or depth.txt."""
    try:
        pairs = sorted((float(time), file) for time, file, *_ in _rows(index, 2))
    except ValueError as error:
        raise InputError(f"{index}: expected lines of a timestamp and a file ({error})") from error
    return np.array([time for time, _ in pairs]), [file for _, file in pairs]


def _track(file: Path) -> list[tuple[float, Float[np.ndarray, "4 4"]]]:
    """(time, world from what is tracked) of groundtruth.txt; NaN for a quaternion of length 0."""
    try:
        rows = np.array([row[:POSE_COLUMNS] for row in _rows(file, POSE_COLUMNS)], dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{file}: expected lines of timestamp tx ty tz qx qy qz qw ({error})") from error
    if len(rows) == 0:
        return []
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, 3] = rows[:, 1:4]
    wxyz = rows[:, [7, 4, 5, 6]]
    poses[:, :3, :3] = rotation_from_quaternion(torch.from_numpy(wxyz)).numpy()
    poses[~wxyz.any(axis=1)] = np.nan
    return list(zip(rows[:, 0].tolist(), poses))


def _reader(file: Path) -> Callable[[], Float[np.ndarray, "H W"]]:
    return lambda: read_depth(file, 1 / STEPS)
