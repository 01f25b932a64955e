"""CO3Dv2: turns around single objects, with cameras and depth from COLMAP.

<category>/<sequence>/{images,depths,depth_masks,masks}/, <category>/frame_annotations.jgz, <category>/set_lists/.
After the README and co3d/dataset/data_types.py of facebookresearch/co3d; cameras after the page "Cameras" of
PyTorch3D's documentation: row vectors, x left and y up, the principal point in units of half the shorter side (or of
half of each side), counted from the image's edges, so that pixel centres are half-integers as here. Depth after
PyTorch3D's implicitron: a 16-bit PNG holds the bits of float16. A frame's number is not that in its file's name.
Real annotations of four frames were read (docs/data.md).
"""

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole, read_json, read_values
from flow3r.errors import InputError

LAYOUT = "<category>/<sequence>/images/ and depths/, <category>/frame_annotations.jgz"
FARTHEST = 1e5  # a camera farther from the origin is a failed reconstruction: VGGT's and π³'s evaluation drop them


@dataclass(frozen=True)
class Category:
    """A category's annotations, read when the first of its frames is asked for and kept compressed."""

    folder: Path

    @cached_property
    def frames(self) -> dict[str, bytes]:
        """The annotations of each sequence's frames: compressed JSON."""
        frames = defaultdict(list)
        for frame in read_json(self.folder / "frame_annotations.jgz"):
            frames[frame["sequence_name"]].append(frame)
        return {name: zlib.compress(json.dumps(listed).encode()) for name, listed in frames.items()}

    def chosen(self, subset: str, part: str) -> dict[str, set[int]]:
        """The frame numbers of each sequence in a part ("train", "val", "test") of a set list; empty without one."""
        file, numbers = self.folder / "set_lists" / f"set_lists_{subset}.json", defaultdict(set)
        for name, number, _ in read_json(file)[part] if file.is_file() else []:
            numbers[name].add(number)
        return numbers


def sequences(root: Path, subset: str | None = None, part: str = "train") -> Sequence[PosedImages]:
    """All sequences; or the frames that a set list, such as "fewview_dev", has in its part "train", "val" or "test"."""
    images = folders(root, "*/*/images", "CO3Dv2", LAYOUT)
    categories = {path: Category(path) for path in sorted({path.parents[1] for path in images})}
    chosen = {} if subset is None else {path: known.chosen(subset, part) for path, known in categories.items()}
    if subset is not None and not any(chosen.values()):
        raise InputError(f"{root}: no frames in the part {part!r} of a <category>/set_lists/set_lists_{subset}.json")
    listed = []
    for path in images:
        category, name = path.parents[1], path.parent.name
        numbers = chosen[category].get(name, set()) if chosen else None
        if numbers is None or numbers:
            listing = partial(_listing, root, categories[category], name, numbers)
            listed.append(PosedImages(f"{category.name}/{name}", listing))
    return listed


def held_out(root: Path) -> list[str]:
    """The sequences of the test part of set list fewview_dev, by which CO3Dv2 is evaluated; none without that list."""
    try:
        return [sequence.name for sequence in sequences(root, "fewview_dev", "test")]
    except InputError:
        return []


def _listing(root: Path, category: Category, name: str, numbers: set[int] | None) -> Listing:
    if name not in category.frames:
        return Listing([], Counter({"no annotation": sum(1 for _ in (category.folder / name / "images").iterdir())}))
    images, left_out = [], Counter()
    for frame in sorted(json.loads(zlib.decompress(category.frames[name])), key=lambda frame: frame["frame_number"]):
        if numbers is None or frame["frame_number"] in numbers:
            posed = _posed_image(root, frame)
            left_out.update([posed]) if isinstance(posed, str) else images.append(posed)
    return Listing(images, left_out)


def _posed_image(root: Path, frame: dict[str, Any]) -> PosedImage | str:
    """The image of an annotation, or why it cannot be used."""
    depth, file = frame["depth"], root / frame["image"]["path"]
    if frame["viewpoint"] is None or depth is None:
        return "no camera" if frame["viewpoint"] is None else "no depth"
    intrinsics, pose = _camera(frame["viewpoint"], tuple(frame["image"]["size"]))
    if not (np.isfinite(pose).all() and np.isfinite(intrinsics).all()):
        return "non-finite camera"
    if np.abs(frame["viewpoint"]["T"]).sum() > FARTHEST:
        return "camera out of the world"
    if not (file.is_file() and (root / depth["path"]).is_file()):
        return "missing depth file" if file.is_file() else "missing image"
    read = partial(_depth, root / depth["path"], root / depth["mask_path"], depth["scale_adjustment"])
    return PosedImage(file, intrinsics, pose, float(frame["frame_timestamp"]), read)


def _camera(viewpoint: dict[str, Any], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Intrinsics and world-from-camera, with OpenCV's axes, of a PyTorch3D camera."""
    half = np.array([size[1], size[0]]) / 2
    form = viewpoint.get("intrinsics_format", "ndc_norm_image_bounds")
    if form not in ("ndc_isotropic", "ndc_norm_image_bounds"):
        raise InputError(f"cameras of CO3Dv2 are ndc_isotropic or ndc_norm_image_bounds, got {form!r}")
    pixels = half.min() if form == "ndc_isotropic" else half
    centre = half - np.array(viewpoint["principal_point"]) * pixels
    flip = np.diag([-1.0, -1.0, 1.0])
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3] = flip @ np.array(viewpoint["R"]).T
    camera_from_world[:3, 3] = flip @ np.array(viewpoint["T"])
    pose = np.linalg.inv(camera_from_world) if np.isfinite(camera_from_world).all() else camera_from_world
    return pinhole(*(np.array(viewpoint["focal_length"]) * pixels * np.ones(2)), *centre), pose


def _depth(file: Path, mask: Path, scale: float) -> Float[np.ndarray, "H W"]:
    bits = read_values(file)
    if bits.dtype != np.uint16:
        raise InputError(f"{file}: {bits.dtype}; expected the bits of float16 in 16 bits")
    return np.where(read_values(mask) > 0, bits.view(np.float16).astype(np.float32) * np.float32(scale), 0)


CO3DV2 = Dataset(
    name="co3dv2",
    title="Common Objects in 3D, version 2",
    sequences=sequences,
    held_out=held_out,
    labels="posed",
    layout=LAYOUT,
    licence="CC BY-NC 4.0 (the data); see https://ai.meta.com/datasets/co3d-downloads/",
    url="https://github.com/facebookresearch/co3d",
    citation="Reizenstein et al., Common Objects in 3D: Large-Scale Learning and Evaluation of Real-life 3D Category "
    "Reconstruction, ICCV 2021",
    rigid=True,
    scale="relative",
)
