"""Writes a sequence as the TUM RGB-D benchmark lays it out (its page "File Formats"), which Bonn RGB-D follows."""

import json
from pathlib import Path

import cv2
import numpy as np
from rendered import Rendered
from scipy.spatial.transform import Rotation
from synthetic_room import render_rays

START, PERIOD = 1548266464.0, 1 / 30  # of the colour camera's clock, in seconds


def seen_through_lens(truth: Rendered, distortion: tuple[float, ...]) -> Rendered:
    """The same views through a lens of OpenCV's coefficients: what the camera delivers before it is undistorted."""
    height, width = truth.depth.shape[1:]
    corner = truth.intrinsics - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])  # OpenCV counts from pixel centres
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 1, 2).astype(np.float64)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    plane = cv2.undistortPoints(pixels, corner, np.array(distortion), criteria=stop).reshape(height, width, 2)
    rays = np.concatenate([plane, np.ones((height, width, 1))], axis=-1)
    depth, _, images = zip(*(render_rays(pose, rays) for pose in truth.world_from_camera))
    return Rendered(np.stack(images), np.stack(depth), truth.intrinsics, truth.world_from_camera)


def write_tum(folder: Path, seen: Rendered, tracked: np.ndarray) -> None:
    """`tracked`: the poses (N 4 4) that the motion capture reports. Depth starts two frames before colour does."""
    for kind in ("rgb", "depth"):
        (folder / kind).mkdir(parents=True)
    rgb, depth, track = [], [], []
    for k in range(-2, len(seen.images)):
        time = START + k * PERIOD
        raw = np.round(np.clip(seen.depth[max(k, 0)], 0, 13) * 5000).astype(np.uint16)
        raw[:4, :4] = 0  # nothing came back
        cv2.imwrite(str(folder / f"depth/{time + 0.004:.5f}.png"), raw if k >= 0 else raw // 2)
        depth.append(f"{time + 0.004:.5f} depth/{time + 0.004:.5f}.png")
        if k >= 0:
            cv2.imwrite(str(folder / f"rgb/{time:.5f}.png"), seen.images[k][..., ::-1])
            rgb.append(f"{time:.5f} rgb/{time:.5f}.png")
            track.append(line(time - 0.009, np.linalg.inv(tracked[k])))  # further away in time, and wrong
            track.append(line(time + 0.003, tracked[k]))
    write_list(folder / "rgb.txt", "# color images", rgb)
    write_list(folder / "depth.txt", "# depth maps", depth)
    write_list(folder / "groundtruth.txt", "# ground truth trajectory", track)


def relay_freiburg1(source: Path, folder: Path) -> list[dict]:
    """The benchmark's own files, made again from a verified copy of some frames; returns what that says of each."""
    folder.mkdir()
    (folder / "rgb").symlink_to(source / "images")
    (folder / "depth").symlink_to(source / "depth")
    entries = json.loads((source / "cameras.json").read_text())["frames"]
    (folder / "rgb.txt").write_text("".join(f"{e['t']:.6f} rgb/{Path(e['image']).name}\n" for e in entries))
    (folder / "depth.txt").write_text("".join(f"{Path(e['depth']).stem} {e['depth']}\n" for e in entries))
    (folder / "groundtruth.txt").symlink_to(source / "groundtruth_full_tum.txt")
    return entries


def line(time: float, pose: np.ndarray) -> str:
    """timestamp tx ty tz qx qy qz qw."""
    numbers = [*pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()]
    return f"{time:.5f} " + " ".join(f"{number:.7f}" for number in numbers)


def write_list(file: Path, title: str, lines: list[str]) -> None:
    file.write_text("\n".join([title, f"# file: '{file.parent.name}.bag'", "# timestamp data", *lines, ""]))
