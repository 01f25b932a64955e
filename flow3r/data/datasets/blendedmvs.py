"""BlendedMVS, and its supersets of the same layout: photographs of objects and places, blended with renderings of their
reconstructions, so that images and rendered depth agree.

After the README of YoYo000/BlendedMVS; cameras and depth maps are MVSNet's (see mvsnet). The images without masks are
used. A reconstruction has a scale of its own. The views of a scene are photographs, in no particular order; their depth
may be empty. Real cameras of two scenes were read (docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.mvsnet import read_camera, read_pfm
from flow3r.data.frame import Sequence

LAYOUT = "<project>/{blended_images/00000000.jpg, cams/00000000_cam.txt, rendered_depth_maps/00000000.pfm}"


def listed_views(folder: Path) -> Listing:
    """The views of a scene that have a camera."""
    images, left_out = [], Counter()
    for camera in sorted((folder / "cams").glob("*_cam.txt")):
        number = camera.name.removesuffix("_cam.txt")
        image, depth = folder / "blended_images" / f"{number}.jpg", folder / "rendered_depth_maps" / f"{number}.pfm"
        if not image.is_file() or not depth.is_file():
            left_out["image or depth file missing"] += 1
            continue
        intrinsics, camera_from_world = read_camera(camera)
        if not (np.isfinite(intrinsics).all() and np.isfinite(camera_from_world).all()):
            left_out["camera not finite"] += 1
            continue
        pose = np.linalg.inv(camera_from_world)
        images.append(PosedImage(image, intrinsics, pose, float(number), partial(read_pfm, depth)))
    return Listing(images, left_out)


def sequences(root: Path) -> List[Sequence]:
    """The scenes below `root`, by their project identifiers."""
    found = [path.parent for path in folders(root, "*/blended_images", "BlendedMVS", LAYOUT)]
    return [PosedImages(folder.name, partial(listed_views, folder)) for folder in found]


BLENDEDMVS = Dataset(
    name="blendedmvs",
    title="BlendedMVS",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="CC BY 4.0 (its README)",
    url="https://github.com/YoYo000/BlendedMVS",
    citation="Yao et al., BlendedMVS: A Large-scale Dataset for Generalized Multi-view Stereo Networks, CVPR 2020",
    dense=True,
    rigid=True,
    scale="relative",
)
