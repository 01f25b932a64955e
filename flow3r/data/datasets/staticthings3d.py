"""StaticThings3D: the sequences of FlyingThings3D rendered without motion of their objects, in stereo.

After robustmvd (rmvd) of lmb-freiburg: its download script for the archives, its convert_staticthings3d for their
layout, its staticthings3d loader for the encoding; and after DUSt3R's preprocessing, which takes `poses` as
world-to-camera with OpenCV axes. Depth is z-depth, not disparity, and unknown where negative or non-finite. Pixel
centres are integers: the pinhole of FlyingThings3D is 479.5, 269.5 in 960 x 540. Of the two passes, the clean one is
used, as robustmvd does. Units are those of the renderer, of no physical size. Each camera is a sequence: frames 6-15.
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.frame import Sequence
from flow3r.errors import InputError

FRAMES = "frames_cleanpass"
LAYOUT = (
    f"{{{FRAMES}, depths, poses}}/TRAIN/{{A,B,C}}/0000/{{left,right}}/0006.{{png, float3}}, intrinsics without a camera"
)


def read_float3(file: Path) -> Float[np.ndarray, "*sizes"]:
    """An array of Freiburg's float format, which lists its sizes from the fastest dimension to the slowest."""
    try:
        with open(file, "rb") as content:
            kind = content.readline().strip()
            sizes = [int(content.readline()) for _ in range(int(content.readline()) if kind == b"float" else 0)]
            values = np.frombuffer(content.read(), dtype="<f4")
        if not sizes or values.size != np.prod(sizes):
            raise ValueError(f"{kind!r} with {values.size} values for sizes {sizes}")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not an array of the format 'float' ({error})") from error
    return values.reshape(sizes[::-1])


def listed_frames(root: Path, camera: Path) -> Listing:
    """The frames of one camera, `camera` being its folder of images."""
    inner = camera.relative_to(root / FRAMES)
    images, left_out = [], Counter()
    for image in sorted(camera.glob("*.png")):
        name = f"{image.stem}.float3"
        depth, pose_file = root / "depths" / inner / name, root / "poses" / inner / name
        pinhole_file = root / "intrinsics" / inner.parent / name
        if not (depth.is_file() and pose_file.is_file() and pinhole_file.is_file()):
            left_out["depth, pose or intrinsics file missing"] += 1
            continue
        intrinsics = read_float3(pinhole_file).astype(np.float64)
        camera_from_world = read_float3(pose_file).astype(np.float64)
        if not (np.isfinite(intrinsics).all() and np.isfinite(camera_from_world).all()):
            left_out["camera not finite"] += 1
            continue
        intrinsics[:2, 2] += 0.5
        pose = np.linalg.inv(camera_from_world)
        images.append(PosedImage(image, intrinsics, pose, float(image.stem), partial(read_float3, depth)))
    return Listing(images, left_out)


def sequences(root: Path) -> List[Sequence]:
    """The cameras of the sequences below `root`, such as TRAIN/A/0000/left."""
    found = folders(root, f"{FRAMES}/*/*/*/*", "StaticThings3D", LAYOUT)
    names = [folder.relative_to(root / FRAMES).as_posix() for folder in found]
    return [PosedImages(name, partial(listed_frames, root, folder)) for name, folder in zip(names, found)]


STATICTHINGS3D = Dataset(
    name="staticthings3d",
    title="StaticThings3D",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="see its README",
    url="https://github.com/lmb-freiburg/robustmvd/blob/master/rmvd/data/README.md#staticthings3d",
    citation="Schröppel et al., A Benchmark and a Baseline for Robust Multi-view Depth Estimation, 3DV 2022",
    dense=True,
    rigid=True,
    scale="relative",
)
