"""Results of MegaSaM, as the two scripts of its repository write them: the tracker's, and that of consistent depth."""

from pathlib import Path

import numpy as np
from rendered import Rendered


def write_tracked(root: Path, scene: Rendered, name: str = "walk") -> Path:
    """`outputs/<scene>_droid.npz`: float32; depth below 1e-2 was set to 0 before it was inverted twice over 1e-6."""
    depth = scene.depth.copy()
    depth[:, 0, :4] = 0
    file = root / "outputs" / f"{name}_droid.npz"
    return _write(file, scene, np.float32(1 / (1 / (depth + 1e-6))))


def write_consistent(root: Path, scene: Rendered, name: str = "walk") -> Path:
    """`outputs_cvd/<scene>_sgd_cvd_hr.npz`: float16, clipped to 1e-3 and 1e2."""
    depth = scene.depth.copy()
    depth[:, 0, :4], depth[:, 1, :4] = 1e9, 1e-9
    with np.errstate(over="ignore"):
        clipped = np.clip(np.float16(depth), 1e-3, 1e2)
    return _write(root / "outputs_cvd" / f"{name}_sgd_cvd_hr.npz", scene, clipped)


def _write(file: Path, scene: Rendered, depths: np.ndarray) -> Path:
    """Pixel grids start at 0 in both scripts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    intrinsic = scene.intrinsics - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    poses = scene.world_from_camera.astype(np.float32)
    np.savez(file, images=scene.images, depths=depths, intrinsic=intrinsic, cam_c2w=poses)
    return file
