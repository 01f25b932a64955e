"""MegaDepth as D2-Net's megadepth_utils leave it beside the release, from a rendered scene.

Undistorted_SfM/<scene>/{images,sparse,sparse-txt}: what COLMAP's image_undistorter and model_converter write, a PINHOLE
each; phoenix/S6/zl548/MegaDepth_v1/<scene>/dense0/depths/<name>.h5, dataset "depth" (float32, 0 unknown). Some of
these are ordinal masks with -1, small files (preprocess_scene.py; prepare_data.md of ubc-vision/COTR).
"""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pycolmap
from rendered import Rendered

DEPTHS = "phoenix/S6/zl548/MegaDepth_v1/{}/dense0/depths"
SIZE = (160, 170)  # so that depth takes more than 100 KB


def write_scene(root: Path, scene: Rendered, name: str = "0015") -> Path:
    folder, depths = root / "Undistorted_SfM" / name, root / DEPTHS.format(name)
    for part in (folder / "images", folder / "sparse", folder / "sparse-txt", depths):
        part.mkdir(parents=True)
    model = pycolmap.Reconstruction()
    (fx, _, cx), (_, fy, cy), _ = scene.intrinsics
    for k, pose in enumerate(scene.world_from_camera):
        stem = f"{700 - k}_a1b2_o"
        cv2.imwrite(str(folder / "images" / f"{stem}.jpg"), scene.images[k][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        write_depth(depths / f"{stem}.h5", scene.depth[k].astype(np.float32))
        height, width = scene.depth[k].shape
        camera = pycolmap.Camera(model="PINHOLE", width=width, height=height, params=[fx, fy, cx, cy], camera_id=k + 1)
        model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=f"{stem}.jpg", camera_id=k + 1, image_id=k + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.linalg.inv(pose)[:3]))
    model.write_binary(folder / "sparse")
    model.write_text(folder / "sparse-txt")
    return folder


def write_depth(file: Path, depth: np.ndarray) -> None:
    with h5py.File(file, "w") as content:
        content.create_dataset("depth", data=depth)
