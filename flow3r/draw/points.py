"""Coloured points as a camera sees them: a depth buffer in software, on the device of the points."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.geometry.camera import centred_intrinsics, project, transform_intrinsics
from flow3r.geometry.se3 import from_parts, invert, transform_points

NEAREST = 1e-6  # of the points' unit: what is nearer to the camera, or behind it, is not drawn
MEAN_UP = 0.02  # ours: right hands of equal cameras, with up to 8 degrees (root mean square) of roll, do not count
WIDER = 1.5  # ours: by how much an orbit is widened for cameras that lie outside the points
LARGEST_SIDE = 64.0  # pixels, ours: a point next to the camera covers no more than this
NO_POINT = torch.iinfo(torch.int64).max


def nearest_points(
    points: Float[Tensor, "n 3"],
    world_from_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
    side: float = 1.0,
    diameter: Float[Tensor, "n"] | None = None,
) -> Int[Tensor, "H W"]:
    """For every pixel the number of the nearest point that covers it, -1 where none does.

    A point covers the pixels whose centres lie in a square around its exact projection, so that a square of one pixel
    covers exactly the pixel it falls into. The square's side is `side` pixels or, if that is more, `diameter` (a length
    in the points' unit) at the point's depth. Points that are not finite are left out; of equally near ones the first
    is taken.
    """
    in_camera = transform_points(invert(world_from_camera), points)
    numbers = (in_camera.isfinite().all(-1) & (in_camera[:, 2] > NEAREST)).nonzero()[:, 0]
    in_camera = in_camera[numbers]
    z = in_camera[:, 2].float()
    half = torch.full_like(z, side / 2)
    if diameter is not None:
        half = (0.5 * intrinsics[0, 0] * diameter[numbers] / z).clamp(side / 2, max(LARGEST_SIDE, side) / 2).to(z)
    pixels = project(in_camera[None], intrinsics)[0]
    height, width = size
    beyond = pixels.new_tensor([width, height])
    low = (pixels - half[:, None] + 0.5).floor().clamp_min(0).minimum(beyond).long()
    high = (pixels + half[:, None] + 0.5).floor().clamp_min(0).minimum(beyond).long()
    # Positive floats are ordered as their bits are, so that one number holds the depth and, after it, the point.
    key = (z.view(torch.int32).long() << 32) | numbers
    buffer = torch.full((height * width,), NO_POINT, device=points.device)
    seen = (high > low).all(-1)
    splats = torch.cat([(low[:, 1:] * width + low[:, :1]), high - low, key[:, None]], dim=-1)[seen]
    for down in range(int(splats[:, 2].max()) if len(splats) else 0):
        splats = splats[splats[:, 2] > down] if down else splats
        row = splats
        for right in range(int(row[:, 1].max())):
            row = row[row[:, 1] > right] if right else row
            buffer.scatter_reduce_(0, row[:, 0] + (down * width + right), row[:, 3], "amin")
    return torch.where(buffer == NO_POINT, -1, buffer & 0xFFFFFFFF).view(height, width)


def draw_points(
    points: Float[Tensor, "n 3"],
    colours: Float[Tensor, "n 3"],
    world_from_camera: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    size: tuple[int, int],
    side: float = 3.0,
    diameter: Float[Tensor, "n"] | None = None,
    supersample: int = 1,
) -> Float[Tensor, "3 H W"]:
    """World points as squares, nearest in front, seen by a camera, on white; `side` and `diameter` as above.

    `supersample`: the picture is drawn so many times finer in both directions and averaged.
    """
    finer = torch.diag(intrinsics.new_tensor([supersample, supersample, 1]))
    fine_size = (supersample * size[0], supersample * size[1])
    lens = transform_intrinsics(intrinsics, finer)
    nearest = nearest_points(points, world_from_camera, lens, fine_size, supersample * side, diameter)
    return F.avg_pool2d(paint(nearest, colours), supersample)


def paint(nearest: Int[Tensor, "H W"], colours: Float[Tensor, "n 3"]) -> Float[Tensor, "3 H W"]:
    """The colours of the points that `nearest_points` found, on white."""
    drawn = nearest >= 0
    image = colours.new_ones(*nearest.shape, 3)
    image[drawn] = colours[nearest[drawn]]
    return image.movedim(-1, 0)


def points_along(segments: Float[Tensor, "n 2 3"], count: int = 128) -> Float[Tensor, "m 3"]:
    """`count` points along each of n straight lines, ends included: to be drawn among other points."""
    share = torch.linspace(0, 1, count, dtype=segments.dtype, device=segments.device)[:, None]
    return torch.lerp(segments[:, None, 0], segments[:, None, 1], share).flatten(0, 1)


def look_at(centre: Float[Tensor, "3"], target: Float[Tensor, "3"], up: Float[Tensor, "3"]) -> Float[Tensor, "4 4"]:
    """World from a camera at `centre` that has `target` in its middle and `up`, not on its line of sight, upwards."""
    forward = F.normalize(target - centre, dim=0)
    right = F.normalize(torch.linalg.cross(forward, up), dim=0)
    down = torch.linalg.cross(forward, right)
    return from_parts(torch.stack([right, down, forward], dim=-1), centre)


@dataclass(frozen=True)
class Orbit:
    """Cameras on a circle around a scene, of one lens; at azimuth 0 they look the way its own cameras do."""

    focus: Float[Tensor, "3"]
    reach: float  # radius of the ball around the focus that fills the picture
    up: Float[Tensor, "3"]  # of length 1
    forward: Float[Tensor, "3"]  # of length 1, at a right angle to `up`
    field_of_view: float = 45.0  # degrees, of the picture's shorter side

    def camera(
        self, azimuth: float, elevation: float, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "4 4"], Float[Tensor, "3 3"]]:
        """(world_from_camera, intrinsics) of a camera moved to the right by `azimuth` and up by `elevation` degrees."""
        half = math.radians(self.field_of_view) / 2
        distance = self.reach / math.sin(half)
        round_, above = math.radians(azimuth), math.radians(elevation)
        right = torch.linalg.cross(self.forward, self.up)
        level = math.sin(round_) * right - math.cos(round_) * self.forward
        centre = self.focus + distance * (math.cos(above) * level + math.sin(above) * self.up)
        focal = self.focus.new_tensor(min(size) / 2 / math.tan(half))
        return look_at(centre, self.focus, self.up), centred_intrinsics(focal, *size)

    def upright(self, up: Float[Tensor, "3"]) -> "Orbit":
        """The same with another direction upwards (of length 1)."""
        return replace(self, up=up, forward=_level(self.forward, up, torch.linalg.cross(self.forward, self.up)))

    def closer(self, factor: float) -> "Orbit":
        """The same at a distance divided by `factor`."""
        return replace(self, reach=self.reach / factor)


def orbit_of(points: Float[Tensor, "n 3"], world_from_camera: Float[Tensor, "N 4 4"], share: float = 0.9) -> Orbit:
    """An orbit around the middle of the points that shows the nearest `share` of them, and the cameras if near.

    Up is as the cameras are held. The middle lies halfway between the 5th and the 95th percentile along each of up,
    forward and right. Where directions of the cameras cancel out, it is the first one that counts.
    """
    finite = points[points.isfinite().all(-1)]
    up = upwards(world_from_camera)
    forward = _level(_mean_direction(world_from_camera[:, :3, 2]), up, world_from_camera[0, :3, 0])
    axes = torch.stack([torch.linalg.cross(forward, up), up, forward])
    ordered = (finite @ axes.T).sort(dim=0).values
    tail = int(0.05 * (len(finite) - 1))
    focus = 0.5 * (ordered[tail] + ordered[-1 - tail]) @ axes
    distance = (finite - focus).norm(dim=-1).sort().values
    reach = float(distance[math.ceil(share * (len(distance) - 1))])
    cameras = float((world_from_camera[:, :3, 3] - focus).norm(dim=-1).max())
    reach = max(reach, min(cameras, WIDER * reach))
    return Orbit(focus, max(reach, NEAREST), up, forward)


def _level(forward: Float[Tensor, "3"], up: Float[Tensor, "3"], right: Float[Tensor, "3"]) -> Float[Tensor, "3"]:
    """`forward` without its part along `up`; where that is all of it, what is forward to one that has `right` there."""
    level = forward - (forward @ up) * up
    if level.norm() < 0.1:  # ours
        level = torch.linalg.cross(up, right - (right @ up) * up)
    return F.normalize(level, dim=0)


def upwards(world_from_camera: Float[Tensor, "N 4 4"]) -> Float[Tensor, "3"]:
    """Up in the world, for cameras that are held level but may all look down: at a right angle to their right hands.

    As far as those differ; otherwise the cameras' mean up.
    """
    up, right = _mean_direction(-world_from_camera[:, :3, 1]), world_from_camera[:, :3, 0]
    slope = right.T @ right / len(right) - MEAN_UP * up[:, None] * up
    level = torch.linalg.eigh(slope).eigenvectors[:, 0]
    return torch.where(level @ up < 0, -level, level)


def _mean_direction(directions: Float[Tensor, "N 3"]) -> Float[Tensor, "3"]:
    mean = directions.mean(0)
    return F.normalize(mean if mean.norm() > 0.1 else directions[0], dim=0)
