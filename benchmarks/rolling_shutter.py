"""How right a teacher is on a sequence whose camera reads its rows one after another, while it turns fast.

    python -m benchmarks.rolling_shutter FOLDER TRACK [--teacher classical]

FOLDER has a `cameras.json` with depth and times, TRACK the camera's path in TUM's text format (time, translation,
quaternion), finer than the frames. The camera of a row is where the path is at the frame's time + offset + (row / rows
- 1/2) x readout. The two numbers, the same for all frames, are those that explain feature matches best by the source's
depth; the teacher's flow has no part in it. Printed: how far matches lie from where the poses put them, by the frames'
own times and by those of rows, and the teacher's precision by both, as in examples/5_judge_labels.py.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from flow3r.data.datasets.folder import CameraFolder
from flow3r.geometry.camera import pixel_grid, project, unproject
from flow3r.geometry.se3 import transform_points
from flow3r.teacher import teacher_called
from flow3r.teacher.judge import LEAST_MATCHES, TOLERANCE, JudgedView, LabelledPair, labelled_pairs, matched_points

ROBUST = 1.0  # pixels of the working size beyond which a match weighs less


class Track:
    """A camera's path: poses at any time within it, linear in translation, along great arcs in rotation."""

    def __init__(self, path: Path):
        rows = np.loadtxt(path)
        self.times, self.positions = rows[:, 0], rows[:, 1:4]
        self.rotations = Slerp(self.times, Rotation.from_quat(rows[:, 4:8]))

    def poses(self, times: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 4 4"]:
        """World from camera; before its begin and after its end the path stands still."""
        times = times.clip(self.times[0], self.times[-1])
        poses = np.tile(np.eye(4), (len(times), 1, 1))
        poses[:, :3, :3] = self.rotations(times).as_matrix()
        poses[:, :3, 3] = np.stack([np.interp(times, self.times, axis) for axis in self.positions.T], axis=1)
        return poses


@dataclass(frozen=True)
class Shutter:
    """When rows are read, in seconds: `offset` of the middle row from the frame's time, `readout` of all rows."""

    offset: float = 0.0
    readout: float = 0.0

    def times(self, frame_time: float, height: float) -> Float[np.ndarray, "n"]:
        """Of the rows 0, 1, ... of an image of `height`."""
        return self.at(frame_time, (np.arange(height) + 0.5) / height)

    def at(self, frame_time: float, share: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
        """Of rows at a share of the height."""
        return frame_time + self.offset + self.readout * (share.astype(np.float64) - 0.5)


@dataclass(frozen=True)
class Matches:
    """Of a pair of frames: points in the source's frame, where in both originals (pixels) they are seen."""

    times: tuple[float, float]
    points: Float[np.ndarray, "n 3"]
    source: Float[np.ndarray, "n 2"]
    target: Float[np.ndarray, "n 2"]
    intrinsics: Float[np.ndarray, "3 3"]
    scale: float
    height: float  # of the originals

    @classmethod
    def of(cls, source: JudgedView, target: JudgedView) -> "Matches":
        points, pixels = matched_points(source, target)
        seen = points @ source.intrinsics.T
        return cls(
            (source.small.timestamp, target.small.timestamp),
            points,
            seen[:, :2] / seen[:, 2:],
            pixels,
            target.intrinsics,
            target.scale,
            target.small.image.shape[0] / target.scale,
        )

    def errors(self, track: Track, shutter: Shutter) -> Float[np.ndarray, "n"]:
        """Pixels of the working size between where matches are seen and where depth and poses put them."""
        source = track.poses(shutter.at(self.times[0], self.source[:, 1] / self.height))
        target = track.poses(shutter.at(self.times[1], self.target[:, 1] / self.height))
        world = np.einsum("nij,nj->ni", source[:, :3, :3], self.points) + source[:, :3, 3]
        seen = np.einsum("nji,nj->ni", target[:, :3, :3], world - target[:, :3, 3]) @ self.intrinsics.T
        return np.linalg.norm(seen[:, :2] / seen[:, 2:] - self.target, axis=1) * self.scale


def fitted(matches: list[Matches], track: Track) -> Shutter:
    """The shutter that explains the matches best."""

    def loss(milliseconds: Float[np.ndarray, "2"]) -> float:
        shutter = Shutter(*(milliseconds / 1000))
        errors = np.concatenate([pair.errors(track, shutter) for pair in matches])
        return float(np.log1p((errors / ROBUST) ** 2).mean())

    start = [[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]  # no gradients: a double tells such times apart by 0.2 microseconds
    found = minimize(loss, start[0], method="Nelder-Mead", options={"initial_simplex": start, "xatol": 0.05})
    return Shutter(*(found.x / 1000))


def true_flow(
    pair: LabelledPair, track: Track, shutter: Shutter, rounds: int = 4
) -> tuple[Float[Tensor, "H W 2"], Bool[Tensor, "H W"]]:
    """Where a static scene's points are seen by the rows of the target, and where the source's depth is known."""
    source, target = pair.source_view.small, pair.target_view.small
    height, width = source.image.shape[:2]
    rows = torch.arange(height)[:, None].expand(height, width)
    depth = torch.from_numpy(source.depth).double()
    points = unproject(depth, torch.from_numpy(source.intrinsics).double())
    cameras = torch.from_numpy(track.poses(shutter.times(source.timestamp, height)))
    world = transform_points(cameras[rows], points[..., None, :])[..., 0, :]
    cameras = torch.from_numpy(np.linalg.inv(track.poses(shutter.times(target.timestamp, height))))
    pixels = pixel_grid(height, width, dtype=torch.float64)
    for _ in range(rounds):  # the row that sees a point depends on where it sees it
        local = transform_points(cameras[rows], world[..., None, :])[..., 0, :]
        seen = project(local, torch.from_numpy(target.intrinsics).double())
        rows = seen[..., 1].floor().clamp(0, height - 1).long()
    return (seen - pixels).float(), (depth > 0) & (local[..., 2] > 1e-6)


def main() -> None:
    """Fit the shutter and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("track", type=Path)
    parser.add_argument("--teacher", default="classical")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    track = Track(arguments.track)
    pairs = list(labelled_pairs(CameraFolder(arguments.folder), teacher_called(arguments.teacher)))
    matches = [Matches.of(pair.source_view, pair.target_view) for pair in pairs]
    matches = [pair for pair in matches if len(pair.points) >= LEAST_MATCHES]
    shutters = {"frames": Shutter(), "rows": fitted(matches, track)}
    print("| times | offset, ms | readout, ms | error of matches, px | within 3 px, % | labels within 3 px, % |")
    print("|---|---|---|---|---|---|")
    for name, shutter in shutters.items():
        errors = np.concatenate([pair.errors(track, shutter) for pair in matches])
        right = known = 0
        for pair in pairs:
            if not pair.reason:
                truth, has_depth = true_flow(pair, track, shutter)
                judged = pair.covisible & has_depth
                known += int(judged.sum())
                right += int((judged & ((pair.flow - truth).norm(dim=-1) < TOLERANCE)).sum())
        print(
            f"| {name} | {1000 * shutter.offset:.1f} | {1000 * shutter.readout:.1f} | {np.median(errors):.2f} "
            f"| {100 * (errors < TOLERANCE).mean():.1f} | {100 * right / max(known, 1):.1f} ({right} of {known}) |"
        )
    print(f"{len(pairs)} pairs tried, {sum(not pair.reason for pair in pairs)} accepted, {len(matches)} matched")


if __name__ == "__main__":
    main()
