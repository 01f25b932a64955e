"""Habitat: small batches of views rendered by Habitat-Sim in scans of rooms (HM3D, Gibson, Replica, ScanNet).

Habitat has no released frames: this is the layout in which DUSt3R's datasets_preprocess/habitat renders CroCo's view
points: <scene>/<batch>_<view>.jpeg, .._depth.exr, .._camera_params.json, five views to a batch, and perhaps lists
Habitat_*_scenes_*.txt of batches. After preprocess_habitat.py, habitat_renderer/multiview_crop_generator.py and
dust3r/datasets/habitat.py of naver/dust3r: camera-to-world with OpenCV's axes and integer pixel centres, z-depth in
metres as half floats, broken views with non-finite poses.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import read_json
from flow3r.data.images import natural_key
from flow3r.errors import InputError

LAYOUT = "<scene>/<batch>_<view>.jpeg, _depth.exr and _camera_params.json"
PARAMETERS = "_camera_params.json"


def sequences(root: Path) -> Sequence[PosedImages]:
    """The batches of views: those that lists Habitat_*_scenes_*.txt in the root name, or all."""
    lists = sorted(root.glob("Habitat_*_scenes_*.txt"))
    if lists:
        batches = sorted({line.strip() for file in lists for line in file.read_text(encoding="utf-8").splitlines()})
    else:
        files = sorted(path.relative_to(root).as_posix() for path in root.glob(f"**/*_*{PARAMETERS}"))
        batches = [batch for batch, _ in groupby(files, lambda name: name.removesuffix(PARAMETERS).rpartition("_")[0])]
    if not batches:
        folders(root, f"*{PARAMETERS}", "Habitat as DUSt3R renders it", LAYOUT)  # there is none: says what there is
    return [PosedImages(batch, partial(_listing, root / batch)) for batch in batches if batch]


def _listing(batch: Path) -> Listing:
    images, left_out = [], Counter()
    for file in sorted(batch.parent.glob(f"{batch.name}_*{PARAMETERS}"), key=natural_key):
        image, depth = (Path(str(file).removesuffix(PARAMETERS) + end) for end in (".jpeg", "_depth.exr"))
        camera = read_json(file)
        intrinsics = np.array(camera["camera_intrinsics"], dtype=np.float64)
        intrinsics[:2, 2] += 0.5
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = camera["R_cam2world"], camera["t_cam2world"]
        if not np.isfinite(pose).all():
            left_out["non-finite pose"] += 1
        elif not (image.is_file() and depth.is_file()):
            left_out["missing depth file" if image.is_file() else "missing image"] += 1
        else:
            images.append(PosedImage(image, intrinsics, pose, float(len(images)), partial(read_exr, depth)))
    return Listing(images, left_out)


def read_exr(file: Path) -> Float[np.ndarray, "H W"]:
    """The only channel of an OpenEXR image, by FFmpeg: OpenCV's wheels cannot read it. InputError if it is damaged."""
    import av

    try:
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, OSError) as error:
        raise InputError(f"{file}: not an OpenEXR image that can be read ({error})") from error
    if not frame.format.name.startswith("gray"):
        raise InputError(f"{file}: pixels of {frame.format.name}; expected one channel of floats")
    values = np.frombuffer(frame.planes[0], np.float16 if "f16" in frame.format.name else np.float32)
    return values.reshape(frame.height, -1)[:, : frame.width].astype(np.float32)  # lines are padded


HABITAT = Dataset(
    name="habitat",
    title="Habitat, as rendered for CroCo and DUSt3R",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="that of each scanned scene (HM3D, Gibson, Replica, ScanNet); see "
    "https://github.com/facebookresearch/habitat-sim/blob/main/DATASETS.md",
    url="https://github.com/naver/dust3r/tree/main/datasets_preprocess/habitat",
    citation="Savva et al., Habitat: A Platform for Embodied AI Research, ICCV 2019; Weinzaepfel et al., CroCo, "
    "NeurIPS 2022",
    dense=True,
    rigid=True,
)
