"""Whether labelled sequences are in the conventions of this package: checks that a reader of a dataset must pass.

Readers convert; what they were told wrongly, or what a copy lacks, shows here: poses inverted, axes of another
convention, other units, a focal length of another image size, labels that belong to other images, files that are
missing.
"""

import random
from collections.abc import Callable
from collections.abc import Sequence as List
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from flow3r.data.conventions import (
    LONG_SIDE,
    STILL,
    Match,
    Matcher,
    Variant,
    best_variant,
    depth_agreement,
    fit,
    reprojection,
    shrink,
    shuffled_fit,
)
from flow3r.data.datasets.dataset import Dataset
from flow3r.data.frame import Frame, Sequence
from flow3r.data.posed import LEAST_KNOWN
from flow3r.data.sampling import spread_indices
from flow3r.errors import InputError

WINDOW, SPREAD = 24, 16  # ours: frames in a row, and frames spread over the sequence, that are read
GAPS = (1, 2, 4, 8, 16)  # frames
LEAST_PAIRS, MOST_PAIRS = 3, 12  # ours: pairs that are scored
MOTION = (0.03, 0.35)  # ours: of the long side; pairs that move so much are preferred
AGREES = 0.4  # ours: share of matches that must agree; blur and moving things take many
SOME = 0.15  # ours: share of matches that agree by their own labels, not by chance
BETTER = 0.1  # ours: by so much must another convention fit better to be named
SHUFFLED = 0.45  # ours: share that must agree under the labels of other frames; exact scenes reach 0.5 to 0.9
UNORDERED = (0.75, 0.35)  # ours: mean step over mean distance of two frames, as given, and along the shortest way
NONE_FITS = "under none of the usual conventions the frames fit"
METRES = (0.01, 1000.0)  # ours: median depth of metric scenes

Status = Literal["pass", "fail", "unknown", "note"]


@dataclass(frozen=True)
class Check:
    """What one check found in one sequence."""

    sequence: str
    name: str
    status: Status
    said: str


def validate(dataset: Dataset, root: Path | str, sequences: int = 4, seed: int = 0) -> list[Check]:
    """The checks of some sequences of a dataset, drawn with a seed.

    Raises InputError if the folder holds nothing of the dataset, or the dataset has no labels that could be wrong.
    """
    if dataset.labels == "none":
        raise InputError(f"{dataset.name}: has no labels to validate; see its frames with flow3r data inspect")
    found = dataset.sequences(root)
    chosen = sorted(random.Random(seed).sample(range(len(found)), min(sequences, len(found))))
    return [check for number in chosen for check in check_sequence(found[number], dataset, seed)]


def check_sequence(sequence: Sequence, dataset: Dataset, seed: int = 0) -> list[Check]:
    """All checks of one sequence; those that need what it lacks say so."""
    checks: list[Check] = []

    def found(name: str, status: Status, said: str) -> None:
        checks.append(Check(sequence.name, name, status, said))

    try:
        window, spread = choose_frames(len(sequence), seed)
        frames, broken = _read(sequence, sorted({*window, *spread}))
    except InputError as error:
        found("files", "fail", str(error))
        return checks
    found("files", *_files(sequence, len(frames) + len(broken), broken))
    if len(frames) < 2:
        found("reprojection", "unknown", f"{len(frames)} frames could be read; two are needed")
        return checks
    found("finite", *_finite(list(frames.values())))
    found("depth", *_depth(list(frames.values()), dataset))
    posed = all(frame.world_from_camera is not None and frame.intrinsics is not None for frame in frames.values())
    if not posed or any(check.status == "fail" for check in checks if check.name == "finite"):
        found("reprojection", "unknown", "there are no cameras, or they are not finite")
        return checks
    found("rotations", *_rotations(list(frames.values())))
    for name, status, said in _conventions(frames):
        found(name, status, said)
    in_order = [frames[number] for number in window if number in frames]
    found("order", *_order(in_order, [frame.timestamp for frame in frames.values()]))
    return checks


def choose_frames(length: int, seed: int) -> tuple[list[int], list[int]]:
    """WINDOW frames in a row, from a seeded start, and SPREAD frames over all."""
    start = random.Random(seed).randint(0, max(0, length - WINDOW))
    return list(range(start, min(length, start + WINDOW))), spread_indices(length, SPREAD)


def _read(sequence: Sequence, indices: list[int]) -> tuple[dict[int, Frame], list[str]]:
    """The frames by number, as `shrink` leaves them, and what is wrong with those that cannot be read."""
    frames, broken = {}, []
    for index in indices:
        try:
            (frame,) = sequence.frames([index])
            frames[index] = shrink(frame)
        except (InputError, OSError) as error:
            broken.append(str(error))
    return frames, broken


def _files(sequence: Sequence, read: int, broken: list[str]) -> tuple[Status, str]:
    local = (file for file in getattr(sequence, "files", ()) if isinstance(file, Path))
    missing = [str(file) for file in local if not file.is_file()]
    if missing or broken:
        named = list(dict.fromkeys([*(f"{file}: missing" for file in missing), *broken]))
        more = f", and {len(named) - 3} more" if len(named) > 3 else ""
        return "fail", "; ".join(named[:3]) + more
    left_out = getattr(sequence, "left_out", {})
    said = ", ".join(f"{count} frames left out: {reason}" for reason, count in left_out.items())
    if said:
        lost = any(word in reason for reason in left_out for word in ("missing", "no ", "lacks"))
        return ("fail" if lost else "note"), said
    return "pass", f"{read} of {len(sequence)} frames read"


def _finite(frames: List[Frame]) -> tuple[Status, str]:
    kinds = ("depth", "intrinsics", "world_from_camera")
    bad = [
        f"{kind} of {frame.name}"
        for frame in frames
        for kind in kinds
        if getattr(frame, kind) is not None and not np.isfinite(getattr(frame, kind)).all()
    ]
    return ("fail", f"not finite: {', '.join(bad[:3])}") if bad else ("pass", "all labels are finite")


def _depth(frames: List[Frame], dataset: Dataset) -> tuple[Status, str]:
    depths = [frame.depth for frame in frames if frame.depth is not None]
    if len(depths) < len(frames):
        return ("fail" if depths else "note"), f"{len(frames) - len(depths)} of {len(frames)} frames have none"
    known = np.array([(depth > 0).mean() for depth in depths])
    if known.min() < LEAST_KNOWN:
        worst = frames[int(known.argmin())].name
        return (
            "fail",
            f"{worst} has depth in {known.min():.1%} of it; expected {LEAST_KNOWN:.0%} (mean {known.mean():.0%})",
        )
    median = float(np.median(np.concatenate([depth[depth > 0][::97] for depth in depths])))
    said = f"known in {known.mean():.0%} of the pixels, at least {known.min():.0%} of a frame; median {median:.3g}"
    if dataset.scale == "metric" and not METRES[0] < median < METRES[1]:
        return "fail", f"units: {said}, which cannot be metres"
    return "pass", said + (" m" if dataset.scale == "metric" else " (relative)")


def _rotations(frames: List[Frame]) -> tuple[Status, str]:
    rotations = np.stack([frame.world_from_camera[:3, :3] for frame in frames]).astype(np.float64)
    determinants = np.linalg.det(rotations)
    if (determinants < 0).any():
        return "fail", f"handedness: {int((determinants < 0).sum())} of {len(frames)} poses mirror (determinant < 0)"
    off = float(np.abs(rotations @ rotations.swapaxes(1, 2) - np.eye(3)).max())
    if off > 1e-2:
        return "fail", f"not orthonormal by {off:.2g}; a scale or a shear is in the poses"
    return "pass", f"proper, orthonormal to {off:.1g}"


def _conventions(frames: dict[int, Frame]) -> list[tuple[str, Status, str]]:
    """What the matches say, and, where there are none, what the depths say of each other."""
    kept, numbers = list(frames.values()), list(frames)
    if any(frame.depth is None for frame in kept):
        kept = [replace(frame, depth=None) for frame in kept]
    matches = choose_matches(kept, numbers)
    if len(matches) < LEAST_PAIRS and kept[0].depth is not None:
        return _by_depth(kept, numbers)
    if len(matches) < LEAST_PAIRS:
        return [("reprojection", "unknown", f"{len(matches)} pairs have features to match; {LEAST_PAIRS} are needed")]
    if np.median([np.median(match.motion) for match in matches]) < STILL * max(kept[0].image.shape[:2]):
        return [("reprojection", "unknown", "the camera hardly moves: no convention can be told")]
    measured = f"of matches agree in {len(matches)} pairs, {reprojection(matches, kept):.2f} px in median"
    judged = _judge(lambda variant: fit(matches, kept, variant), kept, measured)
    if not judged[0][2].startswith(NONE_FITS):
        return judged
    firmest = sorted(matches, key=lambda match: -len(match.there))[:4]
    other = shuffled_fit(firmest, kept)
    if other < SHUFFLED:
        # Corners slide along edges, repeated patterns and moving things match wrongly: then the depths tell.
        doubtful = all(match.tracked for match in matches) or fit(matches, kept) > SOME
        return _by_depth(kept, numbers) if doubtful and kept[0].depth is not None else judged
    said = f"frames are shuffled: with labels of other frames {other:.0%} of matches agree, {judged[0][2]}"
    return [("conventions", "fail", said)]


def _by_depth(frames: List[Frame], numbers: List[int]) -> list[tuple[str, Status, str]]:
    place = {number: k for k, number in enumerate(numbers)}
    gap = max(gap for gap in GAPS if gap == 1 or len(frames) > 2 * gap)
    pairs = [(frames[place[n]], frames[place[n + gap]]) for n in numbers if n + gap in place]
    if not pairs:
        return [("reprojection", "unknown", "features tell nothing, and no frames are next to each other")]
    chosen = [pairs[k] for k in spread_indices(len(pairs), MOST_PAIRS)]
    measured = f"of points found again in {len(chosen)} pairs by their depth; features tell nothing"
    return _judge(lambda variant: depth_agreement(chosen, variant), frames, measured)


def _judge(score: Callable[[Variant], float], frames: List[Frame], measured: str) -> list[tuple[str, Status, str]]:
    """The verdict on the labels as given against those of all variants."""
    given = score(Variant())
    best, reached = best_variant(score, frames)
    if best.departures and reached >= AGREES and reached >= given + BETTER:
        return [
            ("conventions", "fail", f"{'; '.join(best.said())}: then {reached:.0%}, as given {given:.0%} {measured}")
        ]
    if given >= AGREES:
        said = f"{given:.0%} {measured}"
        return [("conventions", "pass", "none fits better than as given"), ("reprojection", "pass", said)]
    return [("conventions", "fail", f"{NONE_FITS}: as given {given:.0%} {measured}")]


def choose_matches(frames: List[Frame], numbers: List[int]) -> list[Match]:
    """Matches of up to MOST_PAIRS pairs, of those with the gaps GAPS, preferred where they move within MOTION."""
    matcher, place = Matcher(frames), {number: k for k, number in enumerate(numbers)}
    anchors = [numbers[k] for k in spread_indices(len(numbers), MOST_PAIRS)]
    neighbours = [(a, a + 1) for a in spread_indices(len(numbers) - 1, MOST_PAIRS)]
    by_gap = [(place[n], place[n + gap]) for gap in GAPS for n in anchors if n + gap in place]
    found = [match for pair in dict.fromkeys([*by_gap, *neighbours]) if (match := matcher(*pair)) is not None]
    side = max(frames[0].image.shape[:2]) if frames else LONG_SIDE

    def preference(match: Match) -> tuple[bool, float]:
        motion = float(np.median(match.motion)) / side
        return not MOTION[0] <= motion <= MOTION[1], -motion

    return sorted(found, key=preference)[:MOST_PAIRS]


def _order(window: List[Frame], timestamps: List[float]) -> tuple[Status, str]:
    """Whether frames in a row lie along a path; those of a shuffled video do not, though an order exists that does."""
    if any(later <= earlier for earlier, later in pairwise(timestamps)):
        return "fail", "timestamps do not ascend: frames are shuffled, or listed in an order that is not that of time"
    if len(window) < 8:
        return "unknown", f"{len(window)} frames in a row; 8 are needed"
    apart = _distances(np.stack([frame.world_from_camera for frame in window]).astype(np.float64))
    typical = float(apart[np.triu_indices(len(apart), 1)].mean())
    if typical == 0:
        return "unknown", "the camera stands still"
    given = float(apart.diagonal(1).mean()) / typical
    shortest = _shortest_walk(apart) / typical
    if given > UNORDERED[0] and shortest < UNORDERED[1]:
        return (
            "fail",
            f"frames are shuffled: in a row they are {given:.2f} of the mean distance apart, in order {shortest:.2f}",
        )
    return "pass", f"frames in a row are {given:.2f} of the mean distance apart"


def _distances(poses: np.ndarray) -> np.ndarray:
    """Between poses, rotation and translation each relative to its mean."""
    centres = poses[:, :3, 3]
    along = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    cosine = (np.einsum("aij,bij->ab", poses[:, :3, :3], poses[:, :3, :3]) - 1) / 2
    turned = np.arccos(np.clip(cosine, -1, 1))
    return sum(part / part.mean() for part in (along, turned) if part.mean() > 1e-9) + np.zeros(along.shape)


def _shortest_walk(apart: np.ndarray) -> float:
    """Mean step of the walk that goes to the nearest frame not yet visited, from the best start."""
    walks = []
    for start in range(len(apart)):
        here, left, length = start, set(range(len(apart))) - {start}, 0.0
        while left:
            nearest = min(left, key=lambda k: apart[here, k])
            length, here = length + apart[here, nearest], nearest
            left.remove(nearest)
        walks.append(length / (len(apart) - 1))
    return min(walks)
