"""TUM trajectory: one line `timestamp tx ty tz qx qy qz qw` per frame, camera-to-world."""

from pathlib import Path

import torch

from flow3r.geometry.se3 import quaternion_from_rotation
from flow3r.types import Reconstruction


def write_tum(reconstruction: Reconstruction, path: Path) -> None:
    """Timestamps are the source's own, in seconds; positions are in the unit of the reconstruction."""
    poses = torch.from_numpy(reconstruction.world_from_camera).double()
    wxyz = quaternion_from_rotation(poses[:, :3, :3])
    rows = torch.cat([poses[:, :3, 3], wxyz[:, [1, 2, 3, 0]]], dim=-1).tolist()
    lines = ["# timestamp tx ty tz qx qy qz qw (world from camera, OpenCV axes)"]
    for time, row in zip(reconstruction.timestamps.tolist(), rows, strict=True):
        lines.append(" ".join([f"{time:.6f}", *(f"{value:.9f}" for value in row)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
