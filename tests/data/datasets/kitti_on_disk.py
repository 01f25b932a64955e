"""Writes a drive of the KITTI depth benchmark."""

from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered

DRIVE = "2011_09_26_drive_0002_sync"
# calib_cam_to_cam.txt of 2011_09_26, in part.
CALIBRATION = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
S_rect_02: 1.242000e+03 3.750000e+02
P_rect_02: 7.215377e+02 0.000000e+00 6.095593e+02 4.485728e+01 0.000000e+00 7.215377e+02 1.728540e+02 2.163791e-01 \
0.000000e+00 0.000000e+00 1.000000e+00 2.745884e-03
"""


def write_kitti(root: Path, truth: Rendered, drive: str = DRIVE) -> None:
    """After the devkit: numbers start at 5 in the depth, at 0 in the recording; every third row is scanned."""
    date = root / drive[:10]
    depth, images = root / f"val/{drive}/proj_depth/groundtruth/image_02", date / f"{drive}/image_02/data"
    for folder in (depth, images):
        folder.mkdir(parents=True)
    (date / "calib_cam_to_cam.txt").write_text(CALIBRATION)
    for k in range(4, 6 + len(truth.images)):
        index = min(max(k - 5, 0), len(truth.images) - 1)
        cv2.imwrite(str(images / f"{k:010d}.png"), truth.images[index][..., ::-1])
        if 5 <= k < 5 + len(truth.images):
            raw = np.round(truth.depth[index] * 256).astype(np.uint16)
            raw[np.arange(len(raw)) % 3 > 0] = 0
            cv2.imwrite(str(depth / f"{k:010d}.png"), raw)
