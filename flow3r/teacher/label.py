"""Labelling: unlabelled videos to segments of a store of flow labels. Restartable; what is finished is never lost.

`label_videos` labels a few videos in this process; flow3r.teacher.runners labels many, in shards, on many processes.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from flow3r.data import frame
from flow3r.data.labels import LabelStore, Refusal, Segment, SegmentInfo
from flow3r.data.sampling import label_pairs, seconds_of, split_shots
from flow3r.data.transforms import choose_grid, fit_frame, resize_image, resize_labels
from flow3r.data.video import content_sha256, open_source, survey
from flow3r.errors import Flow3rError, InputError, LabelStoreError
from flow3r.files import sha256_of_json, write_json
from flow3r.geometry.flow import median_length
from flow3r.teacher.filters import FilterSettings, Findings, examine, hide
from flow3r.types import Flow, Teacher

Source = str | Path | Sequence[str | Path]

STILL = "standing camera"


def provenance(teacher: Teacher) -> dict[str, Any]:
    """What labels owe to their teacher: its name, parameters (the hash of its weights among them) and licence."""
    licence = getattr(teacher, "licence", None)
    made = {"teacher": teacher.name, "parameters": teacher.parameters, "licence": licence and str(licence)}
    return json.loads(json.dumps(made))


@dataclass(frozen=True)
class LabelSettings:
    """What is labelled and how; all labels of a store have it in common.

    Frames are stored on a grid with a number of 14 x 14 patches in `tokens` (nano's training size); the teacher sees
    them with their long side at `working_side` pixels, if that is larger. A segment, and so the memory, holds
    `segment_frames` frames. `pairs_per_frame` pairs are tried for every frame, in both directions, `strides` seconds
    apart, among the frames that `filters` leave.
    """

    tokens: tuple[int, int] = (64, 96)
    working_side: int = 336
    segment_frames: int = 64
    pairs_per_frame: float = 2.0
    strides: tuple[float, float] = (0.04, 1.28)
    seed: int = 0
    filters: FilterSettings = field(default_factory=FilterSettings)

    @classmethod
    def of_store(cls, made_with: dict[str, Any]) -> "LabelSettings":
        """Back from what a store keeps. Raises LabelStoreError for one that was made before this version."""
        try:
            values = {key.name: made_with[key.name] for key in fields(cls)}
            filters = {key: tuple(v) if isinstance(v, list) else v for key, v in values.pop("filters").items()}
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            return cls(**values, filters=FilterSettings(**filters))
        except (KeyError, TypeError) as error:
            raise LabelStoreError(f"the settings of the store are not those of this version ({error})") from error

    def with_teacher(self, teacher: Teacher) -> dict[str, Any]:
        """As the store keeps them, with the provenance of the teacher."""
        return json.loads(json.dumps({**provenance(teacher), **asdict(self)}))


@dataclass(frozen=True)
class LabelSummary:
    """What a labelling job found, over the segments it wrote and those it found already done."""

    sources: int
    written: int  # segments
    kept: int  # segments that were already there
    frames: int
    left_out: dict[str, int]  # frames that no pair was tried for, by reason
    masked: dict[str, int]  # segments in which pixels are hidden, by what hides them
    accepted: int  # ordered pairs
    refused: dict[str, int]  # ordered pairs by kind of reason, most frequent first
    failures: tuple[tuple[str, str], ...]  # (source, error) of sources that could not be labelled
    skipped: tuple[tuple[str, str], ...]  # (source, reason) of sources whose content is another's
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
        ]
        lines += [f"  {count} frames left out: {reason}" for reason, count in self.left_out.items()]
        lines += [f"  {count} segments with pixels hidden: {kind}" for kind, count in self.masked.items()]
        lines += [f"{self.accepted} of {tried} ordered pairs accepted"]
        lines += [f"  {count} refused: {kind}" for kind, count in self.refused.items()]
        lines += [f"  skipped: {source}: {reason}" for source, reason in self.skipped]
        return lines + [f"  failed: {error}" for _, error in self.failures]


def summarise(
    sources: int,
    infos: Iterable[SegmentInfo],
    failures: Iterable[tuple[str, str]],
    *,
    skipped: Iterable[tuple[str, str]] = (),
    written: int,
    size: int,
    seconds: float,
) -> LabelSummary:
    """The summary of segments, of which so many were `written` now, `size` bytes together."""
    infos = tuple(infos)
    reasons = Counter(refusal.reason.split(" (")[0] for info in infos for refusal in info.refusals)
    return LabelSummary(
        sources=sources,
        written=written,
        kept=len(infos) - written,
        frames=sum(len(info.indices) for info in infos),
        left_out=dict(Counter(reason for info in infos for _, reason in info.left_out).most_common()),
        masked=dict(Counter(kind for info in infos for kind, _ in info.masked).most_common()),
        accepted=sum(len(info.pairs) for info in infos),
        refused=dict(reasons.most_common()),
        failures=tuple(failures),
        skipped=tuple(skipped),
        size=size,
        seconds=seconds,
    )


def label_videos(
    sources: Sequence[Source | frame.Sequence],
    out: str | Path,
    teacher: Teacher,
    *,
    tokens: tuple[int, int] = (64, 96),
    working_side: int = 336,
    segment_frames: int = 64,
    pairs_per_frame: float = 2.0,
    strides: tuple[float, float] = (0.04, 1.28),
    seed: int = 0,
    filters: FilterSettings = FilterSettings(still_kept=1.0),  # noqa: B008  (frozen)
    progress: bool = True,
) -> LabelSummary:
    """Label every source (video, image folder, glob, list of images, or open sequence) into the label store `out`.

    The settings are those of LabelSettings; footage of one's own is labelled where the camera stands, too. A source
    that fails is reported in the summary and the others go on. Segments that are already there are kept. Raises
    LabelStoreError if `out` holds labels of other settings.
    """
    started = time.monotonic()
    settings = LabelSettings(tokens, working_side, segment_frames, pairs_per_frame, strides, seed, filters)
    store = LabelStore(out, settings.with_teacher(teacher))
    results, failures = [], []
    with _progress_bar(progress) as bar:
        for source in sources:
            is_open = isinstance(source, frame.Sequence)
            name = source.name if is_open else name_of(source)
            task = bar.add_task(name, total=None) if bar else None
            try:
                sequence = source if is_open else open_source(source)
                for result in label_source(sequence, store, teacher, settings):
                    results.append(result)
                    if bar:
                        bar.update(task, total=result.total, advance=len(result.info.indices))
            except (Flow3rError, OSError) as error:
                failures.append((name if is_open else str(source), str(error)))
                if bar:
                    bar.update(task, description=f"{name}: failed")
    return summarise(
        len(sources),
        [result.info for result in results],
        failures,
        written=sum(result.new for result in results),
        size=sum(result.path.stat().st_size for result in results),
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class LabelledSegment:
    """A finished segment of a source."""

    info: SegmentInfo
    path: Path
    new: bool
    total: int  # frames of all segments of the source


def label_source(
    sequence: frame.Sequence,
    store: LabelStore,
    teacher: Teacher,
    settings: LabelSettings,
    only: tuple[int, ...] | None = None,
) -> Iterator[LabelledSegment]:
    """Label a source into `store`, segment by segment, or `only` that of these frames; those that are there are kept.

    What is written depends on the frames, the teacher and the settings alone. Raises InputError for a source that
    cannot be read, or of one frame.
    """
    if len(sequence) < 2:
        raise InputError(f"{sequence.name}: has one frame; flow needs at least two")
    digest = content_sha256(sequence)
    grid, shots = _grid_and_shots(sequence, digest, store, settings)
    segments = split_shots(shots, settings.segment_frames)
    for start, stop in segments:
        indices = tuple(range(start, stop))
        if only not in (None, indices):
            continue
        info, new = store.find(sequence.name, digest, indices), False
        if info is None:
            shot = next(shot for shot in shots if shot[0] <= start < shot[1])
            segment = _label_segment(sequence, digest, shot, indices, grid, teacher, settings)
            store.write(segment)
            info, new = segment.info, True
        path = store.path_of(info.source, info.source_sha256, info.indices)
        yield LabelledSegment(info, path, new, sum(b - a for a, b in segments))


def _grid_and_shots(
    sequence: frame.Sequence, digest: str, store: LabelStore, settings: LabelSettings
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
    settings: LabelSettings,
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
    seed = int(sha256_of_json([digest, indices[0], settings.seed])[:8], 16)
    stack = np.stack(images)
    findings = examine(stack, settings.filters)
    pairs, skipped = _pairs_to_try(timestamps, findings, settings, seed)
    flow, refusals = _ask(teacher, stack, pairs, findings, grid)
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
        median_flow=tuple(median_length(*pair) for pair in zip(flow.displacement[0], flow.covisible[0])),
        refusals=(*skipped, *refusals),
        left_out=tuple(sorted(findings.left_out.items())),
        masked=tuple(findings.masked.items()),
    )
    stored = [resize_image(image, grid) for image in images] if info.pairs else []
    return Segment(info, np.stack(stored) if stored else np.zeros((0, *grid, 3), np.uint8), flow)


def _pairs_to_try(
    timestamps: Float[np.ndarray, "N"], findings: Findings, settings: LabelSettings, seed: int
) -> tuple[Int[Tensor, "P 2"], list[Refusal]]:
    """The pairs that the teacher is asked for, among the frames that are left, and those that it is not."""
    left = np.array([k for k in range(len(timestamps)) if k not in findings.left_out], dtype=np.int64)
    if len(left) < 2:
        return torch.zeros(0, 2, dtype=torch.long), []
    options = {"strides": settings.strides, "pairs_per_frame": settings.pairs_per_frame}
    pairs = left[label_pairs(seconds_of(timestamps)[left], seed=seed, **options)]
    empty = np.array([k in findings.left_out and "duplicate" not in findings.left_out[k] for k in range(left[-1] + 1)])
    before = np.concatenate([[0], np.cumsum(empty)])  # empty frames before each
    reasons = ["across an empty frame" if before[i] != before[j] else "" for i, j in pairs]
    if findings.still and seed / 2**32 >= settings.filters.still_kept:
        reasons = [STILL] * len(pairs)
    skipped = [Refusal(int(i), int(j), reason) for (i, j), reason in zip(pairs, reasons) if reason]
    return torch.from_numpy(pairs[[not reason for reason in reasons]]), skipped


def _ask(
    teacher: Teacher,
    images: UInt8[np.ndarray, "N H W 3"],
    pairs: Int[Tensor, "P 2"],
    findings: Findings,
    grid: tuple[int, int],
) -> tuple[Flow, list[Refusal]]:
    """The teacher's flow on the grid for the pairs that it accepts and of which something is not hidden."""
    if not len(pairs):
        return _joined([], grid), []
    labels = teacher(torch.from_numpy(images).movedim(-1, 1).float() / 255, pairs)
    accepted, refusals = [], []
    for row, ((i, j), reason) in enumerate(zip(pairs.tolist(), labels.refusals)):
        one = Flow(*(part[:, row : row + 1].cpu() for part in _parts(labels.flow)))
        if not reason and findings.hidden.any():
            seen = hide(one.displacement[0, 0], one.covisible[0, 0], findings.hidden)
            one = Flow(one.pairs, one.displacement, seen[None, None])
            reason = "" if seen.any() else "hidden (by what does not show the scene)"
        if reason:
            refusals.append(Refusal(i, j, reason))
        else:
            accepted.append(resize_labels(one, grid))  # one at a time: full-size copies would be most of the memory
    return _joined(accepted, grid), refusals


def _parts(flow: Flow) -> tuple[Tensor, Tensor, Tensor]:
    return flow.pairs, flow.displacement, flow.covisible


def _joined(flows: list[Flow], grid: tuple[int, int]) -> Flow:
    """Pairs that are on the grid already, one after the other."""
    if not flows:
        return Flow(torch.zeros(1, 0, 2, dtype=torch.long), torch.zeros(1, 0, *grid, 2), torch.zeros(1, 0, *grid))
    return Flow(*(torch.cat(parts, dim=1) for parts in zip(*map(_parts, flows))))


def _working_size(grid: tuple[int, int], long_side: int) -> tuple[int, int]:
    scale = max(1.0, long_side / max(grid))
    return round(grid[0] * scale), round(grid[1] * scale)


def name_of(source: Source) -> str:
    """A source, for people."""
    return Path(source).name or str(source) if isinstance(source, str | Path) else f"{len(source)} files"


def _progress_bar(shown: bool) -> Any:
    """A rich progress bar as a context manager; one that yields None if it is not to be shown."""
    if not shown:
        return nullcontext()
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    return Progress(*columns, TimeRemainingColumn())
