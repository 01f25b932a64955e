"""Writes a scan of DTU as Spann3R packs it."""

from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered


def write_dtu(scan: Path, truth: Rendered) -> None:
    """After the loaders of Spann3R and π³; the mask is the image without its left quarter, the depth there is wrong."""
    for kind in ("images", "depths", "binary_masks", "cams"):
        (scan / kind).mkdir(parents=True)
    for k, pose in enumerate(truth.world_from_camera):
        cv2.imwrite(str(scan / f"images/{k:08d}.jpg"), truth.images[k][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        depth, mask = truth.depth[k].astype(np.float32) * 1000, np.full(truth.depth[k].shape, 255, dtype=np.uint8)
        mask[:, :16] = 0
        depth[:, :18] = 1.0
        depth[5, 40] = 0
        np.save(scan / f"depths/{k:08d}.npy", depth)
        cv2.imwrite(str(scan / f"binary_masks/{k:08d}.png"), mask)
        extrinsic, intrinsic = np.linalg.inv(pose), truth.intrinsics
        extrinsic[:3, 3] *= 1000
        blocks = ("\n".join(" ".join(f"{x:.8g}" for x in row) for row in matrix) for matrix in (extrinsic, intrinsic))
        text = "extrinsic\n{}\n\nintrinsic\n{}\n\n425.0 2.5\n".format(*blocks)
        (scan / f"cams/{k:08d}_cam.txt").write_text(text)
