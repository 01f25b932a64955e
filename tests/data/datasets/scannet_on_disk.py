"""ScanNet as SensReader/python/SensorData.py exports it, from a scene rendered for both of its cameras.

scans/<scene>/color/<k>.jpg, depth/<k>.png (uint16, millimetres), pose/<k>.txt (camera-to-world; lost ones are -inf),
intrinsic/intrinsic_{color,depth}.txt (4 x 4, integer pixel centres: published ones are centred on (width - 1) / 2).
Colour and depth have one pose: the extrinsics are the identity (ScanNet's maintainers, issue 92 of its repository).
`pack` keeps 90 frames as datasets_preprocess/prepare_scannet.py of Junyi42/monst3r does.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered

HALF = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def write_scan(root: Path, color: Rendered, depth: Rendered, name: str = "scene0707_00", step: int = 1) -> Path:
    """`step`: of the numbers of the files, as exports that skip frames have them."""
    folder = root / "scans" / name
    for part in ("color", "depth", "pose", "intrinsic"):
        (folder / part).mkdir(parents=True)
    for k, pose in enumerate(depth.world_from_camera):
        number = str(k * step)
        cv2.imwrite(str(folder / f"color/{number}.jpg"), color.images[k][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        cv2.imwrite(str(folder / f"depth/{number}.png"), np.round(depth.depth[k] * 1000).astype(np.uint16))
        np.savetxt(folder / f"pose/{number}.txt", pose, fmt="%.9f")
    for part, scene in (("color", color), ("depth", depth)):
        matrix = np.eye(4)
        matrix[:3, :3] = scene.intrinsics - HALF
        np.savetxt(folder / f"intrinsic/intrinsic_{part}.txt", matrix, fmt="%f")
        np.savetxt(folder / f"intrinsic/extrinsic_{part}.txt", np.eye(4), fmt="%f")
    return folder


def lose_pose(folder: Path, number: int) -> None:
    np.savetxt(folder / "pose" / f"{number}.txt", np.full((4, 4), -np.inf), fmt="%f")


def pack(folder: Path, keep: int, every: int) -> None:
    """color_<keep>/frame_%04d.jpg, depth_<keep>/, pose_<keep>.txt with 16 numbers to a line; the first are dropped."""
    numbers = sorted(int(path.stem) for path in (folder / "color").iterdir())[: keep * every : every]
    for part, suffix in (("color", "jpg"), ("depth", "png")):
        (folder / f"{part}_{keep}").mkdir()
        for k, number in enumerate(numbers):
            shutil.copy(folder / part / f"{number}.{suffix}", folder / f"{part}_{keep}" / f"frame_{k:04d}.{suffix}")
    poses = [np.loadtxt(folder / "pose" / f"{number}.txt").ravel() for number in numbers]
    (folder / f"pose_{keep}.txt").write_text("".join(" ".join(map(str, pose)) + "\n" for pose in poses))
    for part in ("color", "depth", "pose"):
        shutil.rmtree(folder / part)
