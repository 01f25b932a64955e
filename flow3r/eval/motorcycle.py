"""The one real pair with ground truth that comes with a package: Motorcycle (Middlebury 2014), in scikit-image's wheel.

Calibration of the pair as scikit-image packs it: a quarter of the full size, pixel centres at integers.
"""

import importlib.metadata
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.frame import Frame
from flow3r.data.images import read_image
from flow3r.errors import InputError

FOCAL = 994.978  # pixels
LEFT_CENTRE = (311.193, 254.877)
RIGHT_CENTRE = (342.279, 254.877)
DISPARITY_OFFSET = 31.086  # pixels: right centre - left centre
BASELINE = 0.193001  # metres, along x
# Rows and columns that are kept, so that both principal points lie in the middle, as models expect.
ROWS = slice(10, 500)
LEFT_COLUMNS = slice(0, 622)
RIGHT_COLUMNS = slice(31, 653)


def motorcycle_files() -> tuple[Path, Path, Path]:
    """Left image, right image and disparity, found in the wheel without importing it. InputError if it is not there."""
    names = ("motorcycle_left.png", "motorcycle_right.png", "motorcycle_disp.npz")
    try:
        distribution = importlib.metadata.distribution("scikit-image")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError("the Motorcycle pair needs scikit-image: pip install 'flow3r[samples]'") from error
    left, right, disparity = (Path(distribution.locate_file(f"skimage/data/{name}")) for name in names)
    for path in (left, right, disparity):
        if not path.is_file():
            raise InputError(
                f"{path}: not found; this scikit-image comes without the Motorcycle pair, expected 0.19 or newer"
            )
    return left, right, disparity


def motorcycle_depth(disparity: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Z = f B / (d + offset) in metres on the left image; 0 where the disparity is unknown (infinite)."""
    known = np.isfinite(disparity)
    depth = FOCAL * BASELINE / (np.where(known, disparity, 0.0) + DISPARITY_OFFSET)
    return np.where(known, depth, 0.0).astype(np.float32)


def motorcycle_frames() -> tuple[Frame, Frame]:
    """Left and right frame, cropped, in metres, the world at the left camera.

    The measured depth is the left one's. The right one's is the same surface carried over (the nearest where several
    meet), and is there to tell which pixels of the left image the right camera sees.
    """
    left_file, right_file, disparity_file = motorcycle_files()
    with np.load(disparity_file, allow_pickle=False) as archive:
        depth = motorcycle_depth(archive[archive.files[0]])
    left_pose, right_pose = np.eye(4), np.eye(4)
    right_pose[0, 3] = BASELINE
    left = Frame(
        image=read_image(left_file)[ROWS, LEFT_COLUMNS],
        timestamp=0.0,
        name=left_file.name,
        depth=depth[ROWS, LEFT_COLUMNS],
        intrinsics=_intrinsics(LEFT_CENTRE, LEFT_COLUMNS),
        world_from_camera=left_pose,
    )
    right = Frame(
        image=read_image(right_file)[ROWS, RIGHT_COLUMNS],
        timestamp=1.0,
        name=right_file.name,
        depth=carried_over(depth)[ROWS, RIGHT_COLUMNS],
        intrinsics=_intrinsics(RIGHT_CENTRE, RIGHT_COLUMNS),
        world_from_camera=right_pose,
    )
    return left, right


def carried_over(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """The left image's depth on the right image's pixels: right(x - d) = left(x), the nearest surface in front."""
    y, x = np.nonzero(depth)
    disparity = FOCAL * BASELINE / depth[y, x] - DISPARITY_OFFSET
    target = np.floor(x + 0.5 - disparity).astype(int)
    inside = (target >= 0) & (target < depth.shape[1])
    right = np.full_like(depth, np.inf)
    np.minimum.at(right, (y[inside], target[inside]), depth[y, x][inside])
    return np.where(np.isfinite(right), right, 0.0).astype(depth.dtype)


def _intrinsics(centre: tuple[float, float], columns: slice) -> Float[np.ndarray, "3 3"]:
    """In pixels of the crop, with half-integer centres."""
    cx, cy = centre[0] + 0.5 - columns.start, centre[1] + 0.5 - ROWS.start
    return np.array([[FOCAL, 0.0, cx], [0.0, FOCAL, cy], [0.0, 0.0, 1.0]])
