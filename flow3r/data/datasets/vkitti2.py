"""Virtual KITTI 2: five drives of KITTI, rendered in ten variations of weather, light and heading, with two cameras.

After its public loaders: those of SUDS for `extrinsic.txt` (world-to-camera, OpenCV axes) and the names of files, and
virtual_kitti_geometry for depth (16-bit, centimetres) and for the decoder of flow that the dataset's page gives. Its
pinhole, 725.0087 725.0087 620.5 187 in 1242 x 375, shows integer pixel centres. The archives hold one tree,
<scene>/<variation>, and may be unpacked over one another or each in a folder of its own name. Depth of 655.35 m is the
sky. Flow is known of all that is not sky, also of what is hidden in the other frame. Nothing is held out: it has five
places and no test split, and no table of the paper is measured on it. No real file of it was found; its makers' Virtual
Gallery has files of the same form, and of these real ones were read (docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole, read_values
from flow3r.data.frame import Sequence
from flow3r.errors import InputError
from flow3r.geometry.flow import forward_backward_error

LAYOUT = (
    "<scene>/<variation>/{intrinsic.txt, extrinsic.txt, frames/{rgb/Camera_0/rgb_00000.jpg, depth/Camera_0/"
    "depth_00000.png, forwardFlow/Camera_0/flow_00000.png, backwardFlow/Camera_0/backwardFlow_00001.png}}"
)
SKY = 65535
FLOW_FILES = {"forwardFlow": "flow", "backwardFlow": "backwardFlow"}


def read_centimetres(file: Path) -> Float[np.ndarray, "H W"]:
    """z-depth in metres, 0 for the sky."""
    values = read_values(file)
    return np.where(values == SKY, 0, values).astype(np.float32) / np.float32(100)


def read_flow(file: Path) -> tuple[Float[np.ndarray, "H W 2"], Bool[np.ndarray, "H W"]]:
    """Displacement in pixels, and where it is known. InputError for a file that is none."""
    import cv2

    stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.dtype != np.uint16 or stored.shape[2:] != (3,):
        raise InputError(f"{file}: not an image of three channels of 16 bits; expected flow of Virtual KITTI 2")
    height, width = stored.shape[:2]
    blue, green_red = stored[..., 0], stored[..., :0:-1].astype(np.float32)  # BGR: known, y, x
    largest = np.array([width - 1, height - 1], dtype=np.float32)
    known = blue != 0
    return np.where(known[..., None], (green_red * (2 / 65535) - 1) * largest, np.float32(0)), known


class Drive(PosedImages):
    """One camera of one variation of a scene, with its flow between neighbouring frames."""

    def __init__(self, root: Path, variation: str, camera: str):
        super().__init__(f"{variation}/{camera}", self._list)
        self._root, self._variation, self._camera = root, variation, camera

    def flow(self, i: int, j: int) -> tuple[Float[np.ndarray, "H W 2"], Float[np.ndarray, "H W"]] | None:
        """The displacement of frame i's pixels in frame j, and 1 where they are seen there; None without both files.

        What is hidden in frame j, or leaves it, fails UnFlow's check against the flow of frame j back to frame i.
        """
        numbers = [_number(self.listing.images[k].file) for k in (i, j)]
        kinds = ("forwardFlow", "backwardFlow") if numbers[1] > numbers[0] else ("backwardFlow", "forwardFlow")
        files = [self._frame_file(kind, FLOW_FILES[kind], number, "png") for kind, number in zip(kinds, numbers)]
        if abs(numbers[1] - numbers[0]) != 1 or not all(file.is_file() for file in files):
            return None
        (there, known), (back, known_back) = (read_flow(file) for file in files)
        back = np.where(known_back[..., None], back, np.float32(np.inf))
        error, inside = forward_backward_error(torch.from_numpy(there)[None], torch.from_numpy(back)[None])
        return there, (known & inside[0].numpy() & (error[0].numpy() < 1)).astype(np.float32)

    def _frame_file(self, kind: str, stem: str, number: int, suffix: str) -> Path:
        folder = _tree(self._root, kind) / self._variation / "frames" / kind / self._camera
        return folder / f"{stem}_{number:05d}.{suffix}"

    def _list(self) -> Listing:
        text, camera = _tree(self._root, "textgt") / self._variation, int(self._camera.removeprefix("Camera_"))
        pinholes, matrices = _rows(text / "intrinsic.txt", 4), _rows(text / "extrinsic.txt", 16)
        images, left_out = [], Counter()
        for image in sorted(self._frame_file("rgb", "rgb", 0, "jpg").parent.glob("rgb_*.jpg")):
            number = _number(image)
            depth = self._frame_file("depth", "depth", number, "png")
            values, matrix = pinholes.get((number, camera)), matrices.get((number, camera))
            if values is None or matrix is None:
                left_out["no camera"] += 1
            elif not (np.isfinite(values).all() and np.isfinite(matrix).all()):
                left_out["camera not finite"] += 1
            elif not depth.is_file():
                left_out["depth file missing"] += 1
            else:
                fx, fy, cx, cy = values
                intrinsics, pose = pinhole(fx, fy, cx + 0.5, cy + 0.5), np.linalg.inv(matrix.reshape(4, 4))
                images.append(PosedImage(image, intrinsics, pose, float(number), partial(read_centimetres, depth)))
        return Listing(images, left_out)


def sequences(root: Path) -> List[Sequence]:
    """The cameras of the variations below `root`, such as Scene01/clone/Camera_0."""
    tree = _tree(root, "rgb")
    found = [path.relative_to(tree) for path in folders(tree, "*/*/frames/rgb/Camera_*", "Virtual KITTI 2", LAYOUT)]
    return [Drive(root, Path(*path.parts[:2]).as_posix(), path.name) for path in found]


def _tree(root: Path, kind: str) -> Path:
    """Where the archive of a kind of files was unpacked."""
    own = root / f"vkitti_2.0.3_{kind}"
    return own if own.is_dir() else root


def _number(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _rows(file: Path, count: int) -> dict[tuple[int, int], Float[np.ndarray, "n"]]:
    """The numbers of each row below the first, by their frame and camera."""
    try:
        table = np.loadtxt(file, skiprows=1, ndmin=2)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: missing, or not a table ({error})") from error
    if table.shape[1] != 2 + count:
        raise InputError(f"{file}: rows of {table.shape[1]} numbers; expected frame, camera and {count}")
    return {(int(row[0]), int(row[1])): row[2:] for row in table}


VKITTI2 = Dataset(
    name="vkitti2",
    title="Virtual KITTI 2",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="non-commercial: see the dataset's page",
    url="https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2/",
    citation="Cabon, Murray and Humenberger, Virtual KITTI 2, arXiv 2001.10773",
    dense=True,
)
