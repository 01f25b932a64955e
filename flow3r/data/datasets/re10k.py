"""RealEstate10K: camera paths through houses on video, without depth.

After the dataset's page and RealEstate10K_Downloader (cashiwamochi), whose naming of frames is read: the release's
`RealEstate10K/<split>/<clip>.txt` beside `dataset/<split>/<clip>/<timestamp>.png`. A camera file holds the video's
address, then lines of `timestamp fx fy cx cy 0 0` and the 3 x 4 matrix of the camera from the world; timestamps are in
microseconds, intrinsics in widths and heights of the image, whose middle is (0.5, 0.5): times the size they are in
half-integer pixel centres. (π³ names frames by their rank, `images/%04d.png`, which slips where a frame is missing.)
Videos vanish from the web: the clips listed are those whose frames are there. Real camera files were read
(docs/data.md).
"""

from collections import Counter
from collections.abc import Sequence as List
from functools import partial
from pathlib import Path

import numpy as np

from flow3r.data.datasets.dataset import Dataset, Listing, PosedImage, PosedImages, folders
from flow3r.data.datasets.encodings import pinhole
from flow3r.data.frame import Sequence
from flow3r.data.images import image_size
from flow3r.errors import InputError

COLUMNS = 19  # timestamp, four intrinsics, two zeros, twelve of the pose
LAYOUT = "RealEstate10K/{train,test}/<clip>.txt and dataset/{train,test}/<clip>/<timestamp>.png"


def sequences(root: Path) -> List[Sequence]:
    """The clips below `root` that have frames; `<split>/<clip>` by name."""
    found = folders(root, "dataset/*/*", "RealEstate10K", LAYOUT)
    return [PosedImages(f"{folder.parent.name}/{folder.name}", partial(_listing, root, folder)) for folder in found]


def _listing(root: Path, folder: Path) -> Listing:
    file = root / "RealEstate10K" / folder.parent.name / f"{folder.name}.txt"
    images, left_out, size = [], Counter(), None
    for timestamp, values in _cameras(file):
        frame = folder / f"{timestamp}.png"
        camera_from_world = np.vstack([values[6:].reshape(3, 4), [0, 0, 0, 1]])
        if not frame.is_file():
            left_out["no frame file"] += 1
        elif not np.isfinite(values).all() or np.linalg.det(camera_from_world) == 0:
            left_out["camera not finite"] += 1
        else:
            size = image_size(frame) if size is None else size  # one video, one size
            (fx, fy, cx, cy), (height, width) = values[:4], size
            intrinsics = pinhole(fx * width, fy * height, cx * width, cy * height)
            images.append(PosedImage(frame, intrinsics, np.linalg.inv(camera_from_world), int(timestamp) / 1e6))
    return Listing(images, left_out)


def _cameras(file: Path) -> list[tuple[str, np.ndarray]]:
    """(timestamp, the eighteen other numbers) in the order of time."""
    try:
        rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
        cameras = [(row[0], np.array(row[1:], dtype=np.float64)) for row in rows]
        cameras.sort(key=lambda camera: int(camera[0]))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: not a camera file of RealEstate10K that can be read ({error})") from error
    for timestamp, values in cameras:
        if len(values) != COLUMNS - 1:
            raise InputError(f"{file}: {len(values) + 1} numbers at {timestamp}; expected {COLUMNS}")
    return cameras


RE10K = Dataset(
    name="re10k",
    title="RealEstate10K",
    sequences=sequences,
    labels="cameras",
    layout=LAYOUT,
    licence="camera files CC BY 4.0 (Google); the videos are their owners'",
    url="https://google.github.io/realestate10k/",
    citation="Zhou et al., Stereo Magnification: Learning View Synthesis using Multiplane Images, SIGGRAPH 2018",
    rigid=True,
    scale="relative",
)
