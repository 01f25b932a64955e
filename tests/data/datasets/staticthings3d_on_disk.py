"""A sequence as the download script of StaticThings3D unpacks it; encodings after the loader of robustmvd (rmvd)."""

from pathlib import Path

import numpy as np
from PIL import Image
from rendered import Rendered


def float3_bytes(values: np.ndarray) -> bytes:
    """The word "float", the number of dimensions, their sizes from the fastest to the slowest, and the values."""
    sizes = "".join(f"{size}\n" for size in reversed(values.shape))
    return f"float\n{values.ndim}\n{sizes}".encode() + values.astype("<f4").tobytes()


def write_staticthings3d(root: Path, scene: Rendered, sequence: str = "TRAIN/A/0000", camera: str = "left") -> None:
    """Frames 6, 7, ...; the archives of images, depth and poses have a folder for each camera, that of intrinsics none.

    Pinholes have integer centres: those of FlyingThings3D are 479.5, 269.5 in images of 960 x 540.
    """
    pinhole = scene.intrinsics - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    for k, (image, depth, pose) in enumerate(zip(scene.images, scene.depth, scene.world_from_camera)):
        unknown = depth.copy()
        unknown[0, :4] = [np.inf, -1, np.nan, np.inf]
        files = {
            f"intrinsics/{sequence}/{k + 6:04d}.float3": pinhole,
            f"poses/{sequence}/{camera}/{k + 6:04d}.float3": np.linalg.inv(pose),
            f"depths/{sequence}/{camera}/{k + 6:04d}.float3": unknown,
        }
        for name, values in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(float3_bytes(values))
        for frames in ("frames_cleanpass", "frames_finalpass"):
            file = root / frames / sequence / camera / f"{k + 6:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image if frames == "frames_cleanpass" else image // 2).save(file)
