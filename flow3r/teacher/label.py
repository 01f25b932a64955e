"""The labelling job: unlabelled videos to a store of flow labels. Restartable; what is finished is never lost."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flow3r.data import frame
from flow3r.data.labels import LabelStore, Refusal, Segment, SegmentInfo
from flow3r.data.sampling import label_pairs, split_shots
from flow3r.data.transforms import choose_grid, fit_frame, resize_image, resize_labels
from flow3r.data.video import content_sha256, open_source, survey
from flow3r.errors import Flow3rError, InputError
from flow3r.files import sha256_of_json, write_json
from flow3r.types import Flow, Teacher

Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class LabelSummary:
    """What a labelling job found, over the segments it wrote and those it found already done."""

    sources: int
    written: int  # segments
    kept: int  # segments that were already there
    frames: int
    accepted: int  # ordered pairs
    refused: dict[str, int]  # ordered pairs by kind of reason, most frequent first
    failures: tuple[tuple[str, str], ...]  # (source, error) of sources that could not be labelled
    size: int  # bytes of all segments
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every source was labelled."""
        return not self.failures

    def lines(self) -> list[str]:
        """The summary for people."""
        tried = self.accepted + sum(self.refused.values())
        lines = [
            f"{self.sources} sources, {self.frames} frames, {self.size / 1e6:.1f} MB, {self.seconds:.1f} s",
            f"{self.written} segments labelled now, {self.kept} before",
            f"{self.accepted} of {tried} ordered pairs accepted",
        ]
        lines += [f"  {count} refused: {kind}" for kind, count in self.refused.items()]
        return lines + [f"  failed: {error}" for _, error in self.failures]


def label_videos(
    sources: Sequence[Source],
    out: str | Path,
    teacher: Teacher,
    *,
    tokens: tuple[int, int] = (64, 96),
    working_side: int = 336,
    segment_frames: int = 64,
    pairs_per_frame: float = 2.0,
    strides: tuple[float, float] = (0.04, 1.28),
    seed: int = 0,
    progress: bool = True,
) -> LabelSummary:
    """Label every source (video, image folder, glob or list of images) with `teacher` into the label store `out`.

    Frames are stored on a grid with a number of 14 x 14 patches in `tokens` (nano's training size); the teacher sees
    them with their long side at `working_side` pixels, if that is larger. A file of the store, and so the memory, holds
    `segment_frames` frames. `pairs_per_frame` pairs are tried for every frame, in both directions, `strides` seconds
    apart. A source that fails is reported in the summary and the others go on. Segments that are already there are
    kept. Raises LabelStoreError if `out` holds labels of other settings.
    """
    started = time.monotonic()
    settings = _Settings(
        teacher.name, teacher.parameters, tokens, working_side, segment_frames, pairs_per_frame, strides, seed
    )
    store = LabelStore(out, json.loads(json.dumps(asdict(settings))))
    results, failures = [], []
    with _progress_bar(progress) as bar:
        for source in sources:
            task = bar.add_task(_name(source), total=None) if bar else None
            try:
                for result in _label_source(source, store, teacher, settings):
                    results.append(result)
                    if bar:
                        bar.update(task, total=result.total, advance=len(result.info.indices))
            except (Flow3rError, OSError) as error:
                failures.append((str(source), str(error)))
                if bar:
                    bar.update(task, description=f"{_name(source)}: failed")
    return _summarise(len(sources), results, tuple(failures), time.monotonic() - started)


@dataclass(frozen=True)
class _Settings:
    """What all labels of a store have in common."""

    teacher: str
    parameters: dict[str, Any]
    tokens: tuple[int, int]
    working_side: int
    segment_frames: int
    pairs_per_frame: float
    strides: tuple[float, float]
    seed: int


@dataclass(frozen=True)
class _Result:
    info: SegmentInfo
    path: Path
    new: bool
    total: int  # frames of all segments of the source


def _summarise(
    sources: int, results: list[_Result], failures: tuple[tuple[str, str], ...], seconds: float
) -> LabelSummary:
    reasons = Counter(refusal.reason.split(" (")[0] for result in results for refusal in result.info.refusals)
    return LabelSummary(
        sources=sources,
        written=sum(result.new for result in results),
        kept=sum(not result.new for result in results),
        frames=sum(len(result.info.indices) for result in results),
        accepted=sum(len(result.info.pairs) for result in results),
        refused=dict(reasons.most_common()),
        failures=failures,
        size=sum(result.path.stat().st_size for result in results),
        seconds=seconds,
    )


def _label_source(source: Source, store: LabelStore, teacher: Teacher, settings: _Settings) -> Iterator[_Result]:
    sequence = open_source(source)
    if len(sequence) < 2:
        raise InputError(f"{source}: has one frame; flow needs at least two")
    digest = content_sha256(sequence)
    grid, shots = _grid_and_shots(sequence, digest, store, settings)
    segments = split_shots(shots, settings.segment_frames)
    done = {info.indices: info for info in store.segments() if info.source_sha256 == digest}
    for start, stop in segments:
        indices = tuple(range(start, stop))
        info, new = done.get(indices), False
        if info is None:
            shot = next(shot for shot in shots if shot[0] <= start < shot[1])
            segment = _label_segment(sequence, digest, shot, indices, grid, teacher, settings)
            store.write(segment)
            info, new = segment.info, True
        path = store.path_of(info.source, info.source_sha256, info.indices)
        yield _Result(info, path, new, sum(b - a for a, b in segments))


def _grid_and_shots(
    sequence: frame.Sequence, digest: str, store: LabelStore, settings: _Settings
) -> tuple[tuple[int, int], tuple[tuple[int, int], ...]]:
    """One pass over the source, whose result is kept beside the labels for the next run."""
    path = store.path_of(sequence.name, digest, range(len(sequence))).with_suffix(".shots.json")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        found = survey(sequence)
        known = {"grid": list(choose_grid(found.sizes, settings.tokens)), "shots": [list(shot) for shot in found.shots]}
        write_json(path, known)
    return tuple(known["grid"]), tuple((start, stop) for start, stop in known["shots"])


def _label_segment(
    sequence: frame.Sequence,
    digest: str,
    shot: tuple[int, int],
    indices: tuple[int, ...],
    grid: tuple[int, int],
    teacher: Teacher,
    settings: _Settings,
) -> Segment:
    """Frames to the teacher at its working size, its accepted labels and the frames to the grid."""
    working = _working_size(grid, settings.working_side)
    names, sizes, affines, images = [], [], [], []
    for item in sequence.frames(indices):
        fitted = fit_frame(item.image, working)
        scale = np.diag([grid[1] / working[1], grid[0] / working[0], 1.0])
        names.append(item.name)
        sizes.append((item.image.shape[0], item.image.shape[1]))
        affines.append(tuple(tuple(row) for row in (scale @ fitted.model_from_original).tolist()))
        images.append(fitted.image)
    timestamps = sequence.timestamps()[indices[0] : indices[-1] + 1]
    pairs = torch.from_numpy(
        label_pairs(
            timestamps,
            strides=settings.strides,
            pairs_per_frame=settings.pairs_per_frame,
            seed=int(sha256_of_json([digest, indices[0], settings.seed])[:8], 16),
        )
    )
    labels = teacher(torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255, pairs)
    accepted = [row for row, reason in enumerate(labels.refusals) if not reason]
    flow = _resized(labels.flow, accepted, grid)
    info = SegmentInfo(
        source=sequence.name,
        source_sha256=digest,
        shot=shot,
        indices=indices,
        timestamps=tuple(timestamps.tolist()),
        names=tuple(names),
        original_sizes=tuple(sizes),
        size=grid,
        model_from_original=tuple(affines),
        pairs=tuple((i, j) for i, j in flow.pairs[0].tolist()),
        covisible_share=tuple(flow.covisible[0].mean((1, 2)).tolist()),
        median_flow=tuple(_median_flow(flow, row) for row in range(len(accepted))),
        refusals=tuple(Refusal(i, j, reason) for (i, j), reason in zip(pairs.tolist(), labels.refusals) if reason),
    )
    stored = [resize_image(image, grid) for image in images] if accepted else []
    return Segment(info, np.stack(stored) if stored else np.zeros((0, *grid, 3), np.uint8), flow)


def _resized(flow: Flow, rows: list[int], grid: tuple[int, int]) -> Flow:
    """The chosen pairs on the grid, made one at a time: full-size copies of all would be most of the job's memory."""
    small = [
        resize_labels(
            Flow(*(part[:, row : row + 1].cpu() for part in (flow.pairs, flow.displacement, flow.covisible))), grid
        )
        for row in rows
    ]
    if not small:
        return Flow(torch.zeros(1, 0, 2, dtype=torch.long), torch.zeros(1, 0, *grid, 2), torch.zeros(1, 0, *grid))
    keys = ("pairs", "displacement", "covisible")
    return Flow(*(torch.cat([getattr(one, key) for one in small], dim=1) for key in keys))


def _working_size(grid: tuple[int, int], long_side: int) -> tuple[int, int]:
    scale = max(1.0, long_side / max(grid))
    return round(grid[0] * scale), round(grid[1] * scale)


def _median_flow(flow: Flow, row: int) -> float:
    length = flow.displacement[0, row].norm(dim=-1)[flow.covisible[0, row] > 0]
    return float(length.median()) if length.numel() else 0.0


def _name(source: Source) -> str:
    return Path(source).name or str(source) if isinstance(source, str | Path) else f"{len(source)} files"


def _progress_bar(shown: bool) -> Any:
    """A rich progress bar as a context manager; one that yields None if it is not to be shown."""
    if not shown:
        return nullcontext()
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    return Progress(*columns, TimeRemainingColumn())
