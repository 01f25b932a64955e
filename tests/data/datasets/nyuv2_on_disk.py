"""Writes NYUv2 as MonST3R prepares it."""

from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered


def write_nyuv2(root: Path, truth: Rendered) -> None:
    """As MonST3R's preparation writes it: names are those of the HDF5 files, arrays float32 in metres."""
    for kind in ("nyu_images", "nyu_depths"):
        (root / "val" / kind).mkdir(parents=True)
    for k, (image, depth) in enumerate(zip(truth.images, truth.depth)):
        cv2.imwrite(str(root / f"val/nyu_images/{k + 1:05d}.png"), image[..., ::-1])
        depth = depth.astype(np.float32)
        depth[0, :2] = 0, np.nan
        np.save(root / f"val/nyu_depths/{k + 1:05d}.npy", depth)
