"""MPI-Sintel: clips of an animated film, with depth, cameras and flow.

After the READMEs of the flow and of the depth release, `sintel_io.py` of the latter, and MonST3R's preparation. The
`final` pass is read. K is centred at (511.5, 217.5) of 1024 x 436 pixels, so in integer pixel centres; the extrinsic
matrix is the camera from the world. Depth beyond 70 units, where MonST3R's and π³'s evaluations stop, counts as
unknown: it is sky. Flow leads to the next frame only; it is covisible where neither `occlusions` nor `invalid` is set,
values are below 1e9 and the target lies inside the image.
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

TAG = 202021.25
FARTHEST = 70.0
UNKNOWN = 1e9  # flow of this size is no flow
EVALUATED = (  # of the 23 sequences of training, those of MonST3R's, CUT3R's and π³'s tables
    *("alley_2", "ambush_4", "ambush_5", "ambush_6", "cave_2", "cave_4", "market_2", "market_5", "market_6"),
    *("shaman_3", "sleeping_1", "sleeping_2", "temple_2", "temple_3"),
)
LAYOUT = "training/{final,depth,camdata_left,flow,occlusions,invalid}/<name>/frame_%04d.{png,dpt,cam,flo}"


class SintelImages(PosedImages):
    """A sequence with its flow."""

    def __init__(self, training: Path, name: str):
        super().__init__(name, partial(_listing, training, name))
        self._training = training

    def flow(self, i: int, j: int) -> tuple[Float[np.ndarray, "H W 2"], Float[np.ndarray, "H W"]] | None:
        """(displacement in pixels, covisible in [0, 1]) from frame i to frame j; None but for consecutive frames."""
        first, second = (self.listing.images[index] for index in (i, j))
        file = self._training / "flow" / self.name / f"{first.file.stem}.flo"
        if second.timestamp != first.timestamp + 1 or not file.is_file():
            return None
        displacement = read_flow(file)
        height, width = displacement.shape[:2]
        known = (np.abs(displacement) < UNKNOWN).all(axis=-1)
        displacement = np.where(known[..., None], displacement, np.float32(0))
        x, y = displacement[..., 0] + np.arange(width) + 0.5, displacement[..., 1] + np.arange(height)[:, None] + 0.5
        covisible = known & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        for kind in ("occlusions", "invalid"):
            mask = self._training / kind / self.name / first.file.name
            if mask.is_file() or kind == "occlusions":
                covisible &= read_values(mask) == 0
        return displacement, covisible.astype(np.float32)


def sequences(root: Path) -> List[Sequence]:
    """The sequences with cameras and depth below `root`, or below the folder `training` in it."""
    training = root / "training" if (root / "training").is_dir() else root
    found = folders(training, "camdata_left/*", "MPI-Sintel", LAYOUT)
    return [SintelImages(training, folder.name) for folder in found]


def read_flow(file: Path) -> Float[np.ndarray, "H W 2"]:
    """A .flo file: (u, v) in pixels."""
    return _tagged(file, 2)


def _listing(training: Path, name: str) -> Listing:
    images, left_out = [], Counter()
    for file in sorted((training / "final" / name).glob("frame_*.png")):
        camera = training / "camdata_left" / name / f"{file.stem}.cam"
        depth = training / "depth" / name / f"{file.stem}.dpt"
        if not camera.is_file() or not depth.is_file():
            left_out["no camera file" if depth.is_file() else "no depth file"] += 1
            continue
        intrinsics, pose = _camera(camera)
        if not (np.isfinite(intrinsics).all() and np.isfinite(pose).all()):
            left_out["camera not finite"] += 1
            continue
        number = float(file.stem.removeprefix("frame_"))
        images.append(PosedImage(file, intrinsics, pose, number, partial(_depth, depth)))
    return Listing(images, left_out)


def _camera(file: Path) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "4 4"]]:
    """(K of half-integer pixel centres, world from camera)."""
    content = file.read_bytes()
    if len(content) != 4 + 21 * 8 or np.frombuffer(content, "<f4", 1)[0] != TAG:
        raise InputError(f"{file}: not a .cam file of MPI-Sintel; expected the tag {TAG} and 21 float64")
    numbers = np.frombuffer(content, "<f8", 21, 4)
    intrinsics, camera_from_world = numbers[:9].reshape(3, 3).copy(), np.eye(4)
    intrinsics[:2, 2] += 0.5
    camera_from_world[:3] = numbers[9:].reshape(3, 4)
    finite = np.isfinite(camera_from_world).all()
    return intrinsics, np.linalg.inv(camera_from_world) if finite else camera_from_world


def _depth(file: Path) -> Float[np.ndarray, "H W"]:
    depth = _tagged(file, 1)[..., 0]
    return np.where(depth < FARTHEST, depth, 0)


def _tagged(file: Path, channels: int) -> Float[np.ndarray, "H W c"]:
    """A tag, width, height, and as many float32 per pixel as there are channels."""
    content = file.read_bytes() if file.is_file() else b""
    if len(content) >= 12 and np.frombuffer(content, "<f4", 1)[0] == TAG:
        width, height = np.frombuffer(content, "<i4", 2, 4).tolist()
        if len(content) == 12 + 4 * channels * width * height:
            return np.frombuffer(content, "<f4", offset=12).reshape(height, width, channels)
    raise InputError(
        f"{file}: not a whole file of MPI-Sintel with {channels} float32 a pixel; it has {len(content)} bytes"
    )


SINTEL = Dataset(
    name="sintel",
    title="MPI-Sintel",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="film CC BY 3.0 (Blender Foundation); see the dataset's page",
    url="http://sintel.is.tue.mpg.de",
    citation="Butler et al., A Naturalistic Open Source Movie for Optical Flow Evaluation, ECCV 2012",
    dense=True,
    scale="relative",
)
