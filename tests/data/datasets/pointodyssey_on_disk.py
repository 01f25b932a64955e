"""A scene in the layout of PointOdyssey (v1.2), after the export and reprojection scripts of its repository."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from rendered import Rendered


def write_pointodyssey(
    root: Path, scene: Rendered, name: str = "ani", split: str = "train", dtype: type = np.float32
) -> Path:
    """The folder of the scene. Centres are half-integer, as the pinhole of the renderer is at width / 2, height / 2."""
    folder = root / split / name
    for inner in ("rgbs", "depths", "masks", "normals"):
        (folder / inner).mkdir(parents=True)
    count = len(scene.images)
    for k, (image, depth) in enumerate(zip(scene.images, scene.depth)):
        Image.fromarray(image).save(folder / "rgbs" / f"rgb_{k:05d}.jpg", quality=95)
        far = depth.copy()
        far[0, :5] = 1e10  # no surface
        values = (np.clip(far, 0, 1000) * 65535 / 1000).astype(np.uint16)
        cv2.imwrite(str(folder / "depths" / f"depth_{k:05d}.png"), values)
    np.savez(
        folder / "anno.npz",
        trajs_2d=np.zeros((count, 4, 2), dtype),
        trajs_3d=np.zeros((count, 4, 3), dtype),
        valids=np.ones((count, 4), bool),
        visibs=np.ones((count, 4), bool),
        intrinsics=np.tile(scene.intrinsics, (count, 1, 1)).astype(dtype),
        extrinsics=np.linalg.inv(scene.world_from_camera).astype(dtype),
    )
    return folder
