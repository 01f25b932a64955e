"""ETH3D: indoor and outdoor scenes in large photographs, with laser scans.

After the dataset's documentation (COLMAP text calibration; THIN_PRISM_FISHEYE; depth as raw little-endian float32 in
rows, infinite where unknown, in a file named as its image) and π³'s preparation. Depth belongs to the distorted images,
so those are read (`<scene>_dslr_jpg` and `<scene>_dslr_depth` unpacked into one folder) and both are undistorted here
to a pinhole of the same focal lengths and principal point, by COLMAP's full camera model; π³ drops its tangential and
prism terms. Depth is taken from the nearest pixel, and is sparse. Pixel centres are half-integer, as COLMAP's are.
Lines of real calibrations were read (docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from flow3r.data.datasets.colmap import Camera, read_model
from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.frame import Sequence
from flow3r.errors import InputError

MODEL, PINHOLE = "THIN_PRISM_FISHEYE", "PINHOLE"
LAYOUT = "<scene>/{images,ground_truth_depth}/dslr_images/*.JPG and <scene>/dslr_calibration_jpg/{cameras,images}.txt"


def sequences(root: Path) -> List[Sequence]:
    """The scenes below `root`, their images by name."""
    found = folders(root, "*/dslr_calibration_jpg", "ETH3D", LAYOUT)
    return [PosedImages(folder.parent.name, partial(_listing, folder.parent)) for folder in found]


def _listing(scene: Path) -> Listing:
    images, left_out = [], Counter()
    for number, posed in enumerate(read_model(scene / "dslr_calibration_jpg")):
        file, depth = scene / "images" / posed.name, scene / "ground_truth_depth" / posed.name
        camera, pose = posed.camera, posed.world_from_camera
        if camera.model not in (MODEL, PINHOLE):
            raise InputError(f"{scene}: camera {camera.model} of {posed.name}; expected {MODEL}, or {PINHOLE}")
        if not file.is_file() or not depth.is_file():
            left_out["no depth file" if file.is_file() else "no image file"] += 1
        elif not np.isfinite(pose).all():
            left_out["pose not finite"] += 1
        else:
            read, fit = partial(_depth, depth, camera), partial(_undistorted, file, camera)
            images.append(PosedImage(file, camera.intrinsics, pose, float(number), read, fit))
    return Listing(images, left_out)


def distort(
    x: Float[np.ndarray, "H W"], y: Float[np.ndarray, "H W"], coefficients: tuple[float, ...]
) -> tuple[Float[np.ndarray, "H W"], Float[np.ndarray, "H W"]]:
    """Where COLMAP's thin prism fisheye camera of focal length 1 sees the rays (x, y, 1).

    `coefficients`: k1 k2 p1 p2 k3 k4 sx1 sy1. The radius becomes the angle before they apply.
    """
    k1, k2, p1, p2, k3, k4, sx1, sy1 = coefficients
    radius = np.hypot(x, y)
    bent = np.divide(np.arctan(radius), radius, out=np.ones_like(radius), where=radius > 1e-9)
    u, v = x * bent, y * bent
    square = u * u + v * v
    radial = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    return (
        u * radial + 2 * p1 * u * v + p2 * (square + 2 * u * u) + sx1 * square,
        v * radial + 2 * p2 * u * v + p1 * (square + 2 * v * v) + sy1 * square,
    )


@lru_cache(maxsize=1)  # a scene has one camera or two, of 24 million pixels
def _sources(
    size: tuple[int, int], pinhole: tuple[float, ...], coefficients: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel without distortion, where OpenCV finds it in the distorted image: x and y, float32 (H W)."""
    fx, fy, cx, cy = pinhole
    x = np.broadcast_to((np.arange(size[1]) + 0.5 - cx) / fx, size)
    y = np.broadcast_to(((np.arange(size[0]) + 0.5 - cy) / fy)[:, None], size)
    u, v = distort(x, y, coefficients) if coefficients else (x, y)
    return (fx * u + cx - 0.5).astype(np.float32), (fy * v + cy - 0.5).astype(np.float32)


def _sources_of(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    k = camera.intrinsics
    return _sources(camera.size, (k[0, 0], k[1, 1], k[0, 2], k[1, 2]), camera.distortion)


def _undistorted(file: Path, camera: Camera, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    import cv2

    if image.shape[:2] != camera.size:
        raise InputError(f"{file}: is {image.shape[:2]}, its camera {camera.size}; expected one size")
    return cv2.remap(image, *_sources_of(camera), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _depth(file: Path, camera: Camera) -> Float[np.ndarray, "H W"]:
    import cv2

    values = np.fromfile(file, dtype="<f4")
    height, width = camera.size
    if values.size != height * width:
        raise InputError(f"{file}: {values.size} float32; expected {height} x {width}")
    known = np.where(np.isfinite(values), values, np.float32(0)).reshape(height, width)
    return cv2.remap(known, *_sources_of(camera), cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)


ETH3D = Dataset(
    name="eth3d",
    title="ETH3D high-resolution multi-view",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="CC BY-NC-SA 4.0",
    url="https://www.eth3d.net/datasets",
    citation="Schöps et al., A Multi-View Stereo Benchmark with High-Resolution Images and Multi-Camera Videos, "
    "CVPR 2017",
    rigid=True,
)
