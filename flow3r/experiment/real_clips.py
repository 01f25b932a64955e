"""Real clips as the unlabelled domain: which of them may teach, their labels, and what is drawn from those.

A clip that shares a scene with a test never teaches, but for the row that is called transductive. Which clips these are
stands in excluded_clips.json; a clip that holds a file of a test itself is found by its content. Clips and tests are
seen alike, as the central squares of their frames, since all other frames of the experiments are square.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flow3r.data import frame
from flow3r.data.clips import LabelClips
from flow3r.data.frame import Frame, check_indices, frame_sizes
from flow3r.data.images import is_image, natural_key
from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.data.mixture import Weighted
from flow3r.data.regimes import SIDE
from flow3r.data.video import VIDEO_SUFFIXES, content_sha256, list_sources, open_source
from flow3r.errors import InputError
from flow3r.files import sha256_of_file
from flow3r.teacher import teacher_called
from flow3r.teacher.label import LabelSummary, label_videos

PATCHES = (SIDE // 14) ** 2  # of a square frame
TEACHER = "classical"  # the embedded one


@dataclass(frozen=True)
class Squares:
    """The central squares of the frames of a sequence, at their own resolution, with their labels."""

    whole: frame.Sequence

    @property
    def name(self) -> str:
        return self.whole.name

    @property
    def files(self) -> tuple[Path, ...]:
        """The files whose content determines the frames."""
        return self.whole.files

    def __len__(self) -> int:
        return len(self.whole)

    def timestamps(self) -> Float[np.ndarray, "N"]:
        return self.whole.timestamps()

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        for one in self.whole.frames(check_indices(indices, len(self))):
            yield central_square(one)

    def sizes(self, indices: Iterable[int]) -> list[tuple[int, int]]:
        """(H, W) of the squares at `indices`."""
        return [(min(size), min(size)) for size in frame_sizes(self.whole, indices)]


def central_square(one: Frame) -> Frame:
    """The largest square in the middle of a frame, to whole pixels."""
    height, width = one.image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = np.s_[top : top + side, left : left + side]
    intrinsics = one.intrinsics
    if intrinsics is not None:
        intrinsics = intrinsics - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    depth = None if one.depth is None else one.depth[cut]
    return replace(one, image=np.ascontiguousarray(one.image[cut]), depth=depth, intrinsics=intrinsics)


@dataclass(frozen=True)
class Excluded:
    """A clip that shares a scene with a test: its name, the SHA-256 of its files, and the reason."""

    name: str
    sha256: frozenset[str]
    reason: str


def excluded_clips() -> tuple[Excluded, ...]:
    """The committed list."""
    file = resources.files("flow3r.experiment") / "excluded_clips.json"
    clips = json.loads(file.read_text(encoding="utf-8"))["clips"]
    return tuple(Excluded(clip["name"], frozenset(clip["sha256"]), clip["reason"]) for clip in clips)


def why_excluded(name: str, sha256: Iterable[str], tests: frozenset[str] = frozenset()) -> str:
    """Why a clip of that name, or with files of these hashes, must not teach; "" if it may.

    `tests`: the hashes of the files of the test sequences at hand.
    """
    hashes = frozenset(sha256)
    for one in excluded_clips():
        if name == one.name:
            return f"called {one.name}, which is {one.reason}"
        if hashes & one.sha256:
            return f"the content of {one.name}, which is {one.reason}"
    return "holds a file of a test sequence" if hashes & tests else ""


@dataclass(frozen=True)
class ClipsOfFolder:
    """The clips of a folder, as squares: those that may teach, and those that may not, with the reason."""

    allowed: tuple[Squares, ...]
    excluded: tuple[tuple[Squares, str], ...]

    def lines(self) -> Iterator[str]:
        """What is said to people."""
        yield f"{len(self.allowed)} clips may teach: {', '.join(clip.name for clip in self.allowed)}"
        yield from (f"excluded: {clip.name}: {reason}" for clip, reason in self.excluded)


def clips_of_folder(folder: str | Path, tests: Sequence[frame.Sequence] = ()) -> ClipsOfFolder:
    """All videos of a folder, and each folder of images in it as a clip of its own, judged against the committed list
    and the files of `tests`. Raises InputError for a folder without clips, and for one where none may teach."""
    at, of_tests = Path(folder), frozenset(digest for test in tests for digest in hashes_of(test))
    inside = sorted(at.iterdir(), key=natural_key) if at.is_dir() else []
    found = [path for path in inside if path.suffix.lower() in VIDEO_SUFFIXES or _holds_images(path)]
    allowed, excluded = [], []
    for source in found or list_sources([at]):
        clip = Squares(open_source(source))
        reason = why_excluded(clip.name, hashes_of(clip), of_tests)
        if reason:
            excluded.append((clip, reason))
        else:
            allowed.append(clip)
    if not allowed:
        said = "; ".join(f"{clip.name}: {reason}" for clip, reason in excluded)
        raise InputError(
            f"{folder}: no clip that may teach ({said}); expected footage that shares no scene with a test"
        )
    return ClipsOfFolder(tuple(allowed), tuple(excluded))


def hashes_of(sequence: frame.Sequence) -> list[str]:
    """The SHA-256 of each file that determines the frames of a sequence; none of one that says no files or is
    damaged, whose frames will not be read either."""
    try:
        return [sha256_of_file(file) for file in getattr(sequence, "files", ())]
    except InputError:
        return []


def _holds_images(path: Path) -> bool:
    return path.is_dir() and any(is_image(file) and not file.name.startswith(".") for file in path.iterdir())


def label_clips(clips: Sequence[Squares], folder: str | Path, *, progress: bool = True) -> LabelSummary:
    """Flow of the embedded teacher for squares of SIDE pixels in the label store `folder`; what is there is kept."""
    return label_videos(clips, folder, teacher_called(TEACHER), tokens=(PATCHES, PATCHES), progress=progress)


def taught_by(clips: Sequence[Squares], store: LabelStore, *, transductive: bool = False) -> LabelClips:
    """What may be drawn of the labels of these clips, by the hash of their content.

    Raises InputError for a clip that is excluded, unless it is wanted so (`transductive`), and for a store that lacks
    one of the clips, has another of its name, or was labelled on another grid; LabelStoreError for one without a pair.
    """
    wanted = {content_sha256(clip): clip for clip in clips}
    for digest, clip in wanted.items():
        reason = "" if transductive else why_excluded(clip.name, [digest, *hashes_of(clip)])
        if reason:
            raise InputError(f"{clip.name}: must not teach: {reason}")
    names = {clip.name for clip in clips}
    segments = [one for one in store.segments() if one.source_sha256 in wanted or one.source in names]
    wrong = [f"has no labels of {wanted[k].name}" for k in set(wanted) - {one.source_sha256 for one in segments}]
    wrong += [f"has {one.source} of another content" for one in segments if one.source_sha256 not in wanted]
    wrong += [f"has {one.source} at {one.size}" for one in segments if one.size != (SIDE, SIDE)]
    if wrong:
        said = "; ".join(sorted(set(wrong))[:5])
        raise InputError(f"{store.folder}: {said}; expected labels of these clips at {SIDE} px square: label again")
    return LabelClips(store, only={one.source for one in segments})


def together(*parts: LabelClips) -> Weighted:
    """Several as one source: each drawn in proportion to its pairs."""
    return [(clips, float(clips.training_count)) for clips in parts]


@dataclass(frozen=True)
class ClipLabels:
    """What the teacher found in a clip."""

    name: str
    frames: int
    shots: int
    accepted: int  # ordered pairs
    refused: dict[str, int]  # ordered pairs, by the kind of reason
    flow: float | None  # pixels of a square of SIDE: median over accepted pairs of the median flow


def labels_by_clip(store: LabelStore) -> tuple[ClipLabels, ...]:
    """Every clip of a store, by name."""
    by_clip: dict[str, list[SegmentInfo]] = {}
    for segment in store.segments():
        by_clip.setdefault(segment.source, []).append(segment)
    return tuple(_labels_of(name, segments) for name, segments in sorted(by_clip.items()))


def _labels_of(name: str, segments: Sequence[SegmentInfo]) -> ClipLabels:
    lengths = [length for segment in segments for length in segment.median_flow]
    return ClipLabels(
        name,
        sum(len(segment.indices) for segment in segments),
        len({segment.shot for segment in segments}),
        sum(len(segment.pairs) for segment in segments),
        dict(Counter(no.reason.split(" (")[0] for segment in segments for no in segment.refusals).most_common()),
        float(np.median(lengths)) if lengths else None,
    )
