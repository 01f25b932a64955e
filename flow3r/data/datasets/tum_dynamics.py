"""TUM-dynamics: the dynamic sequences of the TUM RGB-D benchmark, read from the benchmark's own files.

After the file formats and calibration pages of the benchmark (see tum_format) and MonST3R's preparation of these
sequences. `groundtruth.txt` is the pose of the colour camera. The images of freiburg3 were freed of distortion before
release; those of freiburg1 and freiburg2 were not, and are undistorted here. Principal points are those of ROS and
OpenCV, of integer pixel centres. Every associated frame is read: the 90 frames at stride 3 of MonST3R's preparation are
a choice of the evaluation.
"""

from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole
from flow3r.data.datasets.tum_format import listed_frames
from flow3r.data.frame import Sequence
from flow3r.errors import InputError

CALIBRATIONS = {  # fx fy cx cy of the colour camera, and its distortion k1 k2 p1 p2 k3
    "freiburg1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "freiburg2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "freiburg3": ((535.4, 539.2, 320.1, 247.6), ()),
}
LAYOUT = "rgbd_dataset_freiburg3_<name>/{rgb,depth}/<time>.png with rgb.txt, depth.txt and groundtruth.txt"


def sequences(root: Path) -> List[Sequence]:
    """The sequences below `root` whose folders bear the benchmark's names."""
    found = folders(root, "rgbd_dataset_freiburg[123]_*", "TUM-dynamics", LAYOUT)
    return [PosedImages(folder.name, partial(_listing, folder)) for folder in found]


def _listing(folder: Path) -> Listing:
    camera = next((name for name in CALIBRATIONS if name in folder.name), None)
    if camera is None:
        raise InputError(f"{folder}: expected one of {', '.join(CALIBRATIONS)} in the name")
    (fx, fy, cx, cy), distortion = CALIBRATIONS[camera]
    return listed_frames(folder, pinhole(fx, fy, cx + 0.5, cy + 0.5), distortion, lambda tracked: tracked)


TUM_DYNAMICS = Dataset(
    name="tum_dynamics",
    title="TUM RGB-D, dynamic objects",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="CC BY 4.0",
    url="https://cvg.cit.tum.de/data/datasets/rgbd-dataset",
    citation="Sturm et al., A Benchmark for the Evaluation of RGB-D SLAM Systems, IROS 2012",
)
