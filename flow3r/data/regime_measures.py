"""How hard a set of worlds is before any model has seen it: what standing still would score, and what moves."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.data.regimes import FRAMES, WorldSet
from flow3r.data.sampling import ordered_pairs, spread_indices
from flow3r.data.worlds import Worlds
from flow3r.geometry.se3 import rotation_angle

_AT_ONCE = 8  # worlds that are in memory together


@dataclass(frozen=True)
class SetMeasures:
    """Of the worlds of a set, each seen in the same frames; flow is that of every ordered pair of them."""

    worlds: int
    identity_rra: float  # RRA@30 of cameras that all look the same way, per cent of pairs
    median_flow: float  # pixels of SIDE, median over pairs of their median over covisible pixels
    covisible: float  # mean share of a view that is covisible
    hardly_covisible: float  # share of pairs of which less than a tenth is covisible
    moving_scenes: float  # share of worlds in which something that moves is seen
    moving_area: float  # mean share of the pixels that show something that moves, among those worlds
    moving_objects: float  # mean number of such objects, among those worlds

    def line(self) -> str:
        """In the order of the fields, for a table."""
        shares = (self.covisible, self.hardly_covisible, self.moving_scenes, self.moving_area)
        cells = (f"{self.worlds}", f"{self.identity_rra:.1f}", f"{self.median_flow:.1f}")
        return " | ".join((*cells, *(f"{100 * share:.1f}" for share in shares), f"{self.moving_objects:.1f}"))


def measure_set(worlds: WorldSet, *, views: int = 4, most: int | None = None) -> SetMeasures:
    """Measures over the first `most` worlds of a set, or all, in `views` frames spread evenly over each sequence."""
    count = worlds.count if most is None else min(most, worlds.count)
    parts = [
        _measured(worlds, range(first, min(first + _AT_ONCE, count)), views) for first in range(0, count, _AT_ONCE)
    ]
    angle, flow, share, area, objects = (torch.cat(values) for values in zip(*parts))
    moving = area > 0
    return SetMeasures(
        worlds=count,
        identity_rra=100 * float((angle < 30).float().mean()),
        median_flow=float(flow[share > 0].median()),
        covisible=float(share.mean()),
        hardly_covisible=float((share < 0.1).float().mean()),
        moving_scenes=float(moving.float().mean()),
        moving_area=float(area[moving].mean()) if moving.any() else 0.0,
        moving_objects=float(objects[moving].mean()) if moving.any() else 0.0,
    )


def _measured(worlds: WorldSet, numbers: Sequence[int], views: int) -> tuple[Float[Tensor, "_"], ...]:
    """Per pair: degrees between its views, median flow, covisible share. Per world: moving area, moving objects."""
    frames = torch.tensor(spread_indices(FRAMES, views)).expand(len(numbers), -1)
    pairs = torch.tensor(ordered_pairs(views))
    made = worlds.render(numbers, frames, pairs.expand(len(numbers), -1, -1))
    rotation = made.views.world_from_camera[..., :3, :3]
    angle = torch.rad2deg(rotation_angle(rotation[:, pairs[:, 0]].mT @ rotation[:, pairs[:, 1]]))
    flow = made.views.flow
    known = flow.covisible.flatten(2) > 0
    length = flow.displacement.norm(dim=-1).flatten(2).masked_fill(~known, torch.nan).nanmedian(-1).values
    objects, area = seen_moving(made)
    return angle.flatten(), length.flatten(), known.float().mean(-1).flatten(), area, objects.float()


def seen_moving(worlds: Worlds) -> tuple[Int[Tensor, "B"], Float[Tensor, "B"]]:
    """Of every world, how many moving objects some frame shows, and the mean share of the pixels that show one."""
    ids = worlds.object_ids * worlds.moving
    objects = torch.tensor([len(one[one > 0].unique()) for one in ids])
    return objects, worlds.moving.float().mean((1, 2, 3))
