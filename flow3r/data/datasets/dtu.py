"""DTU MVS: objects on a table, seen by a camera on a robot's arm, as packed by Spann3R.

After Spann3R's loader and its script that renders the depth from a mesh of the scans, and π³'s loader, which reads the
same. Cameras are MVSNet's text, lengths in mm; both are in metres here. Depth is unknown where it is 0 and outside
`binary_masks`, eroded by 10 x 10 pixels as those loaders do. K is in half-integer pixel centres, as MVSNet samples
images with it and as the renderer of the depth (pyrender) takes it; the loaders use it as in integer ones. Real cameras
were read (docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_depth_array, read_values
from flow3r.data.datasets.mvsnet import read_camera
from flow3r.data.frame import Sequence

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
        intrinsics, camera_from_world = read_camera(camera)
        if not (np.isfinite(intrinsics).all() and np.isfinite(camera_from_world).all()):
            left_out["camera not finite"] += 1
            continue
        camera_from_world[:3, 3] *= METRES
        pose = np.linalg.inv(camera_from_world)
        images.append(PosedImage(file, intrinsics, pose, float(file.stem), partial(_depth, depth, mask)))
    return Listing(images, left_out)


def _depth(file: Path, mask_file: Path) -> Float[np.ndarray, "H W"]:
    import cv2

    depth = read_depth_array(file).astype(np.float32) * np.float32(METRES)
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
