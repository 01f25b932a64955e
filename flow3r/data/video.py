"""Videos and images as sequences of upright frames, in constant memory, at exact timestamps; their shots.

Whatever ffmpeg reads is a video here, through PyAV. Frames are found by their presentation timestamps, never by
counting from a seek, so that variable frame rates and B-frames are exact.
"""

import glob
import os
import warnings
from collections import abc
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from flow3r.data.decode import VideoDecoder, VideoIndex
from flow3r.data.frame import Excerpt, Frame, Sequence, check_indices
from flow3r.data.images import IMAGE_SUFFIXES, ImageFiles, is_image, natural_key
from flow3r.errors import InputError
from flow3r.files import FilePart, sha256_of_file, sha256_of_json

# A cut changes the picture and its colours, and more than the motion around it does. Measured on real clips: 46-117 and
# 0.52-0.95 at cuts, below 21 and 0.2 in calm shots; fast pans reach 71 and 0.6, but so do their neighbours.
CUT_DIFFERENCE = 40.0  # mean absolute difference of 64 x 36 grey images
CUT_COLOURS = 0.5  # half the L1 distance of HSV histograms
CUT_PROMINENCE = 1.25  # of the difference, over those just before and after

INDICES = 1024  # ours: some 10 kB for a clip of ten seconds; a process that sees every clip once must not keep them all

# Files of a folder that are taken for videos; a video that is named itself may be called anything.
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv"}
)


def open_source(source: str | Path | abc.Sequence[str | Path]) -> Sequence:
    """A video file, image file, folder of images, glob pattern or list of images as a Sequence.

    Raises InputError, naming the path, if it is missing, unreadable, or holds no frames. A video cut short gives a
    warning and the frames that decode.
    """
    if not isinstance(source, str | Path):
        if len(source) == 1:
            return open_source(source[0])
        return _open_images([Path(path) for path in source], "images")
    path = Path(source)
    if path.is_dir():
        videos, images = _videos_and_images(path)
        if videos:
            raise InputError(f"{path}: the folder holds videos, and no images; name one video, as {videos[0]}")
        if not images:
            raise InputError(f"{path}: the folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return _open_images(images, path.resolve().name)
    if path.exists():
        return _open_images([path], path.stem) if is_image(path) else _open_video(path)
    if glob.has_magic(str(source)):
        files = sorted((Path(file) for file in glob.glob(str(source), recursive=True)), key=natural_key)
        if not files:
            raise InputError(f"{source}: no file matches this pattern")
        return open_source(files[0]) if len(files) == 1 else _open_images(files, path.parent.name or "images")
    raise InputError(f"{source}: no such file or folder")


def list_sources(given: abc.Iterable[str | Path]) -> list[str | Path | list[Path]]:
    """What `open_source` opens, one by one: videos, folders and patterns that were given, as people mean them.

    Of a folder, and of a pattern, every video is a source; images are one source together, and so are images that are
    given by themselves. Raises InputError for a folder that holds neither, or both, and where nothing is given.
    """
    sources: list[str | Path | list[Path]] = []
    loose: list[Path] = []
    for item in dict.fromkeys(map(str, given)):
        path = Path(item)
        if path.is_dir():
            sources += _sources_of_folder(path)
        elif not path.exists() and glob.has_magic(item):
            found = sorted((Path(file) for file in glob.glob(item, recursive=True)), key=natural_key)
            if not found:
                raise InputError(f"{item}: no file matches this pattern")
            images = [file for file in found if is_image(file)]
            sources += [images] if images else []
            sources += list_sources(file for file in found if not is_image(file)) if len(found) > len(images) else []
        elif is_image(path):
            loose.append(path)
        else:
            sources.append(path)
    if loose:
        sources.append(loose)
    if not sources:
        raise InputError("no video given; expected at least one video, folder or glob")
    return sources


def _sources_of_folder(folder: Path) -> list[Path]:
    videos, images = _videos_and_images(folder)
    if not (videos or images):
        inner = sorted(file.name for file in folder.iterdir() if file.is_dir() and not file.name.startswith("."))
        hint = f"; it has folders: name them ({folder}/{inner[0]})" if inner else ""
        raise InputError(f"{folder}: the folder holds no videos and no images{hint}")
    return videos or [folder]


def _videos_and_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Both in natural order, of which one is empty. Raises InputError for a folder that holds both."""
    files = sorted((file for file in folder.iterdir() if not file.name.startswith(".")), key=natural_key)
    videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
    images = [file for file in files if is_image(file)]
    if videos and images:
        raise InputError(
            f"{folder}: holds {len(videos)} videos and {len(images)} images; expected one kind: name the videos "
            f"({folder}/*{videos[0].suffix}), or put the images into a folder of their own"
        )
    return videos, images


def _open_images(paths: list[Path], name: str) -> ImageFiles:
    if not paths:
        raise InputError("empty list of images: give at least one")
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; expected one video, one folder, or several images")
        if not path.is_file():
            raise InputError(f"{path}: no such image")
        if not is_image(path):
            raise InputError(f"{path}: not an image; give one video, or images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return ImageFiles(name, tuple(paths))


def _open_video(path: Path) -> "VideoFile":
    video = VideoFile(path)
    if len(video) == 0:
        raise InputError(f"{path}: the video holds no frame that decodes")
    if video.index.damage:
        warnings.warn(f"{path}: {video.index.damage}", stacklevel=3)
    return video


@dataclass(frozen=True)
class VideoFile:
    """A video file as a Sequence. `threads` are the decoder's."""

    path: Path
    threads: int = 1

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose content determines the frames."""
        return (self.path,)

    @property
    def index(self) -> VideoIndex:
        """Where the frames are, and what is wrong with a file of which only a part decodes.

        A process keeps those of the INDICES videos that were used last.
        """
        return _read_index(self.path, self.threads, _version(self.path))

    def __len__(self) -> int:
        return len(self.index.pts)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        """Presentation times in seconds. Read from the packets: of a whole file only the last frames are decoded."""
        index = self.index
        return np.array([float(pts * index.time_base) for pts in index.pts], dtype=np.float64)

    def frames(self, indices: abc.Iterable[int]) -> abc.Iterator[Frame]:
        """The frames at strictly ascending `indices`, decoded one at a time.

        Raises InputError if the file turns out to be damaged at one of them.
        """
        index = self.index
        wanted = check_indices(indices, len(index.pts))
        with VideoDecoder(self.path, self.threads) as decoder:
            for k in wanted:
                pts = index.pts[k]
                yield Frame(decoder.frame_at(pts, index), float(pts * index.time_base), f"{self.name}_{k:06d}")

    def sizes(self, indices: abc.Iterable[int]) -> list[tuple[int, int]]:
        """(H, W) of the frames at `indices`: that of the first, since the frames of a video have one size."""
        wanted = check_indices(indices, len(self))
        return [frame.image.shape[:2] for frame in self.frames(wanted[:1])] * len(wanted)


@lru_cache(maxsize=INDICES)
def _read_index(path: Path | FilePart, threads: int, version: tuple[int, int] | None) -> VideoIndex:
    with VideoDecoder(path, threads) as decoder:
        return decoder.read_index()


def _version(path: Path | FilePart) -> tuple[int, int] | None:
    """What changes with the file of a video; None if it is not there."""
    try:
        found = os.stat(path.path if isinstance(path, FilePart) else path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@dataclass(frozen=True)
class Survey:
    """What one pass over a sequence finds: its shots as (start, stop) frame ranges, and the (H, W) of every frame."""

    shots: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, int], ...]


def survey(sequence: Sequence) -> Survey:
    """Decode every frame once, for the cuts between shots and the frame sizes."""
    sizes, difference, colours = [], [], []
    last: tuple[np.ndarray, np.ndarray] | None = None
    for frame in sequence.frames(range(len(sequence))):
        sizes.append(frame.image.shape[:2])
        grey, histogram = _thumbnail(frame.image)
        if last is not None:
            difference.append(float(np.abs(grey - last[0]).mean()))
            colours.append(float(np.abs(histogram - last[1]).sum() / 2))
        last = grey, histogram
    cuts = _find_cuts(np.array(difference), np.array(colours))
    return Survey(tuple(zip([0, *cuts], [*cuts, len(sizes)])), tuple(sizes))


def content_sha256(sequence: Sequence) -> str:
    """Of the files of a sequence of `open_source`, whatever they are called."""
    hashes = [sha256_of_file(file) for file in sequence.files]
    return hashes[0] if len(hashes) == 1 else sha256_of_json(hashes)


def find_shots(sequence: Sequence) -> tuple[tuple[int, int], ...]:
    """(start, stop) frame ranges, together the whole sequence, with no cut inside any. Decodes every frame once."""
    return survey(sequence).shots


def choose_shot(source: Sequence, choice: str) -> tuple[Sequence, str]:
    """The part of a video between two cuts that `choice` names, "longest" or a number from 1, and a line that says so.

    With "all", and of what is no video file and has no cuts ("longest"), everything is left. The line is empty where
    there are no cuts. Every frame is decoded to find them. Raises InputError for a shot that is not there.
    """
    numbered = choice.isdecimal()
    if not numbered and choice not in ("longest", "all"):
        raise InputError(f"shot {choice!r}: expected longest, all, or a number from 1")
    if not isinstance(source, VideoFile):
        if numbered:
            raise InputError(f"shot {choice!r} of {source.name}: only a video has shots; leave the choice out")
        return source, ""
    if choice == "all":
        return source, ""
    shots = find_shots(source)
    if choice == "longest":
        number = max(range(len(shots)), key=lambda k: shots[k][1] - shots[k][0])
    elif 1 <= int(choice) <= len(shots):
        number = int(choice) - 1
    else:
        raise InputError(f"shot {choice!r}: expected longest, all, or a number from 1 to {len(shots)}")
    start, stop = shots[number]
    of = "the longest" if choice == "longest" else "chosen"
    said = f"{source.name} has {len(shots)} shots; this is number {number + 1}, {of}, frames {start} to {stop - 1}"
    return Excerpt(source, start, stop), said if len(shots) > 1 else ""


def _find_cuts(difference: np.ndarray, colours: np.ndarray) -> list[int]:
    """The first frames of new shots, from the differences between each frame and the next."""
    around = np.pad(difference, 1)
    neighbours = np.maximum(around[:-2], around[2:])
    stands_out = difference > CUT_PROMINENCE * neighbours
    return [int(k) + 1 for k in np.flatnonzero((difference > CUT_DIFFERENCE) & (colours > CUT_COLOURS) & stands_out)]


def _thumbnail(image: UInt8[np.ndarray, "H W 3"]) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    small = cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA)
    hsv = cv2.cvtColor(small, cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [0, 1, 2], None, [8, 8, 8], [0, 180, 0, 256, 0, 256]).ravel()
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32), histogram / histogram.sum()
