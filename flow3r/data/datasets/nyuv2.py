"""NYUv2: single images of rooms with Kinect depth, without cameras.

The layout is that of MonST3R's preparation (prepare_nyuv2), which π³ evaluates: the 654 images of the official test
split as `val/nyu_images/<name>.png` and their depth as `val/nyu_depths/<name>.npy`, float arrays in metres. The images
are of unrelated rooms: their order has no meaning, and no two of them are a pair. The packing holds no intrinsics.
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_depth_array
from flow3r.data.frame import Sequence

LAYOUT = "val/{nyu_images/<name>.png,nyu_depths/<name>.npy}"


def sequences(root: Path) -> List[Sequence]:
    """All images below `root`, or below the folder `val` in it, as one sequence of that folder's name."""
    inner = root / "val" if (root / "val").is_dir() else root
    (folder,) = folders(inner, "nyu_images", "NYUv2", LAYOUT)
    return [PosedImages(inner.name, partial(_listing, folder, inner / "nyu_depths"))]


def _listing(folder: Path, depths: Path) -> Listing:
    images, left_out = [], Counter()
    for number, file in enumerate(sorted(folder.glob("*.png"))):
        depth = depths / f"{file.stem}.npy"
        if depth.is_file():
            images.append(PosedImage(file, None, None, float(number), partial(read_depth_array, depth)))
        else:
            left_out["no depth file"] += 1
    return Listing(images, left_out)


NYUV2 = Dataset(
    name="nyuv2",
    title="NYU Depth V2, official test split",
    sequences=sequences,
    labels="depth",
    layout=LAYOUT,
    licence="see the dataset's page",
    url="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    citation="Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012",
)
