"""NRGBD: the synthetic scenes of Neural RGB-D Surface Reconstruction.

After the README of its repository and the loaders of Spann3R and π³: depth in mm in 16-bit PNG, poses of OpenGL cameras
to the world, four lines each, nan where there is none. The depth read is the clean `depth`, not `depth_filtered` or
`depth_with_noise`. The focal length 554.256 of 640 x 480 images is 320 / tan 30 degrees, that of a rendered pinhole
with its principal point in the middle of the image: (320, 240) is in half-integer pixel centres here, although loaders
use it as in integer ones.
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole, read_depth, read_matrix
from flow3r.data.frame import Sequence
from flow3r.data.images import image_size, natural_key
from flow3r.errors import InputError

CV_FROM_GL = np.diag([1.0, -1.0, -1.0, 1.0])
FARTHEST = 10.0  # metres; what is further away is background
LAYOUT = "<scene>/{images/img%d.png,depth/depth%d.png,poses.txt,focal.txt}"


def sequences(root: Path) -> List[Sequence]:
    """The scenes below `root`."""
    found = folders(root, "*/images", "NRGBD", LAYOUT)
    return [PosedImages(folder.parent.name, partial(_listing, folder.parent)) for folder in found]


def _listing(scene: Path) -> Listing:
    files = sorted((scene / "images").glob("img*.png"), key=natural_key)
    if not files:
        raise InputError(f"{scene / 'images'}: no img*.png; expected the layout of NRGBD ({LAYOUT})")
    poses = read_matrix(scene / "poses.txt", 4 * len(files), 4).reshape(-1, 4, 4)
    ((focal,),) = read_matrix(scene / "focal.txt", 1, 1)
    height, width = image_size(files[0])  # all images of a scene are of one size
    intrinsics = pinhole(focal, focal, width / 2, height / 2)
    images, left_out = [], Counter()
    for number, (file, opengl) in enumerate(zip(files, poses)):
        depth = scene / "depth" / file.name.replace("img", "depth")
        if not np.isfinite(opengl).all():
            left_out["pose not finite"] += 1
        elif not depth.is_file():
            left_out["no depth file"] += 1
        else:
            images.append(PosedImage(file, intrinsics, opengl @ CV_FROM_GL, float(number), partial(_depth, depth)))
    return Listing(images, left_out)


def _depth(file: Path) -> Float[np.ndarray, "H W"]:
    depth = read_depth(file, 0.001)
    return np.where(depth <= FARTHEST, depth, 0)


NRGBD = Dataset(
    name="nrgbd",
    title="Neural RGB-D Surface Reconstruction, synthetic scenes",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="per scene CC BY or CC0 (BlendSwap), as listed in the repository's README",
    url="https://github.com/dazinovic/neural-rgbd-surface-reconstruction",
    citation="Azinović et al., Neural RGB-D Surface Reconstruction, CVPR 2022",
    dense=True,
    rigid=True,
)
