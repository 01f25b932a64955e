"""A variation of a scene in the layout of Virtual KITTI 2, as its loaders describe it; flow after its own decoder."""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from rendered import Rendered

from flow3r.geometry.flow import flow_from_depth


def exact_flow(scene: Rendered, i: int, j: int) -> np.ndarray:
    """The displacement (H W 2) of every pixel of frame i in frame j, seen there or not."""
    depth, poses = torch.from_numpy(scene.depth[[i, j]]), torch.from_numpy(scene.world_from_camera[[i, j]])
    pinholes = torch.from_numpy(np.stack([scene.intrinsics] * 2))
    height, width = depth.shape[1:]
    large = torch.nn.functional.pad(depth, (width, width, height, height), mode="replicate")  # what lies outside, too
    pinholes[:, 0, 2] += width
    pinholes[:, 1, 2] += height
    flow, _ = flow_from_depth(large[None], pinholes[None], poses[None], tolerance=1e9)
    return flow[0, height:-height, width:-width].numpy()


def encoded_flow(flow: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """16-bit BGR: blue is 0 where invalid, green and red are y and x over the largest coordinate, from -1..1."""
    height, width = valid.shape
    scaled = np.clip((flow / [width - 1, height - 1] + 1) / 2 * 65535, 0, 65535).round().astype(np.uint16)
    return np.dstack([np.where(valid, 65535, 0).astype(np.uint16), scaled[..., 1], scaled[..., 0]])


def write_vkitti2(root: Path, scene: Rendered, variation: str = "Scene01/clone", first: int = 0) -> Path:
    """The folder of the variation, with the left camera alone. Pinholes have integer centres."""
    folder, count = root / variation, len(scene.images)
    for kind in ("rgb", "depth", "forwardFlow", "backwardFlow"):
        (folder / "frames" / kind / "Camera_0").mkdir(parents=True)
    rows = ["frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"]
    pinholes = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"]
    (fx, _, cx), (_, fy, cy), _ = scene.intrinsics
    for k in range(count):
        number, frames = first + k, folder / "frames"
        Image.fromarray(scene.images[k]).save(frames / "rgb" / "Camera_0" / f"rgb_{number:05d}.jpg", quality=95)
        centimetres = np.round(100 * scene.depth[k]).astype(np.uint16)
        centimetres[:2, :2] = 65535  # sky
        cv2.imwrite(str(frames / "depth" / "Camera_0" / f"depth_{number:05d}.png"), centimetres)
        matrix = np.linalg.inv(scene.world_from_camera[k])
        for camera in (0, 1):  # the text tells of both cameras, in turn
            shifted = matrix.copy()
            shifted[0, 3] -= 0.532725 * camera
            rows.append(f"{number} {camera} " + " ".join(f"{value:.9g}" for value in shifted.ravel()))
            pinholes.append(f"{number} {camera} {fx} {fy} {cx - 0.5} {cy - 0.5}")
        valid = centimetres != 65535
        for kind, name, other in (("forwardFlow", "flow", k + 1), ("backwardFlow", "backwardFlow", k - 1)):
            if 0 <= other < count:
                file = frames / kind / "Camera_0" / f"{name}_{number:05d}.png"
                cv2.imwrite(str(file), encoded_flow(exact_flow(scene, k, other), valid))
    (folder / "extrinsic.txt").write_text("\n".join(rows) + "\n")
    (folder / "intrinsic.txt").write_text("\n".join(pinholes) + "\n")
    return folder
