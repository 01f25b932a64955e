"""Bonn RGB-D Dynamic: a hand-held camera among moving people, tracked by motion capture.

After the dataset's page, as the loaders of PIN-SLAM, KISS-SLAM and others repeat it: files and units are those of the
TUM RGB-D benchmark (see tum_format), but `groundtruth.txt` is the pose T_gt of a marker plate, and that of the camera
is T_ROS T_gt T_ROS T_m. As printed, the rotation of T_m carries a scale of 1.0593, which belongs to no rigid motion;
it is brought to SO(3) here. Should it belong to the depth, which the page does not say, depth reads 5.6 % short. The
calibration is OpenCV's, with integer pixel centres and distortion, which is undone. The streams are associated by
time, not by position in their lists.
"""

from collections.abc import Sequence as List
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole
from flow3r.data.datasets.tum_format import listed_frames
from flow3r.data.frame import Sequence
from flow3r.geometry.se3 import nearest_rotation

INTRINSICS = pinhole(542.822841, 542.576870, 315.593520 + 0.5, 237.756098 + 0.5)
DISTORTION = (0.039903, -0.099343, -0.000730, -0.000144, 0.0)  # k1 k2 p1 p2 k3
T_ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # its own inverse
T_M = np.array(
    [
        [1.0157, 0.1828, -0.2389, 0.0113],
        [0.0009, -0.8431, -0.6413, -0.0098],
        [-0.3009, 0.6147, -0.8085, 0.0111],
        [0, 0, 0, 1],
    ]
)
LAYOUT = "rgbd_bonn_<name>/{rgb,depth}/<time>.png with rgb.txt, depth.txt and groundtruth.txt"


def world_from_camera(world_from_marker: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """The pose of the colour camera, of OpenCV axes, from that of the marker plate."""
    camera = T_M.copy()
    camera[:3, :3] = nearest_rotation(torch.from_numpy(T_M[:3, :3])).numpy()
    return T_ROS @ world_from_marker @ T_ROS @ camera


def sequences(root: Path, raw: bool = False) -> List[Sequence]:
    """The sequences below `root`, or below the folder `rgbd_bonn_dataset` in it.

    `raw`: with the poses of the marker plate in the place of the camera's, as MonST3R's preparation takes them.
    """
    inner = root / "rgbd_bonn_dataset"
    found = folders(inner if inner.is_dir() else root, "rgbd_bonn_*", "Bonn RGB-D Dynamic", LAYOUT)
    pose = np.asarray if raw else world_from_camera
    listing = partial(listed_frames, intrinsics=INTRINSICS, distortion=DISTORTION, world_from_camera=pose)
    return [PosedImages(folder.name, partial(listing, folder)) for folder in found]


BONN = Dataset(
    name="bonn",
    title="Bonn RGB-D Dynamic",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="see the dataset's page",
    url="https://www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset/",
    citation="Palazzolo et al., ReFusion: 3D Reconstruction in Dynamic Environments for RGB-D Cameras Exploiting "
    "Residuals, IROS 2019",
)
BONN_RAW = replace(BONN, title="Bonn RGB-D Dynamic, poses as tracked", sequences=partial(sequences, raw=True))
