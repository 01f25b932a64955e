"""PointOdyssey (v1.2): rendered scenes with moving people, animals and objects.

After the repository y-zheng18/point_odyssey: utils/reprojection.py in its later form, and the scripts that render and
export. `extrinsics` are world-to-camera with OpenCV axes; those of the first release, in `annotations.npz`, are of
other axes and mirrored, and are refused. The pinhole has its centre at width / 2, height / 2 of the renderer, so pixel
centres are half-integers. Cameras may be stored in 16 bits: their rotations are brought to SO(3). Depth is 16-bit,
65535 steps to 1000 m, which also stands for no surface; a step is 15 mm, too coarse for normals.
"""

import zipfile
from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_values
from flow3r.data.frame import Sequence
from flow3r.errors import InputError
from flow3r.geometry.se3 import nearest_rotation

LAYOUT = "{train,val,test}/<scene>/{rgbs/rgb_00000.jpg, depths/depth_00000.png, anno.npz}"
STEP = 1000 / 65535  # metres
NOTHING = 65535


def read_metres(file: Path) -> Float[np.ndarray, "H W"]:
    """z-depth in metres, 0 where there is no surface."""
    values = read_values(file)
    return np.where(values == NOTHING, 0, values).astype(np.float32) * np.float32(STEP)


def read_cameras(folder: Path) -> tuple[Float[np.ndarray, "N 3 3"], Float[np.ndarray, "N 4 4"]]:
    """Intrinsics and world-to-camera matrices of all frames; they may be non-finite."""
    file = folder / "anno.npz"
    if not file.is_file():
        old = " (annotations.npz is of the first release: other axes, mirrored)" * (folder / "annotations.npz").exists()
        raise InputError(f"{file}: missing{old}; expected v1.2 of PointOdyssey, {LAYOUT}")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["intrinsics"].astype(np.float64), arrays["extrinsics"].astype(np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: no 'intrinsics' and 'extrinsics' that can be read ({error})") from error


def listed_frames(folder: Path) -> Listing:
    """The frames of a scene that have depth and a camera."""
    intrinsics, camera_from_world = read_cameras(folder)
    images, left_out = [], Counter()
    for image in sorted((folder / "rgbs").glob("rgb_*.jpg")):
        number = int(image.stem.removeprefix("rgb_"))
        depth = folder / "depths" / f"depth_{number:05d}.png"
        if not depth.is_file():
            left_out["depth file missing"] += 1
        elif number >= len(intrinsics):
            left_out["no camera"] += 1
        elif not (np.isfinite(intrinsics[number]).all() and np.isfinite(camera_from_world[number]).all()):
            left_out["camera not finite"] += 1
        else:
            rigid = camera_from_world[number].copy()
            rigid[:3, :3] = nearest_rotation(torch.from_numpy(rigid[:3, :3])).numpy()
            pose = np.linalg.inv(rigid)
            images.append(PosedImage(image, intrinsics[number], pose, float(number), partial(read_metres, depth)))
    return Listing(images, left_out)


def sequences(root: Path) -> List[Sequence]:
    """The scenes below `root`, such as train/ani."""
    found = [path.parent for path in folders(root, "*/*/rgbs", "PointOdyssey", LAYOUT)]
    return [PosedImages(f.relative_to(root).as_posix(), partial(listed_frames, f)) for f in found]


POINTODYSSEY = Dataset(
    name="pointodyssey",
    title="PointOdyssey",
    sequences=sequences,
    held_out=lambda root: [scene.name for scene in sequences(root) if not scene.name.startswith("train/")],
    labels="posed",
    layout=LAYOUT,
    licence="CC BY-NC-SA 4.0 (its README)",
    url="https://pointodyssey.com",
    citation="Zheng et al., PointOdyssey: A Large-Scale Synthetic Dataset for Long-Term Point Tracking, ICCV 2023",
)
