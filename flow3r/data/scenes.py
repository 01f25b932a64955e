"""Scenes over time: what stands where in every view, and where a view's points are seen in another."""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow3r.data.raycast import NEAREST, Sight, cast_depth
from flow3r.data.surfaces import Look
from flow3r.geometry.se3 import invert
from flow3r.types import OnDevice

# A ray that reaches its point to this share of the depth has reached it: far above rounding, far below what is seen.
_ARRIVED = 5e-4


@dataclass(frozen=True)
class Scenes(OnDevice):
    """B scenes in N views, in metres; world y points down and the floor is near y = 0."""

    low: Float[Tensor, "B 3"]
    high: Float[Tensor, "B 3"]
    outdoors: Bool[Tensor, "B"]
    waves: Float[Tensor, "B M 4"]
    half: Float[Tensor, "B K 3"]
    active: Bool[Tensor, "B K"]
    moves: Bool[Tensor, "B K"]
    world_from_solid: Float[Tensor, "B N K 4 4"]
    light: Float[Tensor, "B 3"]
    world_from_camera: Float[Tensor, "B N 4 4"]
    intrinsics: Float[Tensor, "B 3 3"]
    look: Look | None = None

    def __getitem__(self, index: Int[Tensor, "C"]) -> "Scenes":
        """The scenes of these indices, which may repeat, without their look."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "look"}
        return Scenes(**{name: value[index] for name, value in values.items()})


def solid_from_camera(scenes: Scenes, scene: Int[Tensor, "V"], view: Int[Tensor, "V"]) -> Float[Tensor, "V Q 4 4"]:
    """From the axes of cameras to the metric axes of the world (first) and of the K solids at that moment."""
    cameras = scenes.world_from_camera[scene, view][:, None]
    return torch.cat([cameras, invert(scenes.world_from_solid[scene, view]) @ cameras], dim=1)


def sight(scenes: Scenes, scene: Int[Tensor, "V"], view: Int[Tensor, "V"]) -> Sight:
    """What the cameras of these views of these scenes have before them."""
    rest = scenes.world_from_solid[scene, 0, :, :3, :3]
    light = scenes.light[scene]
    return Sight(
        solid_from_camera=solid_from_camera(scenes, scene, view)[..., :3, :],
        low=scenes.low[scene],
        high=scenes.high[scene],
        open_sky=scenes.outdoors[scene],
        waves=scenes.waves[scene],
        half=scenes.half[scene],
        active=scenes.active[scene],
        light=light,
        solid_light=(light[:, None, None] @ rest)[:, :, 0],
    )


def follow(
    scenes: Scenes,
    scene: Int[Tensor, "V"],
    source: Int[Tensor, "V"],
    target: Int[Tensor, "V"],
    rays: Float[Tensor, "V 3 R"],
    depth: Float[Tensor, "V R"],
    solid: Int[Tensor, "V R"],
) -> tuple[Float[Tensor, "V 3 R"], Float[Tensor, "V R"], Bool[Tensor, "V R"]]:
    """Where the points that the source views see along `rays` are in the target views, by the solids' own motion.

    Returns their rays (x, y, 1) and z-depths in the target camera, and whether they are seen from there: known, in
    front, within the image, and the first thing that a ray from the target camera straight at the point meets.
    """
    target_from_solid = invert(solid_from_camera(scenes, scene, target))
    target_from_source = target_from_solid @ solid_from_camera(scenes, scene, source)
    solids = target_from_source.shape[1]
    column = solid + torch.arange(len(solid), device=solid.device)[:, None] * solids
    table = target_from_source[..., :3, :].reshape(-1, 12).T.contiguous()
    motion = table.index_select(1, column.view(-1)).view(12, *solid.shape)
    known = torch.isfinite(depth)
    near = torch.where(known, depth, 1.0)
    x, y = rays[:, 0], rays[:, 1]
    moved = [near * (m[0] * x + m[1] * y + m[2]) + m[3] for m in motion.unflatten(0, (3, 4))]
    z = moved[2]
    front = known & (z > NEAREST)
    inverse = torch.where(front, z, 1.0).reciprocal()
    target_x, target_y = torch.where(front, moved[0] * inverse, 0.0), torch.where(front, moved[1] * inverse, 0.0)
    towards = torch.stack([target_x, target_y, torch.ones_like(z)], dim=1)
    first = cast_depth(sight(scenes, scene, target), towards)
    lens = scenes.intrinsics[scene]
    reach = (lens[:, :2, 2] / lens.diagonal(dim1=1, dim2=2)[:, :2])[..., None]  # the principal point is the centre
    inside = (target_x.abs() < reach[:, 0]) & (target_y.abs() < reach[:, 1])
    return towards, z, front & inside & (first > z * (1 - _ARRIVED))
