"""A scene of OmniWorld-Game as the script of its repository extracts it; encodings after the readers there."""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rendered import Rendered

from flow3r.geometry.se3 import quaternion_from_rotation


def encoded_depth(depth: np.ndarray) -> np.ndarray:
    """The 16-bit buffer whose value d in [0, 1] means a depth of d / (1000 - 999 d) / 0.004."""
    linear = 0.004 * depth
    return np.round(1000 * linear / (1 + 999 * linear) * 65535).astype(np.uint16)


def write_omniworld(
    root: Path, scene: Rendered, uid: str = "b04f88d1f85a", splits: tuple[tuple[int, ...], ...] = ((0, 1, 2),)
) -> Path:
    """The folder of the scene, whose frames are the rendered ones. Half-integer centres, quaternions of any length."""
    folder = root / uid
    for name in ("color", "depth", "camera"):
        (folder / name).mkdir(parents=True)
    for k, (image, depth) in enumerate(zip(scene.images, scene.depth)):
        Image.fromarray(image).save(folder / "color" / f"{k:06d}.png")
        values = encoded_depth(depth)
        values[0, :2], values[1, :2] = 65535, 20  # sky, and closer than can be told
        cv2.imwrite(str(folder / "depth" / f"{k:06d}.png"), values)
    (folder / "fps.txt").write_text("FPS: 24.0\nProcessing time: 1177.11 seconds\n")
    info = {"scene_name": uid, "split_num": len(splits), "split": splits}
    (folder / "split_info.json").write_text(json.dumps(info))
    (fx, _, cx), (_, fy, cy), _ = scene.intrinsics
    assert fx == fy, "a split has one focal length for both axes"
    for number, frames in enumerate(splits):
        camera_from_world = torch.from_numpy(np.linalg.inv(scene.world_from_camera[list(frames)]))
        quaternions = 2.5 * quaternion_from_rotation(camera_from_world[:, :3, :3])
        camera = {
            "focals": [fx] * len(frames),
            "quats": quaternions.tolist(),
            "trans": camera_from_world[:, :3, 3].tolist(),
            "cx": cx,
            "cy": cy,
            "invalid_frame": [],
        }
        (folder / "camera" / f"split_{number}.json").write_text(json.dumps(camera))
    return folder
