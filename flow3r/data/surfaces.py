"""The look of surfaces: band-limited solid textures and images, and shading, all fixed to the surface.

Colour depends on the point of the surface alone, not on the view or the time, so that flow preserves it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.data.raycast import SHAPES, SKY, Shapes
from flow3r.geometry.se3 import invert
from flow3r.types import OnDevice

FACES = 6  # surfaces 0..5 are the room's faces (0 also the ground), then come the objects
WAVES = 7
SURFACES = FACES + len(SHAPES)
AMBIENT = 0.55
PIXELS_AT_ONCE = 60_000


@dataclass(frozen=True)
class Surfaces(OnDevice):
    """Per scene and surface: plane waves whose two weighted sums blend three colours, a light, and maybe an image.

    `image` is an index into the user's textures, -1 for none; `image_size` is the side of its square in metres.
    """

    frequency: Float[Tensor, "B S M 3"]  # radians per metre
    phase: Float[Tensor, "B S M"]
    amplitude: Float[Tensor, "B S 2 M"]
    palette: Float[Tensor, "B S 3 3"]
    light: Float[Tensor, "B S 3"]  # unit, in the frame of the surface
    image: Int[Tensor, "B S"]
    image_size: Float[Tensor, "B S"]

    def __getitem__(self, scenes: slice | Tensor) -> "Surfaces":
        return Surfaces(**{name: getattr(self, name)[scenes] for name in self.__dataclass_fields__})


def colour_of(
    shapes: Shapes,
    surfaces: Surfaces,
    rays: Float[Tensor, "B N R 2"],
    depth: Float[Tensor, "B N R"],
    identity: Int[Tensor, "B N R"],
    pixel: Float[Tensor, "B"],
    textures: tuple[Float[Tensor, "3 _ _"], ...] = (),
) -> Float[Tensor, "B N R 3"]:
    """The colour in [0, 1] of hits found by `cast`. `pixel` is the angle of one pixel, for the band limit."""
    at_once = max(1, PIXELS_AT_ONCE // (rays.shape[1] * rays.shape[2]))
    pyramids = tuple(_pyramid(texture) for texture in textures)
    parts = []
    for first in range(0, len(rays), at_once):
        part = slice(first, first + at_once)
        parts.append(
            _colour(shapes[part], surfaces[part], rays[part], depth[part], identity[part], pixel[part], pyramids)
        )
    return torch.cat(parts)


def _colour(
    shapes: Shapes, surfaces: Surfaces, rays: Tensor, depth: Tensor, identity: Tensor, pixel: Tensor, pyramids: tuple
) -> Tensor:
    point, ray = _in_own_frame(shapes, rays, depth, identity)
    normal, surface = _normals(shapes, point, identity)
    slant = (F.normalize(ray, dim=-1) * normal).sum(-1).abs().clamp_min(0.2)
    footprint = torch.where(identity == SKY, 1.0, depth) * pixel[:, None, None] / slant
    scenes = torch.arange(len(rays), device=rays.device).view(-1, 1, 1)
    index = (scenes * SURFACES + surface).flatten()
    colour = _solid(surfaces, index, point.flatten(0, 2), footprint.flatten())
    if pyramids:
        colour = _images(
            surfaces, index, colour, point.flatten(0, 2), normal.flatten(0, 2), footprint.flatten(), pyramids
        )
    light = surfaces.light.flatten(0, 1)[index]
    shade = AMBIENT + (1 - AMBIENT) * (normal.flatten(0, 2) * light).sum(-1).clamp_min(0)
    colour = (colour * shade[:, None]).view(*depth.shape, 3)
    up = -(shapes.world_from_camera[:, :, None, 1, :2] * rays).sum(-1) - shapes.world_from_camera[:, :, None, 1, 2]
    sky = torch.stack([0.75 - 0.25 * up, 0.85 - 0.12 * up, torch.full_like(up, 0.95)], dim=-1).clamp(0.3, 1)
    return torch.where((identity == SKY)[..., None], sky, colour)


def _in_own_frame(shapes: Shapes, rays: Tensor, depth: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    """Hit points in metres and ray directions in the frame of what was hit: the world's, or a moving object's own."""
    world = shapes.world_from_camera[:, :, None]
    frames = torch.cat([world, invert(shapes.world_from_object) @ world], dim=2)  # (B, N, 1 + K, 4, 4)
    chosen = (
        frames[..., :3, :].flatten(-2).take_along_dim(identity.clamp_min(0)[..., None], dim=2).unflatten(-1, (3, 4))
    )
    direction = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1)
    ray = (chosen[..., :3] * direction[..., None, :]).sum(-1)
    finite = torch.where(depth.isinf(), 1.0, depth)
    return chosen[..., 3] + finite[..., None] * ray, ray


def _normals(shapes: Shapes, point: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    """Unit outward normals in the frame of what was hit, and the index of its surface."""
    k = (identity - 1).clamp_min(0)
    half = shapes.half[:, None].expand(-1, point.shape[1], -1, -1).take_along_dim(k[..., None], dim=2)
    unit = point / half
    box = F.one_hot(unit.abs().argmax(-1), 3) * unit.sign()
    round_ = F.normalize(unit / half, dim=-1)
    side = F.normalize(unit / half * unit.new_tensor([1.0, 0.0, 1.0]), dim=-1)
    cap = unit[..., 1].abs() > unit[..., ::2].norm(dim=-1)
    top = torch.stack(
        [torch.zeros_like(cap, dtype=unit.dtype), unit[..., 1].sign(), torch.zeros_like(unit[..., 1])], -1
    )
    kinds = torch.tensor([("box", "ellipsoid", "cylinder").index(shape) for shape in SHAPES], device=point.device)[k]
    normal = torch.where((kinds == 1)[..., None], round_, torch.where(cap[..., None], top, side))
    normal = torch.where((kinds == 0)[..., None], box.to(unit.dtype), normal)

    inside = (point - shapes.room_centre[:, None, None]) / shapes.room_half[:, None, None]
    axis = inside.abs().argmax(-1)
    positive = inside.take_along_dim(axis[..., None], dim=-1)[..., 0] > 0
    wall = -F.one_hot(axis, 3) * torch.where(positive, 1.0, -1.0)[..., None]
    # The floor (+y, down) is face 0, as the ground is.
    face = torch.where((axis == 1) & positive, 0, torch.where(axis == 1, 1, 2 + (axis // 2) * 2 + positive.long()))
    outdoor = shapes.outdoor[:, None, None]
    if shapes.outdoor.any():
        wall = torch.where(outdoor[..., None], _ground_normals(shapes, point), wall)
        face = torch.where(outdoor, 0, face)
    background = identity <= 0
    return torch.where(background[..., None], wall, normal), torch.where(background, face, FACES + k)


def _ground_normals(shapes: Shapes, point: Tensor) -> Tensor:
    kx, kz, phase, amplitude = (w[:, :, None, None] for w in shapes.ground_waves.unbind(-1))
    slope = amplitude * torch.cos(kx * point[:, None, ..., 0] + kz * point[:, None, ..., 2] + phase)
    gradient = torch.stack([(slope * kx).sum(1), -torch.ones_like(point[..., 0]), (slope * kz).sum(1)], dim=-1)
    return F.normalize(gradient, dim=-1)


def _solid(surfaces: Surfaces, index: Tensor, point: Tensor, footprint: Tensor) -> Tensor:
    """Waves damped as a Gaussian of the footprint would, summed twice, squashed, and used to blend three colours."""
    frequency = surfaces.frequency.flatten(0, 1)
    damping = -0.5 * (0.5 * footprint[:, None] * frequency.norm(dim=-1)[index]).square()
    waves = torch.sin((frequency[index] * point[:, None]).sum(-1) + surfaces.phase.flatten(0, 1)[index])
    sums = (surfaces.amplitude.flatten(0, 1)[index] * (waves * damping.exp())[:, None]).sum(-1)
    mix = torch.sigmoid(sums)
    first, second, third = surfaces.palette.flatten(0, 1)[index].unbind(1)
    colour = torch.lerp(first, second, mix[:, :1])
    return torch.lerp(colour, third, mix[:, 1:])


def _pyramid(texture: Tensor) -> tuple[Tensor, ...]:
    levels = [texture[None]]
    while min(levels[-1].shape[-2:]) > 1:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return tuple(levels)


def _images(
    surfaces: Surfaces, index: Tensor, colour: Tensor, point: Tensor, normal: Tensor, footprint: Tensor, pyramids: tuple
) -> Tensor:
    """The colour of surfaces that carry an image, laid on along their dominant axis and mirrored at its borders."""
    which, size = surfaces.image.flatten()[index], surfaces.image_size.flatten()[index]
    axis = normal.abs().argmax(-1)
    u = torch.where(axis == 0, point[:, 2], point[:, 0]) / size
    v = torch.where(axis == 1, point[:, 2], point[:, 1]) / size
    for number, levels in enumerate(pyramids):
        chosen = (which == number).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        level = (
            (footprint[chosen] / size[chosen] * levels[0].shape[-1]).clamp_min(1).log2().clamp_max(len(levels) - 1.001)
        )
        grid = (
            4
            * (torch.stack([u, v], dim=-1)[chosen] / 2 - (torch.stack([u, v], dim=-1)[chosen] / 2 + 0.5).floor()).abs()
            - 1
        )
        low = level.floor().long()
        looked_up = torch.stack(
            [F.grid_sample(l, grid[None, None], padding_mode="border", align_corners=False)[0, :, 0].T for l in levels]
        )
        rows = torch.arange(len(chosen), device=point.device)
        blended = torch.lerp(looked_up[low, rows], looked_up[low + 1, rows], (level - low)[:, None])
        colour = colour.index_put((chosen,), blended.to(colour.dtype))
    return colour
