"""A scene in the layout of BlendedMVS: its README, and "File Formats" in that of MVSNet, which it refers to."""

from pathlib import Path

import numpy as np
from PIL import Image
from rendered import Rendered

PID = "57f8d9bbe73f6760f10e916a"  # 24 hexadecimal digits, as the project identifiers are


def camera_text(intrinsics: np.ndarray, camera_from_world: np.ndarray) -> str:
    """A `cam.txt`; its last line is depth_min, depth_interval, depth_num, depth_max."""
    rows = "\n".join(" ".join(f"{value:.8f}" for value in row) for row in camera_from_world)
    pinhole = "\n".join(" ".join(f"{value:.8f}" for value in row) for row in intrinsics)
    return f"extrinsic\n{rows} \n\nintrinsic\n{pinhole} \n\n1.5 0.02 128 4.04\n"


def pfm_bytes(depth: np.ndarray, endian: str = "<") -> bytes:
    """Rows from the bottom up; the sign of the scale tells the order of bytes."""
    header = f"Pf\n{depth.shape[1]} {depth.shape[0]}\n{-1.0 if endian == '<' else 1.0:.6f}\n".encode()
    return header + np.flipud(depth).astype(f"{endian}f4").tobytes()


def write_blendedmvs(root: Path, scene: Rendered, pid: str = PID) -> Path:
    """The folder of the scene. Its cameras have half-integer centres, as MVSNet samples its images."""
    folder = root / pid
    for name in ("blended_images", "cams", "rendered_depth_maps"):
        (folder / name).mkdir(parents=True)
    (root / "BlendedMVS_list.txt").write_text(f"{pid}\n")
    (folder / "cams" / "pair.txt").write_text(f"{len(scene.images)}\n0\n1 1 10.0 \n")
    for k, (image, depth, pose) in enumerate(zip(scene.images, scene.depth, scene.world_from_camera)):
        picture = Image.fromarray(image)
        picture.save(folder / "blended_images" / f"{k:08d}.jpg", quality=95)
        picture.point(lambda value: value // 2).save(folder / "blended_images" / f"{k:08d}_masked.jpg", quality=95)
        text = camera_text(scene.intrinsics, np.linalg.inv(pose))
        (folder / "cams" / f"{k:08d}_cam.txt").write_text(text)
        unknown = depth.copy()
        unknown[:, :3] = 0  # where the mesh has holes
        (folder / "rendered_depth_maps" / f"{k:08d}.pfm").write_bytes(pfm_bytes(unknown))
    return folder
