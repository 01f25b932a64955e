"""Rendered scenes as folders with a cameras.json."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from synthetic_room import intrinsics_of, render, walk

from flow3r.data.datasets.folder import CAMERAS
from flow3r.draw import save_png

SIZE, FOCAL = (96, 128), 100.0


def write_cameras(folder: Path, content: dict[str, Any]) -> None:
    (folder / CAMERAS).write_text(json.dumps(content))


def write_posed(folder: Path, count: int = 3) -> Path:
    """A walk through the room of two colours."""
    folder.mkdir(parents=True)
    intrinsics, entries = intrinsics_of(FOCAL, SIZE), []
    for k, pose in enumerate(walk(count)):
        depth, _, colours = render(pose, intrinsics, SIZE)
        save_png(folder / f"{k}.png", torch.from_numpy(colours).movedim(-1, 0) / 255)
        cv2.imwrite(str(folder / f"{k}_depth.png"), (depth * 1000).round().astype(np.uint16))
        entry = {"image": f"{k}.png", "depth": f"{k}_depth.png", "K": intrinsics.tolist(), "c2w": pose.tolist()}
        entries.append(entry | {"t": 0.1 * k + 1 / 3})
    write_cameras(folder, {"pixel_centre": 0.5, "depth_scale": 0.001, "frames": entries})
    return folder
