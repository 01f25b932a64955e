"""ScanNet: rooms scanned with a depth sensor on an iPad; images on the grid of their depth.

scans*/<scene>/{color/<k>.jpg,depth/<k>.png,pose/<k>.txt,intrinsic/intrinsic_{color,depth}.txt}, as SensReader/python of
ScanNet/ScanNet exports a .sens file: depth in millimetres, poses camera-to-world with OpenCV's axes and -inf where
tracking was lost, integer pixel centres (published ones are centred on (width - 1) / 2). Colour and depth have one pose
(its maintainers, issue 92) but pinholes of their own: images are warped from one to the other. Or the 90 frames that
datasets_preprocess/prepare_scannet.py of Junyi42/monst3r keeps: color_90/, depth_90/, pose_90.txt beside intrinsic/.
Real poses and intrinsics were read (docs/data.md).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_depth, read_matrix
from flow3r.data.images import image_size, natural_key
from flow3r.data.transforms import resize_image

LAYOUT = "scans*/<scene>/color/, depth/, pose/, intrinsic/ or color_90/, depth_90/, pose_90.txt, intrinsic/"
PACKED = 90  # frames of the packed form


def sequences(root: Path) -> Sequence[PosedImages]:
    """The scans of all folders scans*, by name."""
    found = folders(root, "scans*/scene????_??", "ScanNet", LAYOUT)
    return [PosedImages(path.name, partial(_listing, path)) for path in found]


def held_out(root: Path) -> list[str]:
    """The scans of the test split, whose scenes are numbered from 0707 on."""
    return [scan.name for scan in sequences(root) if scan.name >= "scene0707"]


def _listing(folder: Path) -> Listing:
    colour, depth = (_intrinsics(folder / "intrinsic" / f"intrinsic_{part}.txt") for part in ("color", "depth"))
    images, left_out = [], Counter()
    for image, file, pose in _packed(folder) if (folder / f"color_{PACKED}").is_dir() else _exported(folder):
        if pose is None or not np.isfinite(pose).all():
            left_out["missing pose file" if pose is None else "non-finite pose"] += 1
        elif not file.is_file():
            left_out["missing depth file"] += 1
        else:
            fit = partial(_warp, file, colour, depth)
            number = float(image.stem.removeprefix("frame_"))
            images.append(PosedImage(image, depth, pose, number, partial(read_depth, file, 1e-3), fit))
    return Listing(images, left_out)


def _exported(folder: Path) -> Iterator[tuple[Path, Path, Float[np.ndarray, "4 4"] | None]]:
    """Image, depth and pose of each frame."""
    for image in sorted((folder / "color").glob("*.jpg"), key=natural_key):
        pose = folder / "pose" / f"{image.stem}.txt"
        yield image, folder / "depth" / f"{image.stem}.png", read_matrix(pose, 4, 4) if pose.is_file() else None


def _packed(folder: Path) -> Iterator[tuple[Path, Path, Float[np.ndarray, "4 4"]]]:
    images = sorted((folder / f"color_{PACKED}").glob("frame_*.jpg"), key=natural_key)
    poses = read_matrix(folder / f"pose_{PACKED}.txt", len(images), 16).reshape(-1, 4, 4)
    for image, pose in zip(images, poses):
        yield image, folder / f"depth_{PACKED}" / f"{image.stem}.png", pose


def _intrinsics(file: Path) -> Float[np.ndarray, "3 3"]:
    intrinsics = read_matrix(file, 4, 4)[:3, :3].copy()
    intrinsics[:2, 2] += 0.5
    return intrinsics


def _warp(
    depth: Path,
    intrinsics: Float[np.ndarray, "3 3"],
    wanted: Float[np.ndarray, "3 3"],
    image: UInt8[np.ndarray, "H W 3"],
) -> UInt8[np.ndarray, "h w 3"]:
    """The image of a camera with `intrinsics` as one with the `wanted` ones, on the grid of a depth file, sees it.

    It is first brought to about the right scale by averaging, so that nothing aliases. Beyond its border it is
    continued: the two cameras of ScanNet see the same to about a pixel.
    """
    import cv2

    height, width = image_size(depth)
    scale = wanted[[0, 1], [0, 1]] / intrinsics[[0, 1], [0, 1]]
    shrunk = (round(image.shape[0] * scale[1]), round(image.shape[1] * scale[0]))
    near = np.diag([shrunk[1] / image.shape[1], shrunk[0] / image.shape[0], 1.0]) @ intrinsics
    source_from_target = near @ np.linalg.inv(wanted)
    source_from_target[:2, 2] += source_from_target[[0, 1], [0, 1]] / 2 - 0.5  # OpenCV's centres are integers
    mode = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = resize_image(image, shrunk)
    return cv2.warpAffine(warped, source_from_target[:2], (width, height), flags=mode, borderMode=cv2.BORDER_REPLICATE)


SCANNET = Dataset(
    name="scannet",
    title="ScanNet",
    sequences=sequences,
    held_out=held_out,
    labels="posed",
    layout=LAYOUT,
    licence="ScanNet Terms of Use (non-commercial research); see http://www.scan-net.org",
    url="http://www.scan-net.org",
    citation="Dai et al., ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes, CVPR 2017",
    rigid=True,
)
