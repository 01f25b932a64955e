"""MegaDepth: photographs of landmarks from the internet, with cameras and depth from COLMAP.

Undistorted_SfM/<scene>/{images,sparse-txt or sparse}/ and phoenix/S6/zl548/MegaDepth_v1/<scene>/dense0/depths/<name>.h5
(or depth_undistorted/<scene>/<name>.h5, where cvg/glue-factory puts them): the release, MegaDepth_v1, has no intrinsics
for its undistorted images, so that all loaders take those that megadepth_utils/undistort_reconstructions.py of
mihaidusmanu/d2-net makes of MegaDepth_v1_SfM with COLMAP. The scene_info/*.npz made from these are pickles, and not
needed. After megadepth_utils/preprocess_scene.py there: z-depth, 0 unknown, in the dataset "depth"; files below 100 KB
are ordinal masks, as are those with negative values (prepare_data.md of ubc-vision/COTR). Scale is that of COLMAP.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.colmap import read_model
from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.errors import InputError

LAYOUT = "Undistorted_SfM/<scene>/images/ and sparse-txt/, phoenix/S6/zl548/MegaDepth_v1/<scene>/dense0/depths/"
DEPTHS = ("phoenix/S6/zl548/MegaDepth_v1/{}/dense0/depths", "depth_undistorted/{}")
ORDINAL = 100 * 1024  # bytes: smaller depth files are ordinal masks (d2-net, preprocess_scene.py)


def sequences(root: Path) -> Sequence[PosedImages]:
    """The scenes, each an unordered collection of photographs, by name."""
    found = folders(root, "Undistorted_SfM/*/images", "MegaDepth", LAYOUT)
    return [PosedImages(path.parent.name, partial(_listing, root, path.parent)) for path in found]


def _listing(root: Path, folder: Path) -> Listing:
    places = [root / place.format(folder.name) for place in DEPTHS]
    depths = next((place for place in places if place.is_dir()), None)
    if depths is None:
        raise InputError(f"{folder}: no depth of this scene; looked for {' and '.join(map(str, places))}")
    text = folder / "sparse-txt"
    images, left_out = [], Counter()
    for posed in read_model(text if text.is_dir() else folder / "sparse"):
        file, depth = folder / "images" / posed.name, depths / f"{Path(posed.name).stem}.h5"
        if posed.camera.distortion:
            raise InputError(f"{folder}: a model of distorted images ({posed.camera.model}); expected PINHOLE")
        if not np.isfinite(posed.world_from_camera).all():
            left_out["non-finite pose"] += 1
        elif not (file.is_file() and depth.is_file()):
            left_out["missing depth file" if file.is_file() else "missing image"] += 1
        elif depth.stat().st_size < ORDINAL:
            left_out["ordinal depth"] += 1
        else:
            number = float(len(images))
            read = partial(_depth, depth)
            images.append(PosedImage(file, posed.camera.intrinsics, posed.world_from_camera, number, read))
    return Listing(images, left_out)


def _depth(file: Path) -> Float[np.ndarray, "H W"]:
    """Unknown everywhere if it is an ordinal mask."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(f"{file}: reading MegaDepth's depth needs h5py; pip install 'flow3r[datasets]'") from error
    try:
        with h5py.File(file, "r") as content:
            depth = content["depth"][()].astype(np.float32)
    except (OSError, KeyError) as error:
        raise InputError(f"{file}: not a depth file of MegaDepth that can be read ({error})") from error
    return np.zeros_like(depth) if (depth < 0).any() else depth


MEGADEPTH = Dataset(
    name="megadepth",
    title="MegaDepth v1",
    sequences=sequences,
    labels="posed",
    layout=LAYOUT,
    licence="see https://www.cs.cornell.edu/projects/megadepth; the photographs have licences of their own",
    url="https://www.cs.cornell.edu/projects/megadepth",
    citation="Li and Snavely, MegaDepth: Learning Single-View Depth Prediction from Internet Photos, CVPR 2018",
    rigid=True,
    scale="relative",
)
