"""The flow that geometry itself gives: of frames whose depth and cameras are known, as in worlds and posed datasets."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.data.transforms import resize_labels
from flow3r.errors import InputError
from flow3r.geometry.flow import flow_from_depth
from flow3r.teacher.neural import resize_images
from flow3r.types import Flow, FlowLabels, Views

VERSION = 1  # of the algorithm: raise it with every change of the labels
SAME = 0.02  # ours: mean difference, of 1, up to which images are taken for the same; JPEG and resizing give less


@dataclass(frozen=True)
class ExactTeacher:
    """A `Teacher` that is told the geometry: `geometry` is one scene (B = 1) whose views are the frames, or a function
    from the images to it.

    Pairs in its `flow` are taken from there, which knows of moving objects; others are computed from depth, intrinsics
    and poses as of a static scene. It refuses no pair but those that share less than `least_share`.
    """

    name: ClassVar[str] = "exact"

    geometry: Views | Callable[[Tensor], Views]
    tolerance: float = 0.03  # relative, of two depths of one point: as in flow_from_depth
    least_share: float = 0.0  # of covisible pixels; at 0 only pairs without any are refused

    @property
    def parameters(self) -> dict[str, Any]:
        """Every setting that changes the labels, but for the geometry, which belongs to the footage."""
        return {"version": VERSION, "tolerance": self.tolerance, "least_share": self.least_share}

    def __call__(self, images: Float[Tensor, "N 3 H W"], pairs: Int[Tensor, "P 2"]) -> FlowLabels:
        """Flow for ordered pairs of frames at the images' size, to which the views may be stretched.

        Raises InputError if the views are not those of the images, or know neither flow nor geometry.
        """
        views = self.geometry(images) if callable(self.geometry) else self.geometry
        views = views.to(images.device)
        _check_same(views, images)
        given = {} if views.flow is None else {pair: row for row, pair in enumerate(_ordered(views.flow.pairs[0]))}
        flows = [self._flow(views, pair, given.get(pair)) for pair in _ordered(pairs)]
        size = (images.shape[2], images.shape[3])
        refusals = [self._refusal(flow) for flow in flows]
        flows = [resize_labels(flow, size) for flow in flows]
        empty = images.new_zeros(1, 0, *size, 2)
        displacement = torch.cat([empty, *(flow.displacement for flow in flows)], dim=1)
        covisible = torch.cat([empty[..., 0], *(flow.covisible for flow in flows)], dim=1)
        accepted = torch.tensor([not reason for reason in refusals], device=images.device)[None, :, None, None]
        covisible = torch.where(accepted, covisible, 0.0)
        return FlowLabels(Flow(pairs[None].to(images.device), displacement, covisible), tuple(refusals))

    def _flow(self, views: Views, pair: tuple[int, int], row: int | None) -> Flow:
        index = torch.tensor([[pair]], device=views.images.device)
        if row is not None:
            flow = Flow(index, *(part[:, row : row + 1] for part in (views.flow.displacement, views.flow.covisible)))
            return replace(flow, displacement=flow.displacement * (flow.covisible > 0)[..., None])
        if views.depth is None or views.intrinsics is None or views.world_from_camera is None:
            raise InputError(
                f"exact flow of pair {pair} needs depth, intrinsics and poses, or flow that holds the pair"
            )
        known = (part[:, list(pair)] for part in (views.depth, views.intrinsics, views.world_from_camera))
        displacement, covisible = flow_from_depth(*known, tolerance=self.tolerance)
        return Flow(index, displacement[:, None].float(), covisible[:, None].float())

    def _refusal(self, flow: Flow) -> str:
        i, j = flow.pairs[0, 0].tolist()
        if i == j:
            return "same frame"
        share = float((flow.covisible > 0).float().mean())
        return f"too little covisible ({share:.0%})" if share <= self.least_share else ""


def _ordered(pairs: Int[Tensor, "P 2"]) -> list[tuple[int, int]]:
    return [(int(i), int(j)) for i, j in pairs.tolist()]


def _check_same(views: Views, images: Float[Tensor, "N 3 H W"]) -> None:
    """Raises InputError unless the views are the images, but for their size."""
    batch, count = views.images.shape[:2]
    if (batch, count) != (1, len(images)):
        raise InputError(f"geometry is of {batch} scenes of {count} frames; expected one of the {len(images)} images")
    small = (min(16, images.shape[2]), min(16, images.shape[3]))
    error = (resize_images(views.images[0], small) - resize_images(images, small)).abs().mean((1, 2, 3))
    if error.max() > SAME:
        raise InputError(
            f"geometry is not that of the images: frame {int(error.argmax())} differs by {float(error.max()):.0%} of "
            f"the grey levels; expected the same frames in the same order, uncropped, within {SAME:.0%}"
        )
