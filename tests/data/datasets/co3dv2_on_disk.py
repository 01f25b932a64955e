"""CO3Dv2 as its repository's README and co3d/dataset/data_types.py lay it out, from a rendered scene.

The camera after the page "Cameras" of PyTorch3D: X_view = X_world R + T for row vectors; x left, y up, z forward; the
shorter side of the image spans [-1, 1], from edge to edge. Depth as PyTorch3D's implicitron reads it: the bits of a
float16 in a 16-bit PNG, times `scale_adjustment`, where the depth mask is not 0.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rendered import Rendered

FLIP = np.diag([-1.0, -1.0, 1.0])  # from OpenCV's axes to PyTorch3D's


def write_category(root: Path, scenes: dict[str, Rendered], category: str = "apple", **changes: Any) -> list[dict]:
    """Writes sequences by name; `changes` as in `annotation`. The annotations of their frames, as written."""
    frames = [
        annotation(root, category, name, scene, k, **changes)
        for name, scene in scenes.items()
        for k in range(len(scene.images))
    ]
    write_annotations(root / category, frames)
    return frames


def write_annotations(category: Path, frames: list[dict]) -> None:
    for name, content in {
        "frame": frames,
        "sequence": [{"sequence_name": name} for name in sorted({frame["sequence_name"] for frame in frames})],
    }.items():
        (category / f"{name}_annotations.jgz").write_bytes(gzip.compress(json.dumps(content).encode()))


def write_set_list(category: Path, subset: str, **parts: list[dict]) -> None:
    """The set list `subset` of the frames whose annotations are given for train, val and test."""
    lists = {part: [] for part in ("train", "val", "test")}
    for part, frames in parts.items():
        lists[part] = [[frame["sequence_name"], frame["frame_number"], frame["image"]["path"]] for frame in frames]
    (category / "set_lists").mkdir(exist_ok=True)
    (category / "set_lists" / f"set_lists_{subset}.json").write_text(json.dumps(lists))


def annotation(
    root: Path,
    category: str,
    sequence: str,
    scene: Rendered,
    k: int,
    intrinsics_format: str = "ndc_isotropic",
    scale_adjustment: float = 1.0,
) -> dict:
    """Writes a frame's files; its annotation. File names count otherwise than frame numbers, as the README warns."""
    folder, name = root / category / sequence, f"frame{3 * k + 1:06d}"
    for part in ("images", "depths", "depth_masks", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"images/{name}.jpg"), scene.images[k][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
    depth = (scene.depth[k] / scale_adjustment).astype(np.float16)
    depth[-1, :4] = [np.inf, np.nan, 0, -1]
    mask = np.full(depth.shape, 255, np.uint8)
    mask[0] = 0
    depth[0] = 1.5  # what the mask excludes is not 0
    cv2.imwrite(str(folder / f"depths/{name}.jpg.geometric.png"), depth.view(np.uint16))
    for part in ("depth_masks", "masks"):
        cv2.imwrite(str(folder / f"{part}/{name}.png"), mask)
    height, width = depth.shape
    path = f"{category}/{sequence}"
    return {
        "sequence_name": sequence,
        "frame_number": k,
        "frame_timestamp": 0.2 * k,
        "image": {"path": f"{path}/images/{name}.jpg", "size": [height, width]},
        "depth": {
            "path": f"{path}/depths/{name}.jpg.geometric.png",
            "scale_adjustment": scale_adjustment,
            "mask_path": f"{path}/depth_masks/{name}.png",
        },
        "mask": {"path": f"{path}/masks/{name}.png", "mass": float((mask > 0).sum())},
        "viewpoint": viewpoint(scene.world_from_camera[k], scene.intrinsics, (height, width), intrinsics_format),
        "meta": None,
    }


def viewpoint(world_from_camera: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], form: str) -> dict:
    camera_from_world = np.linalg.inv(world_from_camera)
    half = np.array([size[1], size[0]]) / 2
    unit = half.min() if form == "ndc_isotropic" else half  # pixels in a unit of NDC
    return {
        "R": (FLIP @ camera_from_world[:3, :3]).T.tolist(),
        "T": (FLIP @ camera_from_world[:3, 3]).tolist(),
        "focal_length": (intrinsics[[0, 1], [0, 1]] / unit).tolist(),
        "principal_point": ((half - intrinsics[:2, 2]) / unit).tolist(),
        "intrinsics_format": form,
    }
