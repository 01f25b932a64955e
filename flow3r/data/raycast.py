"""Exact first hits of rays with a procedural scene: a room seen from inside or a gentle ground, and convex objects."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow3r.geometry.se3 import invert
from flow3r.types import OnDevice

SHAPES = ("box", "ellipsoid", "cylinder", "box", "ellipsoid", "box")  # of the object slots, K = 6
NEAREST = 1e-3  # least depth of a hit, in metres
FARTHEST = 80.0  # where the ground ends and the sky begins
SKY, BACKGROUND = -1, 0  # identities of a hit; objects are 1..K
GROUND_STEPS, GROUND_REFINEMENTS = 22, 10
RAYS_AT_ONCE = 200_000  # keeps a chunk's temporaries in the cache


@dataclass(frozen=True)
class Shapes(OnDevice):
    """The geometry of B scenes in N views, in metres, world y down. Objects may move from view to view."""

    outdoor: Bool[Tensor, "B"]
    room_centre: Float[Tensor, "B 3"]
    room_half: Float[Tensor, "B 3"]
    ground_waves: Float[Tensor, "B G 4"]  # (kx, kz, phase, amplitude): height y = Σ a sin(kx x + kz z + φ)
    present: Bool[Tensor, "B K"]
    half: Float[Tensor, "B K 3"]  # half extents of each object
    world_from_object: Float[Tensor, "B N K 4 4"]
    world_from_camera: Float[Tensor, "B N 4 4"]

    def __getitem__(self, scenes: slice | Tensor) -> "Shapes":
        return Shapes(**{name: getattr(self, name)[scenes] for name in self.__dataclass_fields__})


def cast(shapes: Shapes, rays: Float[Tensor, "B N R 2"]) -> tuple[Float[Tensor, "B N R"], Int[Tensor, "B N R"]]:
    """Depth z and identity of the first thing along camera rays (x, y, 1); the sky has depth infinity."""
    scenes_at_once = max(1, RAYS_AT_ONCE // (rays.shape[1] * rays.shape[2]))
    parts = [
        _cast(shapes[first : first + scenes_at_once], rays[first : first + scenes_at_once])
        for first in range(0, len(rays), scenes_at_once)
    ]
    return torch.cat([depth for depth, _ in parts]), torch.cat([identity for _, identity in parts])


def _cast(shapes: Shapes, rays: Tensor) -> tuple[Tensor, Tensor]:
    x, y = rays.unbind(-1)
    rotation, origin = shapes.world_from_camera[..., :3, :3], shapes.world_from_camera[..., :3, 3]
    direction = _directions(rotation, x, y)
    depth = _room(shapes, origin, direction)
    identity = torch.zeros_like(depth, dtype=torch.long)
    if shapes.outdoor.any():
        ground = ground_depth(shapes.ground_waves, origin, direction)
        depth = torch.where(shapes.outdoor[:, None, None], ground, depth)
        identity = torch.where(depth.isinf(), SKY, identity)
    object_from_camera = invert(shapes.world_from_object) @ shapes.world_from_camera[:, :, None]
    unit = object_from_camera[..., :3, :] / shapes.half[:, None, :, :, None]  # into the frame of the unit primitive
    for k, shape in enumerate(SHAPES):
        start, turn = unit[:, :, k, :, 3, None], unit[:, :, k, :, :3]
        near, far = _CONVEX[shape](start.unbind(2), _directions(turn, x, y))
        hit = (near < far) & (near > NEAREST) & (near < depth) & shapes.present[:, k, None, None]
        depth = torch.where(hit, near, depth)
        identity = torch.where(hit, k + 1, identity)
    return depth, identity


def _directions(matrix: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three components of matrix · (x, y, 1)."""
    m = matrix[..., None]
    return tuple(m[:, :, row, 0] * x + m[:, :, row, 1] * y + m[:, :, row, 2] for row in range(3))


def _slab(start: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and exit of |start + t direction| <= 1 along one axis."""
    inverse = 1 / torch.where(direction.abs() < 1e-9, 1e-9, direction)
    middle, half = -start * inverse, inverse.abs()
    return middle - half, middle + half


def _disc(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of a t² + 2 b t + c, near > far where there are none."""
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    near, far = (-b - root) / a, (-b + root) / a
    return torch.where(discriminant > 0, near, torch.inf), far


def _box(start: tuple[Tensor, ...], direction: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    near, far = _slab(start[0], direction[0])
    for axis in (1, 2):
        enter, leave = _slab(start[axis], direction[axis])
        near, far = torch.maximum(near, enter), torch.minimum(far, leave)
    return near, far


def _ellipsoid(start: tuple[Tensor, ...], direction: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    a, b, c = (sum(p * q for p, q in zip(u, v, strict=True)) for u, v in _products(start, direction))
    return _disc(a, b, c - 1)


def _cylinder(start: tuple[Tensor, ...], direction: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Upright: radius 1 around the y axis, |y| <= 1."""
    ring = _products(start[::2], direction[::2])
    a, b, c = (sum(p * q for p, q in zip(u, v, strict=True)) for u, v in ring)
    near, far = _disc(a.clamp_min(1e-12), b, c - 1)
    enter, leave = _slab(start[1], direction[1])
    return torch.maximum(near, enter), torch.minimum(far, leave)


def _products(start: tuple[Tensor, ...], direction: tuple[Tensor, ...]) -> tuple[tuple, tuple, tuple]:
    return (direction, direction), (start, direction), (start, start)


_CONVEX = {"box": _box, "ellipsoid": _ellipsoid, "cylinder": _cylinder}


def _room(shapes: Shapes, origin: Tensor, direction: tuple[Tensor, ...]) -> Tensor:
    start = (origin - shapes.room_centre[:, None]) / shapes.room_half[:, None]
    scaled = tuple(d / shapes.room_half[:, None, axis, None] for axis, d in enumerate(direction))
    return _box(start[..., None].unbind(2), scaled)[1]


def ground_height(waves: Float[Tensor, "B G 4"], x: Float[Tensor, "B *r"], z: Float[Tensor, "B *r"]) -> Tensor:
    """The ground's world y at (x, z)."""
    kx, kz, phase, amplitude = (w.view(*w.shape, *[1] * (x.ndim - 1)) for w in waves.unbind(-1))
    return (amplitude * torch.sin(kx * x[:, None] + kz * z[:, None] + phase)).sum(1)


def ground_depth(waves: Tensor, origin: Tensor, direction: tuple[Tensor, ...]) -> Tensor:
    """Depth at which rays from above first reach the ground: marched geometrically, then bisected; else infinity."""
    ox, oy, oz = origin[..., None].unbind(2)
    dx, dy, dz = direction

    def below(t: Tensor) -> Tensor:
        return oy + t * dy > ground_height(waves, ox + t * dx, oz + t * dz)

    ratio = (FARTHEST / 0.2) ** (1 / GROUND_STEPS)
    low = torch.full_like(dx, 0.0)
    high = torch.full_like(dx, torch.inf)
    for step in range(1, GROUND_STEPS + 1):
        t = torch.full_like(dx, 0.2 * ratio**step)
        found = below(t) & high.isinf()
        high = torch.where(found, t, high)
        low = torch.where(high.isinf(), t, low)
    reached = high.isfinite()
    high = torch.where(reached, high, low)
    for _ in range(GROUND_REFINEMENTS):
        middle = 0.5 * (low + high)
        under = below(middle)
        low, high = torch.where(under, low, middle), torch.where(under, middle, high)
    return torch.where(reached, 0.5 * (low + high), torch.inf)
