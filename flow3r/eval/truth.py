"""What samples are scored against: the labelled frames of a draw, on any grid; and what scores worst."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch

from flow3r.data.frame import Frame, Sequence
from flow3r.errors import Flow3rError, InputError
from flow3r.eval.benchmarks.labelled_segments import FlowLabelled
from flow3r.eval.benchmarks.manifests import Draw
from flow3r.eval.frames import flow_on_grid, labels_on_grid
from flow3r.eval.measures import Protocol, score_scene
from flow3r.eval.report import Score
from flow3r.types import Flow, Prediction, Views

NEEDED = {  # group of measures -> the labels that it cannot do without
    "pose": ("world_from_camera",),
    "points": ("depth", "intrinsics", "world_from_camera"),
    "depth": ("depth",),
    "flow": ("flow",),
}


class Truth:
    """The labelled frames of a draw; `fault` says why they cannot be used.

    `protocol` is what is measured of them: where labels vary, the groups that they allow.
    """

    def __init__(self, draw: Draw, protocol: Protocol, sequences: Mapping[str, Sequence], labels_vary: bool) -> None:
        self.fault, self.flow, self.frames = "", None, []
        self.protocol, self.notes, self.facts = protocol, {}, {}
        try:
            if draw.sequence not in sequences:
                raise InputError("the dataset lacks the sequence")
            sequence = sequences[draw.sequence]
            if len(sequence) != draw.n:
                raise InputError(f"the sequence has {len(sequence)} usable frames, the manifest says {draw.n}")
            self.frames = list(sequence.frames(draw.frames))
            if "flow" in protocol.groups and isinstance(sequence, FlowLabelled):
                self.flow = sequence.flow_among(draw.frames)
            views = self.on_grid(np.tile(np.eye(3), (len(self.frames), 1, 1)), (1, 1))
            lacking = {
                group: missing
                for group in protocol.groups
                if (missing := [label for label in NEEDED.get(group, ()) if getattr(views, label) is None])
            }
            labelled = tuple(group for group in protocol.groups if group not in lacking)
            if lacking and not (labels_vary and labelled):
                labels = sorted({label for missing in lacking.values() for label in missing})
                raise InputError(f"its frames have no {', '.join(labels)}")
            self.protocol = replace(protocol, groups=labelled)
            self.notes = {f"no {', '.join(missing)}: {group} not measured": 1 for group, missing in lacking.items()}
            if "depth" in labelled:  # whatever the grid: video depth is also averaged by it
                self.facts["true_depth_pixels"] = _known_pixels(self.frames, protocol.farthest or math.inf)
        except Flow3rError as error:
            self.fault = str(error)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(H, W) of the frames."""
        return [frame.image.shape[:2] for frame in self.frames]

    def noted(self, found: Score) -> Score:
        """The score, with what could not be measured, and what is known of the truth itself."""
        return replace(found, notes={**self.notes, **found.notes}, facts={**found.facts, **self.facts})

    def on_grid(self, grid_from_image: np.ndarray, size: tuple[int, int]) -> Views:
        """As views of a grid."""
        views = labels_on_grid(self.frames, grid_from_image, size)
        flow = None if self.flow is None else flow_on_grid(self.flow, grid_from_image, size)
        return replace(views, flow=flow)


def _known_pixels(frames: Iterable[Frame], farthest: float) -> int:
    """Pixels of original frames whose depth is known, and nearer than `farthest`; a frame may have none."""
    depths = [frame.depth for frame in frames if frame.depth is not None]
    return sum(int(((depth > 0) & (depth < farthest)).sum()) for depth in depths)


def no_prediction(views: Views) -> Prediction:
    """What scores worst: NaN for everything that a method may give."""
    nothing = torch.tensor(torch.nan)
    batch, count, _, height, width = views.images.shape
    points = nothing.expand(batch, count, height, width, 3)
    flow = None
    if views.flow is not None:
        flow = replace(views.flow, displacement=nothing.expand_as(views.flow.displacement), covisible=None)
    return Prediction(points, points, world_from_camera=nothing.expand(batch, count, 4, 4), flow=flow)


def worst_of_any_truth(protocol: Protocol, count: int) -> dict[str, float]:
    """The worst values of `count` views that are the same whatever the truth is: those without a unit, mostly.

    They stand where the truth itself cannot be read. Found as what two very different truths agree on.
    """
    one, other = (
        score_scene(no_prediction(views), views, 0, protocol=protocol).values
        for views in (_any_truth(count, (12, 16), 1), _any_truth(count, (14, 14), 3))
    )
    return {
        name: value
        for name, value in one.items()
        if not name.startswith(("ate", "rpe_translation"))  # lengths of the true trajectory, which may agree by chance
        if math.isclose(value, other.get(name, math.inf), rel_tol=1e-3)
    }


def _any_truth(count: int, size: tuple[int, int], power: int) -> Views:
    """A slanted wall, seen from `count` cameras that go ever faster, with flow of one pair."""
    depth = torch.linspace(1, 3, count * size[0] * size[1]).reshape(1, count, *size) ** power
    poses = torch.eye(4, dtype=torch.float64).repeat(1, count, 1, 1)
    poses[0, :, 0, 3] = torch.arange(count) ** power
    poses[0, :, 1, 3] = torch.arange(count) ** 2
    intrinsics = torch.diag(torch.tensor([10.0, 10.0, 1.0], dtype=torch.float64)).repeat(1, count, 1, 1)
    still = torch.zeros(1, 1, *size, 2)
    flow = Flow(torch.zeros(1, 1, 2, dtype=torch.long), still, torch.ones(1, 1, *size))
    images = torch.zeros(()).expand(1, count, 3, *size)
    return Views(images, depth, intrinsics, poses, flow=flow)
