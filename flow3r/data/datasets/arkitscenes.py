"""ARKitScenes: rooms scanned with an iPad, in the layout of the raw dataset: 256 x 192 images and LiDAR depth.

<fold>/<video>/{lowres_wide,lowres_depth}/<video>_<seconds>.png, lowres_wide_intrinsics/*.pincam, lowres_wide.traj.
After DATA.md, raw/README.md and threedod/benchmark_scripts/utils/tenFpsDataLoader.py of apple/ARKitScenes: depth in
millimetres; a .pincam holds width, height, fx, fy, cx, cy with integer pixel centres, and its name may differ from its
image's by 1 ms; a line of the trajectory holds seconds, axis-angle and translation of the world-to-camera motion with
OpenCV's axes. Poses come at 10 Hz, images at up to 60 Hz: images without a pose within 5 ms, that loader's tolerance,
are left out. The world's z is up (datasets_preprocess/preprocess_arkitscenes.py of naver/dust3r; the maintainers, in
issue 81), which tells how the device was held: sequences are turned upright. Of real files only a .pincam was found and
read (docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole, read_depth, read_matrix
from flow3r.errors import InputError

LAYOUT = "<fold>/<video>/lowres_wide/, lowres_depth/, lowres_wide_intrinsics/, lowres_wide.traj"
TOLERANCE = 0.005  # seconds between an image and its pose, as in tenFpsDataLoader.py
# From a camera to itself after its picture is turned counter-clockwise by 90 degrees: x becomes up, y becomes right.
TURN = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def sequences(root: Path) -> Sequence[PosedImages]:
    """The videos of all folds."""
    found = folders(root, "*/*/lowres_wide", "ARKitScenes' raw dataset", LAYOUT)
    return [PosedImages(path.parent.name, partial(_listing, path.parent)) for path in found]


def _listing(folder: Path) -> Listing:
    times, poses = _trajectory(folder / "lowres_wide.traj")
    usable, left_out = [], Counter()
    for image in sorted((folder / "lowres_wide").glob("*.png"), key=_seconds):
        pose, depth = _pose(times, poses, _seconds(image)), folder / "lowres_depth" / image.name
        if pose is None or not np.isfinite(pose).all():
            left_out["no pose in time" if pose is None else "non-finite pose"] += 1
        elif not depth.is_file():
            left_out["missing depth file"] += 1
        elif (camera := _pincam(folder, image)) is None:
            left_out["no intrinsics"] += 1
        else:
            usable.append((image, depth, camera, pose))
    turns = _turns_to_upright(np.array([pose for *_, pose in usable]).reshape(-1, 4, 4))
    return Listing([_upright(*item, turns) for item in usable], left_out)


def _seconds(file: Path) -> float:
    try:
        return float(file.stem.rpartition("_")[2])
    except ValueError as error:
        raise InputError(f"{file}: images of ARKitScenes are called <video>_<seconds>.png") from error


def _trajectory(file: Path) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N 4 4"]]:
    """Seconds, ascending, and world-from-camera."""
    import cv2

    rows = len(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else 0
    if not rows:
        raise InputError(f"{file}: missing or empty; a video of ARKitScenes without it has no poses")
    values = read_matrix(file, rows, 7)
    camera_from_world = np.tile(np.eye(4), (rows, 1, 1))
    camera_from_world[:, :3, :3] = [cv2.Rodrigues(row)[0] for row in values[:, 1:4]]
    camera_from_world[:, :3, 3] = values[:, 4:]
    finite = np.isfinite(values).all(axis=1)
    poses = np.full_like(camera_from_world, np.nan)
    poses[finite] = np.linalg.inv(camera_from_world[finite])
    order = np.argsort(values[:, 0], kind="stable")
    return values[order, 0], poses[order]


def _pose(times: np.ndarray, poses: np.ndarray, seconds: float) -> Float[np.ndarray, "4 4"] | None:
    nearest = int(np.abs(times - seconds).argmin())
    return poses[nearest] if abs(times[nearest] - seconds) < TOLERANCE else None


def _pincam(folder: Path, image: Path) -> tuple[float, ...] | None:
    """Width, height, fx, fy, cx, cy; integer pixel centres."""
    video, _, seconds = image.stem.rpartition("_")
    for name in (image.stem, *(f"{video}_{float(seconds) + shift:.3f}" for shift in (-0.001, 0.001))):
        file = folder / "lowres_wide_intrinsics" / f"{name}.pincam"
        if file.is_file():
            return tuple(read_matrix(file, 1, 6)[0].tolist())
    return None


def _turns_to_upright(poses: Float[np.ndarray, "N 4 4"]) -> int:
    """Counter-clockwise turns by 90 degrees that bring the world's up, its z, to the top of most pictures."""
    x, y = poses[:, 2, :2].sum(axis=0)  # the world's up along the camera's axes
    return (0 if y <= 0 else 2) if abs(y) >= abs(x) else (1 if x > 0 else 3)


def _upright(
    image: Path, depth: Path, camera: tuple[float, ...], pose: Float[np.ndarray, "4 4"], turns: int
) -> PosedImage:
    width, height, fx, fy, cx, cy = camera
    intrinsics = pinhole(fx, fy, cx + 0.5, cy + 0.5)
    for _ in range(turns):
        (fx, _, cx), (_, fy, cy), _ = intrinsics
        intrinsics, pose = pinhole(fy, fx, cy, width - cx), pose @ TURN.T
        width, height = height, width
    read = partial(_turned, turns, partial(read_depth, depth, 1e-3))
    return PosedImage(image, intrinsics, pose, _seconds(image), read, partial(_turn, turns))


def _turn(turns: int, pixels: Shaped[np.ndarray, "H W *c"]) -> Shaped[np.ndarray, "h w *c"]:
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _turned(turns: int, read: partial) -> Float[np.ndarray, "H W"]:
    return _turn(turns, read())


ARKITSCENES = Dataset(
    name="arkitscenes",
    title="ARKitScenes (raw, 256 x 192)",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="CC BY-NC-SA 4.0, as its README states",
    url="https://github.com/apple/ARKitScenes",
    citation="Baruch et al., ARKitScenes: A Diverse Real-World Dataset for 3D Indoor Scene Understanding Using Mobile "
    "RGB-D Data, NeurIPS Datasets and Benchmarks 2021",
    rigid=True,
)
