"""Writes a scene as ETH3D's documentation describes it; the distorted views are made with COLMAP's own camera."""

from pathlib import Path

import numpy as np
from PIL import Image
from rendered import Rendered
from scipy.spatial.transform import Rotation
from synthetic_room import render_rays

# Camera 0 of the scene courtyard, 6048 x 4032: fx fy cx cy k1 k2 p1 p2 k3 k4 sx1 sy1; as public loaders quote it.
COURTYARD = (
    *(3411.42, 3410.02, 3041.29, 2014.07, 0.21047, 0.21102, -5.36231e-06, 0.00051541, -0.158023, 0.406856),
    *(-8.46499e-05, 0.000861313),
)
SIZE, SHRUNK = (168, 252), 24  # H, W and by how much the release's are larger


def parameters(prism: float = 1.0) -> list[float]:
    """Those of the shrunk camera; its tangential and prism terms `prism` times as large."""
    values = [value / SHRUNK for value in COURTYARD[:4]] + list(COURTYARD[4:])
    return [value * prism if place in (6, 7, 10, 11) else value for place, value in enumerate(values)]


def write_eth3d(scene: Path, truth: Rendered, values: list[float]) -> None:
    """`truth` is what the pinhole of the same focal lengths and principal point sees."""
    import pycolmap

    for kind in ("images/dslr_images", "ground_truth_depth/dslr_images", "dslr_calibration_jpg"):
        (scene / kind).mkdir(parents=True)
    height, width = truth.depth.shape[1:]
    camera = pycolmap.Camera(model="THIN_PRISM_FISHEYE", width=width, height=height, params=values)
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1).reshape(-1, 2)
    plane = np.asarray(camera.cam_from_img(pixels)).reshape(height, width, 2)
    rays = np.concatenate([plane, np.ones((height, width, 1))], axis=-1)
    rows = ["# Image list with two lines of data per image:", f"# Number of images: {len(truth.images)}"]
    for k, pose in enumerate(truth.world_from_camera):
        name = f"dslr_images/DSC_{k + 307:04d}.JPG"
        depth, _, image = render_rays(pose, rays)
        Image.fromarray(image).save(scene / "images" / name, quality=95)
        depth = depth.astype("<f4")
        depth[10:20, 30:50] = np.inf  # no scan there
        (scene / "ground_truth_depth" / name).write_bytes(depth.tobytes())
        from_world = np.linalg.inv(pose)
        x, y, z, w = Rotation.from_matrix(from_world[:3, :3]).as_quat()
        rows += [" ".join(map(str, (k + 22, w, x, y, z, *from_world[:3, 3], 0, name))), "12.5 3.25 -1 7.0 8.0 5"]
    (scene / "dslr_calibration_jpg/images.txt").write_text("\n".join(rows) + "\n")
    camera_line = f"0 THIN_PRISM_FISHEYE {width} {height} " + " ".join(map(str, values))
    (scene / "dslr_calibration_jpg/cameras.txt").write_text(f"# Camera list\n{camera_line}\n")
