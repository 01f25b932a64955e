"""Writes a clip of RealEstate10K beside its frames."""

from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered


def write_re10k(root: Path, clip: str, truth: Rendered) -> Path:
    """After the dataset's page: intrinsics over width and height, poses from world to camera, times in microseconds."""
    cameras, frames = root / f"RealEstate10K/test/{clip}.txt", root / f"dataset/test/{clip}"
    cameras.parent.mkdir(parents=True, exist_ok=True)
    frames.mkdir(parents=True)
    height, width = truth.images.shape[1:3]
    k = truth.intrinsics
    lines = ["https://www.youtube.com/watch?v=QShWPZxTDoE"]
    for number, pose in enumerate(truth.world_from_camera):
        time = 9_933_000 + 100_100 * number  # from seven digits to eight: names do not sort as times
        intrinsics = (k[0, 0] / width, k[1, 1] / height, k[0, 2] / width, k[1, 2] / height, 0, 0)
        numbers = (*intrinsics, *np.linalg.inv(pose)[:3].ravel())
        lines.append(f"{time} " + " ".join(f"{x:.9f}" for x in numbers))
        cv2.imwrite(str(frames / f"{time}.png"), truth.images[number][..., ::-1])
    cameras.write_text("\n".join(lines) + "\n")
    return cameras
