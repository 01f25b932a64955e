"""EPIC-KITCHENS-100: hours of video from cameras on the heads of people in their kitchens.

After the README of epic-kitchens-download-scripts: a folder for each participant, with `videos` and, if they were
asked for, `rgb_frames`: a tar archive for each video, of frame_0000000001.jpg and on, or what it unpacks to. Each video
is one sequence, from its video if that is there. Frames have no clock but the rates in EPIC_100_video_info.csv of
epic-kitchens-100-annotations: put beside the participants, it is read. Early copies of the frames of P01_109 and
P27_103 are of other videos (see its errata). The lens is wide and not calibrated here.

Held out are the videos of EPIC_100_validation.csv and EPIC_100_test_timestamps.csv of those annotations (column
"video_id"), as far as these files are put beside the participants too. Rows of all three real tables were read
(docs/data.md).
"""

import csv
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as List
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data.datasets.dataset import Dataset, folders
from flow3r.data.datasets.videos import ListedVideo, is_video
from flow3r.data.frame import Frame, Sequence, check_indices
from flow3r.data.images import image_size, is_image, read_image
from flow3r.data.tar import tar_members
from flow3r.errors import InputError
from flow3r.files import FilePart

LAYOUT = "P01/{videos/P01_01.MP4, rgb_frames/P01_01.tar or rgb_frames/P01_01/frame_0000000001.jpg}"
INFO = "EPIC_100_video_info.csv"
TESTS = ("EPIC_100_validation.csv", "EPIC_100_test_timestamps.csv")


@dataclass(frozen=True)
class StoredFrames:
    """The frames of a video as images, in a folder or an archive that is listed when they are first asked for."""

    name: str
    source: Path
    rate: float  # frames per second; 1 where it is not known, so that times are the numbers of frames

    @cached_property
    def files(self) -> tuple[Path | FilePart, ...]:
        """The images, in order. InputError if there are none."""
        found = tar_members(self.source) if self.source.is_file() else list(self.source.iterdir())
        images = sorted((file for file in found if is_image(Path(file.name))), key=lambda file: file.name)
        if not images:
            raise InputError(f"{self.source}: holds no images; expected frame_0000000001.jpg and on")
        return tuple(images)

    def __len__(self) -> int:
        return len(self.files)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Seconds, if the rate is known, or the frame indices."""
        return np.arange(len(self)) / self.rate

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The frames at strictly ascending `indices`, read one at a time."""
        for index in check_indices(indices, len(self)):
            yield Frame(read_image(self.files[index]), index / self.rate, Path(self.files[index].name).name)

    def sizes(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """(H, W) of the images at `indices`, from their headers."""
        return [image_size(self.files[index]) for index in check_indices(indices, len(self))]


def sequences(root: Path) -> List[Sequence]:
    """The videos below `root`, or below the folder `EPIC-KITCHENS` in it, such as P01_01."""
    tree = _tree(root)
    rates, found = _rates(tree / INFO), {}
    for participant in folders(tree, "P[0-9]*", "EPIC-KITCHENS", LAYOUT):
        for source in sorted(participant.glob("rgb_frames/P*")):
            if source.is_dir() or source.suffix == ".tar":
                found[source.stem] = StoredFrames(source.stem, source, rates.get(source.stem, 1.0))
        for video in sorted(participant.glob("videos/P*")):
            if is_video(video.name):
                found[video.stem] = ListedVideo(video, listed_as=video.stem)
    if not found:
        raise InputError(f"{tree}: participants without videos and frames; expected {LAYOUT}")
    return [found[name] for name in sorted(found)]


def held_out(root: Path) -> list[str]:
    """The videos below `root` that no run may learn from, as the module says."""
    tests = {row["video_id"] for name in TESTS for row in _rows(_tree(root) / name, "video_id")}
    return [video.name for video in sequences(root) if video.name in tests]


def _tree(root: Path) -> Path:
    return root / "EPIC-KITCHENS" if (root / "EPIC-KITCHENS").is_dir() else root


def _rates(file: Path) -> dict[str, float]:
    try:
        return {row["video_id"]: float(row["fps"]) for row in _rows(file, "video_id", "fps")}
    except ValueError as error:
        raise InputError(f"{file}: not a table of videos with 'video_id' and 'fps' ({error})") from error


def _rows(file: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a table of the annotations; none without the file."""
    if not file.is_file():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows, 2):
        if any(row.get(column) is None for column in columns):
            raise InputError(f"{file}: line {number} has no {' or no '.join(columns)}; expected a table with them")
    return rows


EPIC_KITCHENS = Dataset(
    name="epic_kitchens",
    title="EPIC-KITCHENS-100",
    sequences=sequences,
    held_out=held_out,
    labels="none",
    layout=LAYOUT,
    licence="CC BY-NC 4.0 (its web page)",
    url="https://epic-kitchens.github.io",
    citation="Damen et al., Rescaling Egocentric Vision: Collection, Pipeline and Challenges for EPIC-KITCHENS-100, "
    "IJCV 2022",
)
