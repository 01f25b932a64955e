"""OmniWorld-Game: recordings of games with their depth buffers; the game part of OmniWorld alone has both.

After the repository yangzhou24/OmniWorld: the script that unpacks a scene, and scripts/utils.py, which reads it. A
scene is cut into splits, listed in `split_info.json`; `camera/split_<k>.json` holds a focal length, a world-to-camera
quaternion (wxyz, of any length) and a translation for each of their frames, and one principal point. Its own point
clouds put pixel centres at half-integers. Depth is the buffer of a projection with planes 1 and 1000, divided by
0.004; the sky and what is too close are unknown. A scene has a scale of its own: the factor to metres, in the metadata
of its later release, is not applied. Its optical flow is an annotation, not the renderer's, and is not read; nor are
the coarser cameras of `droidclib`. Frames without depth are left out.

Held out are the test splits of its benchmark, which the release's metadata/omniworld_game_metadata.csv names (column
"Test Split Index" of the scene "UID"), as far as that file is there. Other splits of these recordings show the same
places; so that there are unseen places too, all splits of the scenes that `scenes_for_tests` chooses are held out.
Rows of both releases of that table were read (docs/data.md); the first names no tests.
"""

import csv
from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders, scenes_for_tests
from flow3r.data.datasets.encodings import pinhole, read_json, read_values
from flow3r.data.frame import Sequence
from flow3r.errors import InputError
from flow3r.geometry.se3 import rotation_from_quaternion

METADATA = "metadata/omniworld_game_metadata.csv"
LAYOUT = "<scene>/{color/000000.png, depth/000000.png, camera/split_0.json, split_info.json, fps.txt}, unpacked"
NEAR, FAR, SCALE = 1.0, 1000.0, 0.004
CLOSEST, SKY = 0.0015, 65500 / 65535  # of the buffer in [0, 1]; beyond them depth is unknown


def read_buffer(file: Path) -> Float[np.ndarray, "H W"]:
    """z-depth from the stored depth buffer, 0 where unknown."""
    buffer = read_values(file).astype(np.float32) / 65535
    depth = buffer / (FAR - buffer * (FAR - NEAR)) / SCALE
    return np.where((buffer < CLOSEST) | (buffer > SKY), np.float32(0), depth)


def frame_rate(folder: Path) -> float:
    """Frames per second, from a line `FPS: 24.0`; 1 without one, so that times are the numbers of frames."""
    file = folder / "fps.txt"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((float(line.split(":")[1]) for line in lines if line.startswith("FPS:")), 1.0)


def listed_split(folder: Path, number: int) -> Listing:
    """The frames of one split of a scene."""
    file = folder / "camera" / f"split_{number}.json"
    camera, split, rate = read_json(file), read_json(folder / "split_info.json")["split"], frame_rate(folder)
    if number >= len(split) or not len(split[number]) == len(camera["quats"]) == len(camera["trans"]):
        raise InputError(f"{file}: not the cameras of the frames of split {number} in split_info.json")
    images, left_out, invalid = [], Counter(), set(camera.get("invalid_frame") or ())
    for index, focal, quaternion, translation in zip(split[number], camera["focals"], camera["quats"], camera["trans"]):
        image, depth = (folder / kind / f"{index:06d}.png" for kind in ("color", "depth"))
        values = np.array([*quaternion, *translation, focal], dtype=np.float64)
        if index in invalid:
            left_out["marked invalid"] += 1
        elif not image.is_file() or not depth.is_file():
            left_out["image or depth file missing"] += 1
        elif not np.isfinite(values).all() or not values[:4].any():
            left_out["camera not finite"] += 1
        else:
            camera_from_world = np.eye(4)
            camera_from_world[:3, :3] = rotation_from_quaternion(torch.from_numpy(values[:4])).numpy()
            camera_from_world[:3, 3] = values[4:7]
            intrinsics, pose = pinhole(focal, focal, camera["cx"], camera["cy"]), np.linalg.inv(camera_from_world)
            images.append(PosedImage(image, intrinsics, pose, index / rate, partial(read_buffer, depth)))
    return Listing(images, left_out)


def sequences(root: Path) -> List[Sequence]:
    """The splits of the scenes below `root`, such as b04f88d1f85a/split_0."""
    found = []
    for cameras in folders(root, "*/camera", "OmniWorld-Game", LAYOUT):
        numbers = sorted(int(file.stem.removeprefix("split_")) for file in cameras.glob("split_*.json"))
        scene = cameras.parent
        found += [PosedImages(f"{scene.name}/split_{k}", partial(listed_split, scene, k)) for k in numbers]
    return found


def held_out(root: Path) -> list[str]:
    """The splits that no run may learn from, as the module says."""
    names = [sequence.name for sequence in sequences(root)]
    scenes = scenes_for_tests("omniworld", {_scene(name) for name in names})
    published = _published_tests(root / METADATA)
    return [name for name in names if _scene(name) in scenes or name in published]


def _scene(name: str) -> str:
    return name.split("/")[0]


def _published_tests(file: Path) -> set[str]:
    """The names of the benchmark's splits; none without the file."""
    if not file.is_file():
        return set()
    with open(file, encoding="utf-8", newline="") as rows:
        listed = list(csv.DictReader(rows))
    if listed and not {"UID", "Test Split Index"} <= set(listed[0]):
        raise InputError(
            f"{file}: has the columns {', '.join(listed[0])}; expected UID and Test Split Index among them. "
            "The first release of this table names no tests: fetch the present one"
        )
    return {f"{row['UID']}/split_{int(k)}" for row in listed for k in row["Test Split Index"].split(",") if k.strip()}


OMNIWORLD = Dataset(
    name="omniworld",
    title="OmniWorld-Game",
    sequences=sequences,
    held_out=held_out,
    labels="posed",
    layout=LAYOUT,
    licence="CC BY-NC-SA 4.0 (its README); the games' own content is its publishers'",
    url="https://huggingface.co/datasets/InternRobotics/OmniWorld",
    citation="Zhou et al., OmniWorld: A Multi-Domain and Multi-Modal Dataset for 4D World Modeling, arXiv 2509.12201",
    dense=True,
    scale="relative",
)
