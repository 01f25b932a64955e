"""Pseudo-3D labels of unlabelled worlds, as a practitioner would make them (paper C, Table 7, where it is MegaSAM).

COLMAP's incremental mapping solves cameras from points that the teacher's flow follows, or from SIFT features of finer
frames; the same flow is then triangulated between the solved cameras. Truth is never looked at: what fails is kept as a
failure, and what is wrong stays wrong.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from flow3r.data.frame import Frame
from flow3r.data.labels import LabelStore, SegmentInfo
from flow3r.data.pseudo_worlds import PseudoWorld, PseudoWorlds
from flow3r.data.regimes import FRAMES, SIDE, WorldSet
from flow3r.errors import InputError
from flow3r.eval.methods.classical_sfm import ClassicalMethod, Tracked
from flow3r.geometry.se3 import invert
from flow3r.geometry.triangulation import triangulate
from flow3r.types import Flow

VERSION = 2  # of the algorithm: raise it with every change of the labels


@dataclass(frozen=True)
class Optimiser:
    """How worlds are solved. Constants are ours, chosen on the first worlds of `elsewhere/unlabelled`."""

    matches: Literal["flow", "features"] = "flow"
    side: int = 4 * SIDE  # pixels of COLMAP's frames, in which its tolerances are; features are sought at this size
    stride: int = 6  # pixels of stored frames between points that flow follows
    tolerance: float = 1.0  # pixels of stored frames between a triangulated point and where flow sees it
    least_parallax: float = 4.0  # pixels of stored frames; depth of less is unknown
    least_frames: int = 4  # placed; as many as training draws
    fields_of_view: tuple[float, float] = (10.0, 120.0)  # degrees of a lens that there may be
    least_agreement: float = 0.7  # share of the pixels followed by flow that the cameras explain

    @property
    def parameters(self) -> dict[str, Any]:
        """All that the labels depend on but the flow; raises InputError without pycolmap."""
        said = {"version": VERSION, "solver": ClassicalMethod().fingerprint, **asdict(self)}
        return {**said, "fields_of_view": list(self.fields_of_view)}


def pseudo_label_set(
    worlds: WorldSet, labels: LabelStore, folder: str | Path, optimiser: Optimiser = Optimiser()
) -> PseudoWorlds:
    """Pseudo-3D labels of the worlds of a set from a teacher's flow of them (`label_set`); what is there is kept.

    Raises InputError for a folder of other settings, and LabelStoreError or InputError where flow cannot be read.
    """
    pseudo = PseudoWorlds(worlds, folder, {"flow": labels.settings, "optimiser": optimiser.parameters})
    segments = {segment.source: segment for segment in labels.segments()}
    for number in pseudo.missing:
        segment = segments.get(worlds.name_of(number))
        if segment is None:
            raise InputError(f"{labels.folder}: holds no flow of {worlds.name_of(number)}; label the set first")
        try:
            pseudo.write(number, _Clip(worlds, number, labels, segment).solved(optimiser))
        except Unsolved as reason:
            pseudo.fail(number, str(reason))
    return pseudo


class Unsolved(Exception):
    """A world that got no labels; the message says why."""


@dataclass(frozen=True)
class _Clip:
    """A world as its optimiser sees it: frames, and flow of accepted pairs."""

    worlds: WorldSet
    number: int
    labels: LabelStore
    segment: SegmentInfo

    @cached_property
    def flow(self) -> Flow:
        return self.labels.flow(self.segment, range(len(self.segment.pairs)))

    def solved(self, optimiser: Optimiser) -> PseudoWorld:
        """Raises Unsolved."""
        if not self.segment.pairs:
            raise Unsolved("the teacher accepted no pair of frames")
        tracked = self._tracked(optimiser)
        placed = np.flatnonzero(tracked.registered)
        if len(placed) < optimiser.least_frames:
            raise Unsolved(f"COLMAP placed {len(placed)} of {FRAMES} frames; {optimiser.least_frames} are asked for")
        intrinsics = np.diag([SIDE / optimiser.side, SIDE / optimiser.side, 1.0]) @ tracked.intrinsics[placed]
        view = float(np.degrees(2 * np.arctan(0.5 * SIDE / intrinsics[0, 0, 0])))
        if not optimiser.fields_of_view[0] <= view <= optimiser.fields_of_view[1]:
            raise Unsolved(f"COLMAP found a field of view of {view:.1f} degrees, of which there are no lenses")
        poses = tracked.world_from_camera[placed].copy()
        depth, agreement = depth_from_flow(self.flow, placed.tolist(), intrinsics, poses, optimiser)
        if agreement < optimiser.least_agreement:
            raise Unsolved(f"the cameras explain {agreement:.0%} of the flow; {optimiser.least_agreement:.0%} expected")
        if not depth.any():
            raise Unsolved(f"no pixel has a parallax of {optimiser.least_parallax:g} px")
        scale = float(np.median(depth[depth > 0]))
        poses[:, :3, 3] /= scale
        told = {"agreement": round(agreement, 4), "depth known": round(float((depth > 0).mean()), 4)}
        told |= {"field of view": round(view, 3), "points": tracked.facts["points"]}
        told |= {"reprojection error": tracked.facts["reprojection error"]}
        images = self.labels.images(self.segment, placed.tolist())
        return PseudoWorld(placed, images, depth / scale, intrinsics, poses, told)

    def _tracked(self, optimiser: Optimiser) -> Tracked:
        side, method = optimiser.side, ClassicalMethod()
        if optimiser.matches == "flow":
            points, matches = flow_matches(self.flow, FRAMES, optimiser.stride)
            return method.solve([side / SIDE * p for p in points], matches, [(side, side)] * FRAMES)
        images = self.worlds.render([self.number], torch.arange(FRAMES)[None], side=side).views.images[0]
        rgb = (images.movedim(1, -1) * 255).round().byte().numpy()
        return method.track([Frame(np.ascontiguousarray(image), float(t), str(t)) for t, image in enumerate(rgb)])


def flow_matches(
    flow: Flow, frames: int, stride: int
) -> tuple[list[Float[np.ndarray, "_ 2"]], dict[tuple[int, int], Int[np.ndarray, "_ 2"]]]:
    """Points of each frame in pixels, and matches of pairs i < j of frames: points on a grid of every frame, and where
    the flow of one scene (B = 1) sees them in others. A grid point and all its sightings make one track."""
    height, width = flow.displacement.shape[2:4]
    y, x = (part.ravel() for part in np.mgrid[stride // 2 : height : stride, stride // 2 : width : stride])
    grid = np.stack([x, y], axis=1) + 0.5
    points = [[grid] for _ in range(frames)]
    counts = [len(grid)] * frames
    matches: dict[tuple[int, int], list[np.ndarray]] = {}
    for (i, j), displacement, covisible in zip(
        flow.pairs[0].tolist(), flow.displacement[0].numpy(), flow.covisible[0].numpy()
    ):
        followed = np.flatnonzero(covisible[y, x] > 0)
        sightings = counts[j] + np.arange(len(followed))
        points[j].append((grid + displacement[y, x])[followed])
        counts[j] += len(followed)
        ends = (followed, sightings) if i < j else (sightings, followed)
        matches.setdefault((min(i, j), max(i, j)), []).append(np.stack(ends, axis=1))
    joined = [np.concatenate(parts).astype(np.float32) for parts in points]
    return joined, {pair: np.concatenate(parts) for pair, parts in matches.items()}


def depth_from_flow(
    flow: Flow,
    placed: Sequence[int],
    intrinsics: Float[np.ndarray, "n 3 3"],
    world_from_camera: Float[np.ndarray, "n 4 4"],
    optimiser: Optimiser,
) -> tuple[Float[np.ndarray, "n H W"], float]:
    """z-depth of the placed frames of a scene (B = 1), triangulated from their flow to each other, 0 where it is not
    told; and the share of the pixels that flow follows which the cameras explain.

    A depth is told where half of the views that see the pixel agree on it, with `least_parallax`.
    """
    camera_from_world = invert(torch.from_numpy(world_from_camera))
    lenses, place = torch.from_numpy(intrinsics), {frame: row for row, frame in enumerate(placed)}
    depth = torch.zeros(len(placed), *flow.covisible.shape[2:], dtype=torch.float64)
    followed = explained = 0
    for frame, row in place.items():
        pairs = [p for p, (i, j) in enumerate(flow.pairs[0].tolist()) if i == frame and j in place]
        if not pairs:
            continue
        targets = [place[int(flow.pairs[0, p, 1])] for p in pairs]
        found = triangulate(
            flow.displacement[0, pairs].double(),
            flow.covisible[0, pairs] > 0,
            camera_from_world[targets] @ torch.from_numpy(world_from_camera[row]),
            lenses[row],
            lenses[targets],
            optimiser.tolerance,
        )
        agreed = (found.agreeing > 0) & (2 * found.agreeing >= found.seen)
        told = agreed & (found.parallax >= optimiser.least_parallax)
        depth[row] = torch.where(told, found.depth, 0.0)
        followed, explained = followed + int((found.seen > 0).sum()), explained + int(agreed.sum())
    return depth.numpy(), explained / max(followed, 1)
