"""Videos without labels: any tree of folders, in which tar archives are folders too.

Archives are shards as WebDataset packs them: the key of a video is its path up to the first dot, and what else the
sample holds is not read. Videos are found by their suffixes, opened when they are read, and never unpacked.
"""

from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path

from flow3r.data.datasets.dataset import Dataset
from flow3r.data.frame import Sequence
from flow3r.data.images import natural_key
from flow3r.data.tar import sample_key, tar_members
from flow3r.data.video import VIDEO_SUFFIXES, VideoFile
from flow3r.errors import InputError
from flow3r.files import FilePart

LAYOUT = "videos and .tar shards of videos, in folders of any depth"


@dataclass(frozen=True)
class ListedVideo(VideoFile):
    """A video of a dataset, which has a name there; it may lie in an archive."""

    path: Path | FilePart
    listed_as: str = ""

    @property
    def name(self) -> str:
        return self.listed_as

    @property
    def files(self) -> tuple[Path | FilePart, ...]:
        """The files whose content determines the frames."""
        return (self.path,)


def videos_below(folder: Path, prefix: str = "") -> list[ListedVideo]:
    """The videos in a folder, its folders and its archives, in natural order; `prefix` is put before their names."""
    found = []
    for path in sorted(folder.iterdir(), key=natural_key):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            found += videos_below(path, f"{prefix}{path.name}/")
        elif path.suffix.lower() == ".tar":
            found += _videos_in(path, f"{prefix}{path.stem}/")
        elif is_video(path.name):
            found.append(ListedVideo(path, listed_as=f"{prefix}{path.stem}"))
    return found


def is_video(name: str) -> bool:
    """Whether the name is that of a video."""
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def required_videos(found: list[ListedVideo], root: Path, dataset: str, layout: str) -> List[Sequence]:
    """What was found; InputError, with what is there instead, if that is nothing."""
    if not found:
        there = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
        raise InputError(f"{root}: no videos as in {dataset} ({layout}); it holds {there}")
    return found


def sequences(root: Path) -> List[Sequence]:
    """The videos below `root`."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected the root of videos: {LAYOUT}")
    return required_videos(videos_below(root), root, "a tree of videos", LAYOUT)


def _videos_in(archive: Path, prefix: str) -> list[ListedVideo]:
    members = [member for member in tar_members(archive) if is_video(member.name)]
    return [ListedVideo(member, listed_as=prefix + sample_key(member.name)) for member in members]


VIDEOS = Dataset(
    name="videos",
    title="Any videos",
    sequences=sequences,
    labels="none",
    layout=LAYOUT,
    licence="that of the videos",
    url="",
    citation="",
)
