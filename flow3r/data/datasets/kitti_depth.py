"""KITTI depth: the depth prediction benchmark, sparse depth of a laser scanner over street scenes, without poses.

After the benchmark's devkit, which says to unpack everything into one folder: annotated depth as
`<split>/<drive>/proj_depth/groundtruth/image_0X/<number>.png`, 16 bits of 256 steps a metre, 0 unknown; and KITTI's raw
recordings, `<date>/<drive>/image_0X/data/<number>.png`, which hold the images. K is the left part of P_rect_0X in
`<date>/calib_cam_to_cam.txt`, of integer pixel centres, where that file is there. The benchmark has no poses. Its
`val_selection_cropped` repeats a thousand of these images, and is not read; the first 110 of each drive of `val`, as
MonST3R and π³ evaluate, are a choice of the evaluation. A real calibration was read (docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_depth
from flow3r.data.frame import Sequence
from flow3r.errors import InputError

STEPS = 256  # of depth in a metre
LAYOUT = "{train,val}/<drive>/proj_depth/groundtruth/image_0X/*.png and <date>/<drive>/image_0X/data/*.png"


def sequences(root: Path) -> List[Sequence]:
    """The drives below `root`, each seen by the left (image_02) and the right (image_03) colour camera."""
    found = folders(root, "*/*/proj_depth/groundtruth/image_0[23]", "KITTI depth", LAYOUT)
    return [_sequence(root, folder) for folder in found]


def _sequence(root: Path, depth: Path) -> PosedImages:
    split, drive, _, _, camera = depth.relative_to(root).parts
    return PosedImages(f"{split}/{drive}/{camera}", partial(_listing, depth, root / drive[:10], drive, camera))


def _listing(depth: Path, date: Path, drive: str, camera: str) -> Listing:
    calibration = date / "calib_cam_to_cam.txt"
    intrinsics = read_intrinsics(calibration, camera) if calibration.is_file() else None
    recorded = date / drive / camera / "data"
    names = {file.name for folder in (depth, recorded) for file in folder.glob("*.png")}
    images, left_out = [], Counter()
    for name in sorted(names):
        if not (recorded / name).is_file() or not (depth / name).is_file():
            left_out["no depth file" if (recorded / name).is_file() else "no image file"] += 1
            continue
        read = partial(read_depth, depth / name, 1 / STEPS)
        images.append(PosedImage(recorded / name, intrinsics, None, float(Path(name).stem), read))
    return Listing(images, left_out)


def read_intrinsics(file: Path, camera: str) -> Float[np.ndarray, "3 3"]:
    """K of a rectified camera, `image_0X`, in half-integer pixel centres."""
    key = f"P_rect_{camera[-2:]}:"
    try:
        rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
        values = next(row[1:] for row in rows if row and row[0] == key)
        intrinsics = np.array(values, dtype=np.float64).reshape(3, 4)[:, :3].copy()
    except (OSError, ValueError, StopIteration) as error:
        raise InputError(f"{file}: no {key} of 3 x 4 numbers, as in KITTI's calibration ({error})") from error
    intrinsics[:2, 2] += 0.5
    return intrinsics


KITTI_DEPTH = Dataset(
    name="kitti_depth",
    title="KITTI depth prediction",
    sequences=sequences,
    labels="depth",
    layout=LAYOUT,
    licence="CC BY-NC-SA 3.0",
    url="https://www.cvlibs.net/datasets/kitti/eval_depth_all.php",
    citation="Uhrig et al., Sparsity Invariant CNNs, 3DV 2017",
)
