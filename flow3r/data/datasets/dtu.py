"""DTU MVS: objects on a table, seen by a camera on a robot's arm, as packed by Spann3R.

After Spann3R's loader and its script that renders the depth from a mesh of the scans, and π³'s loader, which reads the
same. `cams/%08d_cam.txt` is MVSNet's text: the word extrinsic and the 4 x 4 matrix of the camera from the world, the
word intrinsic and K, then the range of depth; lengths are in mm, and in metres here. Depth is unknown where it is 0
and outside `binary_masks`, eroded by 10 x 10 pixels as those loaders do. K is taken as that of the calibration, of
integer pixel centres.
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_values
from flow3r.data.frame import Sequence
from flow3r.errors import InputError

EVALUATED = (
    1,
    4,
    9,
    10,
    11,
    12,
    13,
    15,
    23,
    24,
    29,
    32,
    33,
    34,
    48,
    49,
    62,
    75,
    77,
    110,
    114,
    118,
)  # scans for testing
METRES = 0.001  # in a unit of the release
EROSION = 10
LAYOUT = "scan<N>/{images/%08d.jpg,depths/%08d.npy,binary_masks/%08d.png,cams/%08d_cam.txt}"


def sequences(root: Path) -> List[Sequence]:
    """The scans below `root`."""
    return [PosedImages(folder.name, partial(_listing, folder)) for folder in folders(root, "scan*", "DTU", LAYOUT)]


def _listing(scan: Path) -> Listing:
    images, left_out = [], Counter()
    for file in sorted((scan / "images").glob("*.jpg")):
        depth, mask = scan / f"depths/{file.stem}.npy", scan / f"binary_masks/{file.stem}.png"
        camera = scan / f"cams/{file.stem}_cam.txt"
        missing = next((path for path in (depth, mask, camera) if not path.is_file()), None)
        if missing is not None:
            left_out[f"no file in {missing.parent.name}"] += 1
            continue
        intrinsics, pose = read_camera(camera)
        if not (np.isfinite(intrinsics).all() and np.isfinite(pose).all()):
            left_out["camera not finite"] += 1
            continue
        images.append(PosedImage(file, intrinsics, pose, float(file.stem), partial(_depth, depth, mask)))
    return Listing(images, left_out)


def read_camera(file: Path) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"]]:
    """(K of half-integer pixel centres, world from camera in metres) of MVSNet's text."""
    try:
        words = file.read_text(encoding="utf-8").split()
        start, middle = words.index("extrinsic") + 1, words.index("intrinsic") + 1
        camera_from_world = np.array(words[start : start + 16], dtype=np.float64).reshape(4, 4)
        intrinsics = np.array(words[middle : middle + 9], dtype=np.float64).reshape(3, 3)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a camera of MVSNet: extrinsic 4 x 4, intrinsic 3 x 3 ({error})") from error
    intrinsics[:2, 2] += 0.5
    camera_from_world[:3, 3] *= METRES
    finite = np.isfinite(camera_from_world).all()
    return intrinsics, np.linalg.inv(camera_from_world) if finite else camera_from_world


def _depth(file: Path, mask_file: Path) -> Float[np.ndarray, "H W"]:
    import cv2

    try:
        depth = np.load(file, allow_pickle=False).astype(np.float32) * np.float32(METRES)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file}: not an array that can be read ({error})") from error
    if depth.ndim != 2:
        raise InputError(f"{file}: expected depth of H x W, got {depth.shape}")
    mask = (read_values(mask_file) > 127).astype(np.uint8)
    mask = cv2.resize(mask, (depth.shape[1], depth.shape[0]), interpolation=cv2.INTER_NEAREST)
    return np.where(cv2.erode(mask, np.ones((EROSION, EROSION), np.uint8)) > 0, depth, np.float32(0))


DTU = Dataset(
    name="dtu",
    title="DTU MVS",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="see the dataset's page",
    url="https://roboimagedata.compute.dtu.dk/?page_id=36",
    citation="Aanæs et al., Large-Scale Data for Multiple-View Stereopsis, IJCV 2016",
    rigid=True,
)
