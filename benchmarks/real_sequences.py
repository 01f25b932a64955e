"""A root of real sequences for `flow3r eval run ROOT --benchmarks folders`, made of folders and pairs of several forms.

    python -m benchmarks.real_sequences DATA ROOT

DATA/sequences_with_gt holds folders with a cameras.json, which are linked, and calibrated videos, of which one moment
is taken. DATA/pairs_with_gt holds an RGB-D pair whose cameras are not known: the second one's pose is solved from the
depth below SIFT matches, which makes it pseudo ground truth. The Motorcycle pair comes out of scikit-image's wheel.
What is converted has half-integer pixel centres, and depth in tenths of a millimetre.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.folder import CAMERAS
from flow3r.data.frame import Frame
from flow3r.data.images import read_image
from flow3r.data.transforms import undistort
from flow3r.data.video import open_source
from flow3r.eval.motorcycle import motorcycle_frames
from flow3r.files import write_json
from flow3r.teacher.features import find_features, match_features

MOMENT = 50  # frame of the synchronised videos: the person is in the middle of all views
DEPTH_STEP = 1e-4  # metres
TUM_FREIBURG2 = np.array([[520.9, 0, 325.1], [0, 521.0, 249.7], [0, 0, 1]])  # pixel centres at integers
TUM_DEPTH = 5000  # steps of a metre
PNP_PIXELS = 2.0  # reprojection error of an inlier


def write_root(data: Path, root: Path) -> list[Path]:
    """Write or link every sequence below ROOT/posed_folders."""
    folders = root / "posed_folders"
    folders.mkdir(parents=True)
    for cameras in sorted(data.glob(f"sequences_with_gt/*/{CAMERAS}")):
        content = json.loads(cameras.read_text(encoding="utf-8"))
        if "frames" in content:
            (folders / cameras.parent.name).symlink_to(cameras.parent.resolve())
        else:
            write_frames(folders / cameras.parent.name, one_moment(cameras.parent, content["cameras"]))
    left, right = motorcycle_frames()
    write_frames(folders / "motorcycle", [left, replace(right, depth=None)])  # only the left one's is measured
    write_frames(folders / "tum_fr2_pair", rgbd_pair(data / "pairs_with_gt" / "tum_fr2_pair_depth"))
    return sorted(folders.iterdir())


def write_frames(folder: Path, frames: Iterable[Frame]) -> None:
    """Posed frames as a folder with a cameras.json."""
    import cv2

    folder.mkdir()
    entries = []
    for k, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{k}.png"), np.ascontiguousarray(frame.image[..., ::-1]))
        entry = {"image": f"{k}.png", "K": frame.intrinsics.tolist(), "c2w": frame.world_from_camera.tolist()}
        if frame.depth is not None:
            cv2.imwrite(str(folder / f"{k}_depth.png"), (frame.depth / DEPTH_STEP).round().astype(np.uint16))
            entry["depth"] = f"{k}_depth.png"
        entries.append(entry)
    write_json(folder / CAMERAS, {"pixel_centre": 0.5, "depth_scale": DEPTH_STEP, "frames": entries})


def one_moment(folder: Path, cameras: list[dict]) -> list[Frame]:
    """The same frame of all videos, as pinhole cameras see it."""
    frames = []
    for number, camera in enumerate(cameras):
        (frame,) = open_source(folder / camera["video"]).frames([MOMENT])
        intrinsics = half_integer(np.array(camera["K"]))
        image, _ = undistort(frame.image, None, intrinsics, camera["distortion_opencv_k1k2p1p2k3"])
        frames.append(Frame(image, float(number), camera["video"], None, intrinsics, np.array(camera["c2w"])))
    return frames


def rgbd_pair(folder: Path) -> list[Frame]:
    """Two frames of a Kinect, the world at the first; the second where its matches' depth in the first puts it."""
    import cv2

    images = [read_image(folder / f"{k}.png") for k in (1, 2)]
    depths = [cv2.imread(str(folder / f"{k}_depth.png"), cv2.IMREAD_UNCHANGED) / TUM_DEPTH for k in (1, 2)]
    features = [find_features(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 4000) for image in images]
    first, second = match_features(*features).transpose(1, 0, 2)
    z = depths[0][tuple(np.rint(first[:, ::-1]).astype(int).T)]
    points = z[:, None] * np.column_stack([first, np.ones(len(first))]) @ np.linalg.inv(TUM_FREIBURG2).T
    solved = cv2.solvePnPRansac(
        points[z > 0], second[z > 0], TUM_FREIBURG2, None, reprojectionError=PNP_PIXELS, iterationsCount=10_000
    )
    camera_from_world = np.eye(4)
    camera_from_world[:3, :3], camera_from_world[:3, 3] = cv2.Rodrigues(solved[1])[0], solved[2][:, 0]
    print(f"tum_fr2_pair: {len(solved[3])} of {(z > 0).sum()} matches agree to {PNP_PIXELS:g} px")
    poses: list[Float[np.ndarray, "4 4"]] = [np.eye(4), np.linalg.inv(camera_from_world)]
    return [
        Frame(image, float(k), f"{k}", depth.astype(np.float32), half_integer(TUM_FREIBURG2), pose)
        for k, (image, depth, pose) in enumerate(zip(images, depths, poses))
    ]


def half_integer(intrinsics: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """Of pixels whose centres are at half-integers, from those with integer centres."""
    return intrinsics + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("root", type=Path)
    arguments = parser.parse_args()
    for path in write_root(arguments.data, arguments.root):
        print(path)
