"""Writes a scene as the README of Neural RGB-D Surface Reconstruction describes its data."""

from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered


def write_nrgbd(folder: Path, truth: Rendered) -> None:
    """`truth` has one focal length and its principal point in the middle of the image, as the release has."""
    for kind in ("images", "depth", "depth_filtered"):
        (folder / kind).mkdir(parents=True)
    (folder / "focal.txt").write_text(f"{truth.intrinsics[0, 0]}\n")
    rows = []
    for k, pose in enumerate(truth.world_from_camera):
        cv2.imwrite(str(folder / f"images/img{k}.png"), truth.images[k][..., ::-1])
        depth = np.round(truth.depth[k] * 1000).astype(np.uint16)
        depth[:3, :5] = 0
        depth[-3:, :5] = 20000
        cv2.imwrite(str(folder / f"depth/depth{k}.png"), depth)
        cv2.imwrite(str(folder / f"depth_filtered/depth{k}.png"), np.full_like(depth, 1234))
        opengl = pose @ np.diag([1.0, -1.0, -1.0, 1.0])  # x right, y up, looking along -z
        rows += [" ".join(f"{number:.9f}" for number in row) for row in opengl]
    (folder / "poses.txt").write_text("\n".join(rows) + "\n")
