"""Training clips of unlabelled videos whose flow a teacher gives as they are drawn, alone or beside a label store."""

import json
import math
from collections import Counter, OrderedDict
from collections.abc import Sequence as List
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.data.clips import LabelClips, crop_clip, draw_rows, stack_clips, with_pairs
from flow3r.data.crops import crop_views, largest_window
from flow3r.data.frame import Sequence, frame_sizes
from flow3r.data.labels import SegmentInfo
from flow3r.data.mixture import Source, Wanted, draw_integer
from flow3r.data.sampling import draw_connected, label_pairs, rows_among
from flow3r.data.transforms import fit_frame, resize_labels
from flow3r.data.video import content_sha256, find_shots, open_source
from flow3r.errors import InputError
from flow3r.files import write_json
from flow3r.types import Flow, Teacher, Views

TRIES = 20  # ours: clips in a row that a teacher may refuse before a draw counts as bad; it refuses 4 of 5 at times
ASKED = 3  # ours: pairs that a teacher is asked for at most, as a multiple of those wanted, where it refuses some
_OPEN = 64  # sequences that a process keeps open


class Footage:
    """Unlabelled videos by number: opened when they are first drawn, their shots found once.

    The last `held_out` of every shot is left out. Shots are kept in the folder `cache`, if there is one, for other
    processes and later runs.
    """

    def __init__(self, videos: List[Sequence | str | Path], *, held_out: float = 0.0, cache: str | Path | None = None):
        if not videos:
            raise InputError("no video given; expected at least one video, image folder or glob")
        self.videos, self.held_out = list(videos), held_out
        self.cache = None if cache is None else Path(cache)
        self._open: OrderedDict[int, Sequence] = OrderedDict()
        self._hashes: dict[int, str] = {}
        self._shots: dict[int, tuple[tuple[int, int], ...]] = {}

    def __len__(self) -> int:
        return len(self.videos)

    def sequence(self, video: int) -> Sequence:
        """Raises InputError if it cannot be read."""
        if video not in self._open:
            source = self.videos[video]
            self._open[video] = open_source(source) if isinstance(source, str | Path) else source
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return self._open[video]

    def sha256(self, video: int) -> str:
        """Of the content."""
        if video not in self._hashes:
            self._hashes[video] = content_sha256(self.sequence(video))
        return self._hashes[video]

    def shots(self, video: int) -> tuple[tuple[int, int], ...]:
        """The parts (start, stop) of its shots that are not held out."""
        if video not in self._shots:
            shots = self._find_shots(video)
            self._shots[video] = tuple(
                (start, math.ceil(stop - self.held_out * (stop - start))) for start, stop in shots
            )
        return self._shots[video]

    def _find_shots(self, video: int) -> tuple[tuple[int, int], ...]:
        if self.cache is None:
            return find_shots(self.sequence(video))
        path = self.cache / f"{self.sha256(video)[:24]}.shots.json"
        try:
            shots = json.loads(path.read_text(encoding="utf-8"))["shots"]
        except (FileNotFoundError, ValueError, KeyError):
            shots = find_shots(self.sequence(video))
            write_json(path, {"shots": [list(shot) for shot in shots]})
        return tuple((start, stop) for start, stop in shots)

    def draw_segment(self, video: int, least: int, most: int, generator: torch.Generator) -> tuple[int, int] | None:
        """(start, stop) of consecutive frames of one shot, `most` or as many as it has; None if none has `least`.

        Shots are drawn in proportion to their lengths.
        """
        shots = [(start, stop) for start, stop in self.shots(video) if stop - start >= least]
        if not shots:
            return None
        lengths = torch.tensor([float(stop - start) for start, stop in shots])
        start, stop = shots[int(torch.multinomial(lengths, 1, generator=generator))]
        length = min(most, stop - start)
        begin = draw_integer(start, stop - length, generator)
        return begin, begin + length


class TaughtClips(Source):
    """Clips of videos, each as likely as the others, with the flow that a teacher gives when they are drawn.

    As the labelling job does, the teacher sees consecutive frames of one shot with their long side at `working_side`
    pixels, or more where the wanted grid is larger; pairs are `strides` seconds apart. Labels and images are then cut
    to the grid alike: at a random window (`crop`: the least share of a side that it keeps), or centrally. A pair that
    the teacher refuses is replaced by another of the clip, a clip without any by another clip.
    """

    def __init__(
        self,
        footage: Footage,
        teacher: Teacher,
        *,
        crop: float | None = None,
        working_side: int = 336,
        segment_frames: int = 64,
        pairs_per_frame: float = 2.0,
        strides: tuple[float, float] = (0.04, 1.28),
    ):
        self.footage, self.teacher, self.crop, self.working_side = footage, teacher, crop, working_side
        self.segment_frames, self.pairs_per_frame, self.strides = segment_frames, pairs_per_frame, strides
        self._counts: Counter[str] = Counter()

    @property
    def in_process(self) -> bool:
        """Whether the teacher says that it computes on an accelerator (its `device`)."""
        return torch.device(getattr(self.teacher, "device", None) or "cpu").type != "cpu"

    def counts(self) -> Counter[str]:
        """Ordered pairs that the teacher labelled, and refused."""
        return self._counts

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """With no more views than a segment has frames."""
        return replace(wanted, views=min(wanted.views, self.segment_frames))

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Raises InputError for a video that cannot be read, and where TRIES clips in a row give no label."""
        return stack_clips([self.draw_one(wanted, generator) for _ in range(wanted.scenes)])

    def draw_one(self, wanted: Wanted, generator: torch.Generator, video: int | None = None) -> Views:
        """A clip (B = 1) of some video, or first of the given one."""
        reasons: list[str] = []
        for attempt in range(TRIES):
            number = draw_integer(0, len(self.footage) - 1, generator) if video is None or attempt else video
            clip = self._try(number, wanted, generator, reasons)
            if clip is not None:
                return clip
        raise InputError(
            f"{TRIES} clips in a row have no flow to learn from: {'; '.join(list(dict.fromkeys(reasons))[:3])}; "
            "expected longer or other footage, or fewer views"
        )

    def _try(self, video: int, wanted: Wanted, generator: torch.Generator, reasons: list[str]) -> Views | None:
        sequence = self.footage.sequence(video)
        segment = self.footage.draw_segment(video, max(2, wanted.views), self.segment_frames, generator)
        if segment is None:
            reasons.append(f"{sequence.name} has no shot of {wanted.views} frames")
            return None
        candidates = self._candidates(sequence.timestamps()[segment[0] : segment[1]], generator)
        frames = draw_connected(candidates, wanted.views, generator)
        if frames is None:
            reasons.append(f"pairs of {sequence.name} do not connect {wanted.views} frames")
            return None
        first = int(frames[0])
        indices = range(segment[0] + first, segment[0] + int(frames[-1]) + 1)
        images, names = self.read(sequence, indices, self._working_size(sequence, indices[0], wanted.size))
        pairs = candidates[rows_among(candidates, frames, generator)]
        flow = self.ask(images, pairs - first, wanted.pairs)
        if flow is None:
            reasons.append(f"{self.teacher.name} refuses all pairs of {sequence.name} at frame {indices[0]}")
            return None
        chosen = (frames - first).tolist()
        clip = Views(images[None, chosen], flow=renumbered(flow, chosen), names=(tuple(names[k] for k in chosen),))
        return self._cut(with_pairs(clip, wanted.pairs), wanted.size, generator)

    def _candidates(self, timestamps: Float[np.ndarray, "N"], generator: torch.Generator) -> Int[Tensor, "P 2"]:
        seed = draw_integer(0, 2**31 - 1, generator)
        options = {"strides": self.strides, "pairs_per_frame": self.pairs_per_frame}
        return torch.from_numpy(label_pairs(timestamps, seed=seed, **options))

    def _working_size(self, sequence: Sequence, index: int, size: tuple[int, int]) -> tuple[int, int]:
        """Of whole frames, such that a crop need not be enlarged to `size` where the frames are large enough."""
        height, width = frame_sizes(sequence, [index])[0]
        scale = min(1.0, max(self.working_side / max(height, width), size[0] / height, size[1] / width))
        return round(height * scale), round(width * scale)

    def _cut(self, clip: Views, size: tuple[int, int], generator: torch.Generator) -> Views:
        if self.crop is not None:
            return crop_clip(clip, size, self.crop, generator)
        window = largest_window((clip.images.shape[3], clip.images.shape[4]), size)
        return crop_views(clip, torch.tensor(window).expand(1, clip.images.shape[1], 4), size)

    def read(
        self, sequence: Sequence, indices: range, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "n 3 h w"], list[str]]:
        """Consecutive frames at `size` (H, W), and their names."""
        frames = [(fit_frame(frame.image, size).image, frame.name) for frame in sequence.frames(indices)]
        images = torch.from_numpy(np.stack([image for image, _ in frames])).movedim(-1, 1).float() / 255
        return images, [name for _, name in frames]

    def ask(self, images: Float[Tensor, "n 3 h w"], pairs: Int[Tensor, "P 2"], count: int) -> Flow | None:
        """The teacher's flow for the first `count` of these pairs of frames that it accepts, or fewer; None for none.

        It is asked for at most ASKED times as many.
        """
        if count == 0:
            return Flow(pairs[None, :0], *(images.new_zeros(1, 0, *images.shape[2:], *last) for last in ((2,), ())))
        accepted: list[Flow] = []
        pairs = pairs[: ASKED * count]
        while len(pairs) and len(accepted) < count:
            asked, pairs = pairs[: count - len(accepted)], pairs[count - len(accepted) :]
            labels = self.teacher(images, asked)
            rows = [row for row, reason in enumerate(labels.refusals) if not reason]
            self._counts["taught pairs"] += len(rows)
            self._counts["refused pairs"] += len(asked) - len(rows)
            accepted += [_row(labels.flow, row) for row in rows]
        return joined(accepted) if accepted else None


class HybridClips(Source):
    """Clips of videos with the labels of a store where it has them, and a teacher's where it has none.

    A video is in the store by the hash of its content. Where the stored pairs of a clip are fewer than a step wants,
    the teacher is asked for others of its frames, but not again for those that it had refused.
    """

    def __init__(self, stored: LabelClips, taught: TaughtClips):
        self.stored, self.taught = stored, taught

    @property
    def in_process(self) -> bool:
        return self.taught.in_process

    def counts(self) -> Counter[str]:
        """Ordered pairs read from the store, labelled by the teacher, and refused by it."""
        return self.stored.counts() + self.taught.counts()

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """On a grid of the store, if its clips are not cropped."""
        size = self.stored.fit(wanted, generator).size
        return self.taught.fit(replace(wanted, size=size), generator)

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Raises InputError as `TaughtClips.draw`, LabelStoreError for a damaged store."""
        return stack_clips([self._draw_one(wanted, generator) for _ in range(wanted.scenes)])

    def _draw_one(self, wanted: Wanted, generator: torch.Generator) -> Views:
        video = draw_integer(0, len(self.taught.footage) - 1, generator)
        pool = self.stored.of_source(self.taught.footage.sha256(video), wanted)
        if not pool.parts:
            return self.taught.draw_one(wanted, generator, video)
        part, frames, rows = draw_rows(pool, wanted, generator)
        clip = self.stored.read(part, frames, rows)
        if len(rows) < wanted.pairs:
            clip = self._completed(clip, video, part.segment, frames, wanted.pairs - len(rows), generator)
        return self.stored.cut(with_pairs(clip, wanted.pairs), wanted, generator)

    def _completed(
        self, clip: Views, video: int, segment: SegmentInfo, frames: list[int], count: int, generator: torch.Generator
    ) -> Views:
        """The clip with `count` more pairs, as far as the teacher accepts them."""
        known = {*segment.pairs, *((refusal.source, refusal.target) for refusal in segment.refusals)}
        others = torch.tensor([(i, j) for i in frames for j in frames if i != j and (i, j) not in known])
        if not len(others):
            return clip
        others = others[torch.randperm(len(others), generator=generator)]
        indices = range(segment.indices[frames[0]], segment.indices[frames[-1]] + 1)
        scale = max(1.0, self.taught.working_side / max(segment.size))
        working = round(segment.size[0] * scale), round(segment.size[1] * scale)
        images, _ = self.taught.read(self.taught.footage.sequence(video), indices, working)
        flow = self.taught.ask(images, others - frames[0], count)
        if flow is None:
            return clip
        flow = renumbered(resize_labels(flow, segment.size), [k - frames[0] for k in frames])
        return replace(clip, flow=joined([clip.flow, flow]))


def _row(flow: Flow, row: int) -> Flow:
    return Flow(*(part[:, row : row + 1].cpu() for part in (flow.pairs, flow.displacement, flow.covisible)))


def joined(flows: List[Flow]) -> Flow:
    """The pairs of several flows of one clip, one after the other."""
    return Flow(*(torch.cat([getattr(f, key) for f in flows], dim=1) for key in ("pairs", "displacement", "covisible")))


def renumbered(flow: Flow, chosen: list[int]) -> Flow:
    """Flow between some frames of a segment as flow of the clip that has these frames alone."""
    place = torch.zeros(max(chosen) + 1, dtype=torch.long)
    place[chosen] = torch.arange(len(chosen))
    return Flow(place[flow.pairs], flow.displacement, flow.covisible)
