"""Writes a sequence as MPI-Sintel lays it out.

After the READMEs of the flow and of the depth release and `sintel_io.py` of the latter: .dpt is a float32 tag, int32
width and height, float32 depth in rows; .cam is the tag, nine float64 of K and twelve of the camera from the world;
.flo is the tag, width, height and interleaved float32 (u, v) to the next frame; masks are 255 where true.
"""

import struct
from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered

TAG, FAR = 202021.25, 1e10


def rigid_flow(truth: Rendered, k: int) -> np.ndarray:
    """Where the pixels of frame k are seen in frame k + 1, less where they are (H W 2)."""
    height, width = truth.depth.shape[1:]
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(truth.intrinsics).T
    pose, after = truth.world_from_camera[k], np.linalg.inv(truth.world_from_camera[k + 1])
    points = (rays * truth.depth[k][..., None]) @ pose[:3, :3].T + pose[:3, 3]
    seen = (points @ after[:3, :3].T + after[:3, 3]) @ truth.intrinsics.T
    return seen[..., :2] / seen[..., 2:] - np.stack([x, y], axis=-1)


def write_sintel(training: Path, name: str, truth: Rendered, sky: np.ndarray, occluded: np.ndarray) -> None:
    """`training` holds all kinds of files; `sky` and `occluded` (H W) are true where depth is far and flow hidden."""
    for kind in ("final", "clean", "depth", "camdata_left", "flow", "occlusions", "invalid"):
        (training / kind / name).mkdir(parents=True)
    height, width = truth.depth.shape[1:]
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # K of 1024 x 436 is centred at (511.5, 217.5)
    for k, pose in enumerate(truth.world_from_camera):
        file = f"{name}/frame_{k + 1:04d}"
        cv2.imwrite(str(training / f"final/{file}.png"), truth.images[k][..., ::-1])
        cv2.imwrite(str(training / f"clean/{file}.png"), np.zeros_like(truth.images[k]))
        header = struct.pack("<fii", TAG, width, height)
        depth = np.where(sky, FAR, truth.depth[k]).astype("<f4")
        (training / f"depth/{file}.dpt").write_bytes(header + depth.tobytes())
        cameras = np.concatenate([(truth.intrinsics - half).ravel(), np.linalg.inv(pose)[:3].ravel()]).astype("<f8")
        (training / f"camdata_left/{file}.cam").write_bytes(header[:4] + cameras.tobytes())
        invalid = np.zeros((height, width), dtype=np.uint8)
        invalid[0, 0] = 255
        cv2.imwrite(str(training / f"invalid/{file}.png"), invalid)
        if k + 1 < len(truth.images):
            flow = rigid_flow(truth, k).astype("<f4")
            (training / f"flow/{file}.flo").write_bytes(header + flow.tobytes())
            cv2.imwrite(str(training / f"occlusions/{file}.png"), occluded.astype(np.uint8) * 255)
