"""7-Scenes: rooms seen by a hand-held Kinect, with the poses of KinectFusion.

After the release's page and the preparation script of SimpleRecon (7scenes_preprocessing), whose calibration is that
of "On the Limits of Pseudo Ground Truth in Visual Camera Re-localisation". Depth is of another camera than colour:
focal length 585 against 525, a rigid motion of 2.6 cm between them, and the poses are the depth camera's. What is
read is the colour camera's: its depth is `frame-*.depth.proj.png` where that preparation has written it, and else the
raw depth, projected here in the same way, which leaves holes; its pose is that of the release moved by the
calibration. SimpleRecon, Spann3R and π³ take the pose of the release as the colour camera's, which moves it by 2.6 cm
and turns it by 0.7 degrees against its own depth. Rotations of the release are rotations to 1e-4 only, and made
exact. The principal points are nominal; colour's has integer pixel centres, as the preparation rounds. Real poses and
splits were read (docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole, read_matrix, read_values
from flow3r.data.frame import Sequence
from flow3r.geometry.se3 import nearest_rotation

COLOUR = pinhole(525, 525, 320.5, 240.5)
DEPTH = pinhole(585, 585, 320, 240)
COLOUR_FROM_DEPTH = np.array(
    [
        [9.9996518012567637e-01, 2.6765126468950343e-03, -7.9041012313000904e-03, -2.5558943178152542e-02],
        [-2.7409311281316700e-03, 9.9996302803027592e-01, -8.1504520778013286e-03, 1.0109636268061706e-04],
        [7.8819942130445332e-03, 8.1718328771890631e-03, 9.9993554558014031e-01, 2.0318321729487039e-03],
        [0, 0, 0, 1],
    ]
)
NOTHING, FARTHEST = 65535, 10.0  # what a raw pixel without depth holds; metres beyond which a Kinect is not believed
LAYOUT = "<scene>/seq-XX/frame-%06d.{color.png,depth.png or depth.proj.png,pose.txt}, <scene>/{Train,Test}Split.txt"


def sequences(root: Path) -> List[Sequence]:
    """The sequences `<scene>/seq-XX` below `root`, of both splits."""
    found = folders(root, "*/seq-*", "7-Scenes", LAYOUT)
    return [PosedImages(f"{folder.parent.name}/{folder.name}", partial(_listing, folder)) for folder in found]


def split(scene: Path, which: str) -> list[str]:
    """The names of the `Train` or `Test` sequences of a scene's folder, as `sequences` names them."""
    numbers = [int(line.strip().removeprefix("sequence")) for line in _split_lines(scene / f"{which}Split.txt")]
    return [f"{scene.name}/seq-{number:02d}" for number in numbers]


def registered(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Depth of the depth camera on the grid of the colour camera: a point goes to its pixel, the nearest point stays.

    0 where depth is 0 and where no point falls.
    """
    y, x = np.nonzero(depth)
    local = np.stack([x + 0.5, y + 0.5, np.ones(len(x))]) * depth[y, x]
    seen = COLOUR_FROM_DEPTH[:3, :3] @ np.linalg.inv(DEPTH) @ local + COLOUR_FROM_DEPTH[:3, 3:]
    column, row = np.floor((COLOUR @ seen)[:2] / seen[2]).astype(int)
    inside = (column >= 0) & (column < depth.shape[1]) & (row >= 0) & (row < depth.shape[0])
    projected = np.full(depth.shape, np.inf)
    np.minimum.at(projected, (row[inside], column[inside]), seen[2, inside])
    return np.where(np.isfinite(projected), projected, 0.0)


def _listing(folder: Path) -> Listing:
    images, left_out = [], Counter()
    for number, file in enumerate(sorted(folder.glob("frame-*.color.png"))):
        stem = str(file).removesuffix(".color.png")
        through, raw, pose_file = (Path(stem + end) for end in (".depth.proj.png", ".depth.png", ".pose.txt"))
        if not pose_file.is_file() or not (through.is_file() or raw.is_file()):
            left_out["no pose file" if not pose_file.is_file() else "no depth file"] += 1
            continue
        world_from_depth = read_matrix(pose_file, 4, 4)
        if not np.isfinite(world_from_depth).all():
            left_out["pose not finite"] += 1
            continue
        world_from_depth[:3, :3] = nearest_rotation(torch.from_numpy(world_from_depth[:3, :3])).numpy()
        pose = world_from_depth @ np.linalg.inv(COLOUR_FROM_DEPTH)
        depth = partial(_projected, through) if through.is_file() else partial(_raw, raw)
        images.append(PosedImage(file, COLOUR, pose, float(number), depth))
    return Listing(images, left_out)


def _projected(file: Path) -> Float[np.ndarray, "H W"]:
    values = read_values(file)
    metres = np.where(values == NOTHING, 0, values) / 1000
    return np.where(metres <= FARTHEST, metres, 0)


def _raw(file: Path) -> Float[np.ndarray, "H W"]:
    return registered(_projected(file))


def _split_lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split()


SEVENSCENES = Dataset(
    name="sevenscenes",
    title="7-Scenes",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="Microsoft Research licence, non-commercial use; see the dataset's page",
    url="https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes/",
    citation="Shotton et al., Scene Coordinate Regression Forests for Camera Relocalization in RGB-D Images, CVPR 2013",
    rigid=True,
)
