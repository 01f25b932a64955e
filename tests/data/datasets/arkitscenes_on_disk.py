"""ARKitScenes' raw dataset as DATA.md, raw/README.md and threedod/benchmark_scripts/utils/tenFpsDataLoader.py say.

raw/<fold>/<video>/lowres_wide/<video>_<seconds>.png and likewise lowres_depth (uint16, millimetres) and
lowres_wide_intrinsics/*.pincam (width height fx fy cx cy); lowres_wide.traj: seconds, axis-angle and translation of
the world-to-camera motion. The world's z is up; the device may be held in any of four ways.
"""

from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered

VIDEO = "47333462"
# Turns of the picture, counter-clockwise by 90 degrees, between an upright camera and the device as it is held.
HELD = {"UP": 0, "LEFT": 1, "DOWN": 2, "RIGHT": 3}  # by where the sky is in the picture
WORLD_Z_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])  # from a world whose y is down


def write_video(root: Path, scene: Rendered, sky: str = "UP", rate: float = 10.0) -> Path:
    """The upright scene as seen by a device that is held so that the sky is to that side of the picture."""
    folder = root / "Training" / VIDEO
    lines = []
    for k, seconds in enumerate(times(len(scene.images), rate)):
        image, depth, intrinsics, pose = turned(scene, k, HELD[sky])
        write_frame(folder, f"{VIDEO}_{seconds:.3f}", image, depth, intrinsics)
        camera_from_world = np.linalg.inv(WORLD_Z_UP @ pose)
        axis_angle = cv2.Rodrigues(camera_from_world[:3, :3])[0].ravel()
        lines.append(" ".join(f"{value:.17g}" for value in [seconds, *axis_angle, *camera_from_world[:3, 3]]))
    (folder / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    return folder


def times(count: int, rate: float = 10.0) -> list[float]:
    return [6791.9234567 + k / rate for k in range(count)]


def write_frame(folder: Path, name: str, image: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> None:
    for part in ("lowres_wide", "lowres_depth", "lowres_wide_intrinsics"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "lowres_wide" / f"{name}.png"), image[..., ::-1])
    cv2.imwrite(str(folder / "lowres_depth" / f"{name}.png"), np.round(depth * 1000).astype(np.uint16))
    (fx, _, cx), (_, fy, cy), _ = intrinsics
    numbers = [image.shape[1], image.shape[0], fx, fy, cx - 0.5, cy - 0.5]  # the loader's pixels are range(width)
    (folder / "lowres_wide_intrinsics" / f"{name}.pincam").write_text(" ".join(f"{number:g}" for number in numbers))


def turned(scene: Rendered, k: int, quarters: int) -> tuple[np.ndarray, ...]:
    """Image, depth, intrinsics and world-from-camera after turning the picture counter-clockwise, one by one."""
    image, depth, intrinsics, pose = scene.images[k], scene.depth[k], scene.intrinsics, scene.world_from_camera[k]
    for _ in range(quarters):
        width = image.shape[1]
        # What was at (x, y) is at (y, width - x); the axis that was x points up, the one that was y to the right.
        (fx, _, cx), (_, fy, cy), _ = intrinsics
        image, depth = np.rot90(image), np.rot90(depth)
        intrinsics = np.array([[fy, 0, cy], [0, fx, width - cx], [0, 0, 1]])
        pose = pose @ np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return np.ascontiguousarray(image), np.ascontiguousarray(depth), intrinsics, pose
