"""The distribution of procedural scenes: what stands where, how it looks, how camera and objects move.

World y points down; the floor of a room is y = 0. All random numbers of a scene come from its own seed.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from flow3r.config import WorldsConfig
from flow3r.data.raycast import SHAPES, Shapes, ground_height
from flow3r.data.surfaces import FACES, SURFACES, WAVES, Surfaces
from flow3r.geometry.camera import centred_intrinsics
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle
from flow3r.types import OnDevice

OBJECTS = len(SHAPES)
CLEARANCE = 0.25  # metres kept between cameras and things
EASY_ROTATION_DEGREES = (4.0, 20.0)  # at difficulty 0: a token or two, where matching is learnt first
HELD_OUT_ROTATION_DEGREES = (10.0, 120.0)


@dataclass(frozen=True)
class Scenes(OnDevice):
    """B scenes: geometry, look and lens."""

    shapes: Shapes
    surfaces: Surfaces
    intrinsics: Float[Tensor, "B 3 3"]


class Draws:
    """Random numbers of many scenes side by side, each row from the stream of its own seed."""

    def __init__(self, seeds: Sequence[int], attempts: int):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.attempts = attempts

    def uniform(self, low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
        """(seeds · attempts, *shape), uniform in [low, high)."""
        rows = [torch.rand(self.attempts, *shape, generator=generator) for generator in self.generators]
        return low + (high - low) * torch.cat(rows)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in the logarithm."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def direction(self, *shape: int) -> Tensor:
        """Unit vectors, uniform on the sphere."""
        z, angle = self.uniform(-1, 1, *shape), self.uniform(0, 2 * math.pi, *shape)
        ring = (1 - z * z).clamp_min(0).sqrt()
        return torch.stack([ring * angle.cos(), ring * angle.sin(), z], dim=-1)


def draw_scenes(
    seeds: Sequence[int],
    views: int,
    size: tuple[int, int],
    config: WorldsConfig,
    difficulty: float,
    attempts: int = 1,
    textures: int = 0,
) -> Scenes:
    """Scenes for `attempts` draws of every seed (row = seed · attempts + attempt), for images of `size` (H, W)."""
    draws = Draws(seeds, attempts)
    rows = len(seeds) * attempts
    outdoor = draws.uniform(0, 1) < config.outdoor_share
    half = torch.stack([draws.uniform(1.8, 5), draws.uniform(1.2, 1.9), draws.uniform(1.8, 5)], dim=-1)
    centre = torch.stack([torch.zeros(rows), -half[:, 1], torch.zeros(rows)], dim=-1)
    wavelength = draws.log_uniform(4, 16, 3)
    heading = draws.uniform(0, 2 * math.pi, 3)
    waves = torch.stack(
        [
            2 * math.pi / wavelength * heading.cos(),
            2 * math.pi / wavelength * heading.sin(),
            draws.uniform(0, 2 * math.pi, 3),
            wavelength * draws.uniform(0.002, 0.025, 3),
        ],
        dim=-1,
    )
    target, distance = _target(draws, outdoor, half, waves)
    poses = _cameras(draws, views, config, difficulty, outdoor, half, waves, target, distance)
    present, object_half, world_from_object = _objects(
        draws, views, config, difficulty, outdoor, half, waves, target, distance, poses
    )
    shapes = Shapes(outdoor, centre, half, waves, present, object_half, world_from_object, poses)
    surfaces, lens = _surfaces(draws, object_half, difficulty), _lens(draws, size, config)
    if textures:  # drawn last, so that images change nothing else of a scene
        surfaces = dataclasses.replace(surfaces, image=_images(draws, textures))
    return Scenes(shapes, surfaces, lens)


def _lens(draws: Draws, size: tuple[int, int], config: WorldsConfig) -> Tensor:
    """Square pixels, centred, horizontal field of view as configured, the vertical one at most 100 degrees."""
    height, width = size
    across = torch.deg2rad(draws.uniform(*config.fov_degrees))
    focal = torch.maximum(width / 2 / (across / 2).tan(), torch.tensor(height / 2 / math.tan(math.radians(50))))
    return centred_intrinsics(focal, height, width)


def _target(draws: Draws, outdoor: Tensor, half: Tensor, waves: Tensor) -> tuple[Tensor, Tensor]:
    """The point that cameras look at, and their distance from it."""
    x, z = draws.uniform(-0.35, 0.35) * half[:, 0], draws.uniform(-0.35, 0.35) * half[:, 2]
    y = -draws.uniform(0.1, 0.9) * torch.where(outdoor, 1.0, half[:, 1])
    y = y + torch.where(outdoor, ground_height(waves, x[:, None], z[:, None])[:, 0], 0.0)
    indoors = draws.uniform(0.4, 0.95) * torch.minimum(half[:, 0], half[:, 2])
    return torch.stack([x, y, z], dim=-1), torch.where(outdoor, draws.log_uniform(1.5, 7), indoors)


def _cameras(
    draws: Draws,
    views: int,
    config: WorldsConfig,
    difficulty: float,
    outdoor: Tensor,
    half: Tensor,
    waves: Tensor,
    target: Tensor,
    distance: Tensor,
) -> Tensor:
    """Hand-held paths: an orbit about the target, a pan, a shift and tremor, in the order of time."""
    turn, orbit_share = _turns(draws, views, config, difficulty)
    orbit, pan = turn * orbit_share, turn * (1 - orbit_share)
    azimuth = draws.uniform(0, 2 * math.pi, 1) + orbit
    elevation = draws.uniform(0.05, 0.5, 1) + 0.15 * orbit * draws.uniform(-1, 1, 1)
    outward = torch.stack([azimuth.sin() * elevation.cos(), -elevation.sin(), azimuth.cos() * elevation.cos()], dim=-1)
    step = torch.linspace(-0.5, 0.5, views) if views > 1 else torch.zeros(1)
    reach = draws.log_uniform(0.01, 0.1 + 0.4 * difficulty, 1, 1) * distance[:, None, None]
    shift = reach * step[:, None] * draws.direction(1)
    tremor = 0.004 * distance[:, None, None] * draws.uniform(-1, 1, views, 3)
    centre = target[:, None] + distance[:, None, None] * outward + shift + tremor
    centre = _keep_free(centre, outdoor, half, waves)

    forward = F.normalize(target[:, None] - centre, dim=-1)
    down = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = F.normalize(torch.linalg.cross(down, forward, dim=-1), dim=-1)
    looking = torch.stack([right, torch.linalg.cross(forward, right, dim=-1), forward], dim=-1)
    shake = torch.deg2rad(draws.uniform(-0.4, 0.4, views, 3))
    off_centre = torch.deg2rad(draws.uniform(-8, 8, 1, 2))
    roll = torch.deg2rad(draws.uniform(-6, 6, 1)) + 0.05 * turn * draws.uniform(-1, 1, 1)
    extra = torch.stack([off_centre[..., 0] + 0.1 * pan, off_centre[..., 1] + pan, roll], dim=-1) + shake
    return from_parts(looking @ rotation_from_axis_angle(extra), centre)


def _turns(draws: Draws, views: int, config: WorldsConfig, difficulty: float) -> tuple[Tensor, Tensor]:
    """Angles (radians) of every view along the path, and the share of them that orbits rather than pans.

    Training: the outermost views are a log-uniform angle apart. Held out: consecutive views are 10-120 degrees apart,
    uniformly, to and fro about the front, and orbit, since a pan that wide would leave nothing in common.
    """
    if config.held_out:
        steps = torch.deg2rad(draws.uniform(*HELD_OUT_ROTATION_DEGREES, views))
        angle = [torch.deg2rad(draws.uniform(-60, 60))]
        for view in range(1, views):
            here = angle[-1]
            angle.append(torch.where(here > 0, here - steps[:, view], here + steps[:, view]))
        return torch.stack(angle, dim=1), draws.uniform(0.95, 1.0, 1)
    low, high = (
        math.exp((1 - difficulty) * math.log(easy) + difficulty * math.log(full))
        for easy, full in zip(EASY_ROTATION_DEGREES, config.rotation_degrees, strict=True)
    )
    widest = torch.deg2rad(draws.log_uniform(low, high, 1))
    step = torch.linspace(-0.5, 0.5, views) if views > 1 else torch.zeros(1)
    uneven = step + 0.5 / max(views, 2) * draws.uniform(-0.5, 0.5, views)
    wide = (widest / math.radians(40)).clamp(0, 1)  # wide turns orbit, or nothing would stay in sight
    side = torch.where(draws.uniform(-1, 1, 1) > 0, 1.0, -1.0)
    return side * widest * uneven, torch.maximum(draws.uniform(0, 1, 1), 0.85 * wide)


def _keep_free(centre: Tensor, outdoor: Tensor, half: Tensor, waves: Tensor) -> Tensor:
    """Camera centres moved inside the room, or above the ground, by the clearance."""
    x, y, z = centre.unbind(-1)
    limit_x, limit_z = half[:, None, 0] - CLEARANCE, half[:, None, 2] - CLEARANCE
    in_x, in_z = x.clamp(-limit_x, limit_x), z.clamp(-limit_z, limit_z)
    in_y = torch.minimum(torch.maximum(y, -2 * half[:, None, 1] + CLEARANCE), torch.tensor(-CLEARANCE))
    indoors = torch.stack([in_x, in_y, in_z], dim=-1)
    above = torch.minimum(y, ground_height(waves, x, z) - 2 * CLEARANCE)
    return torch.where(outdoor[:, None, None], torch.stack([x, above, z], dim=-1), indoors)


def _objects(
    draws: Draws,
    views: int,
    config: WorldsConfig,
    difficulty: float,
    outdoor: Tensor,
    half: Tensor,
    waves: Tensor,
    target: Tensor,
    distance: Tensor,
    poses: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Objects on the floor around the target, some moving; those that a camera comes too close to are left out."""
    size = distance[:, None, None] * draws.log_uniform(0.07, 0.28, OBJECTS, 3)
    away = distance[:, None] * draws.uniform(0.05, 0.75, OBJECTS)
    around = draws.uniform(0, 2 * math.pi, OBJECTS)
    x, z = target[:, :1] + away * around.cos(), target[:, 2:] + away * around.sin()

    moving = (draws.uniform(0, 1, 1) < config.moving_share) & (draws.uniform(0, 1, OBJECTS) < 0.5)
    moving = moving & torch.tensor(difficulty > 0.3)
    step = torch.linspace(-0.5, 0.5, views) if views > 1 else torch.zeros(1)
    travel = torch.where(moving, draws.log_uniform(0.01, 0.5, OBJECTS) * distance[:, None], 0.0)[..., None] * step
    heading = draws.uniform(0, 2 * math.pi, OBJECTS)[..., None]
    spin = torch.where(moving, torch.deg2rad(draws.uniform(-60, 60, OBJECTS)), 0.0)[..., None] * step
    x, z = x[..., None] + travel * heading.cos(), z[..., None] + travel * heading.sin()  # (rows, K, N)

    floor = torch.where(outdoor[:, None, None], ground_height(waves, x[..., :1], z[..., :1]), 0.0)
    lift = torch.where(draws.uniform(0, 1, OBJECTS) < 0.25, draws.uniform(0, 0.5, OBJECTS) * distance[:, None], 0.0)
    y = (floor - 0.97 * size[..., 1:2] - lift[..., None]).expand_as(x)
    centre = torch.stack([x, y, z], dim=-1)
    turn = draws.uniform(0, 2 * math.pi, OBJECTS)[..., None] + spin
    lean = torch.where((lift > 0)[..., None], draws.uniform(-0.6, 0.6, OBJECTS, 1), 0.0).expand_as(turn)
    rotation = rotation_from_axis_angle(torch.stack([lean, turn, torch.zeros_like(turn)], dim=-1))
    radius = size.norm(dim=-1)
    gap = (centre[:, :, :, None] - poses[:, None, None, :, :3, 3]).norm(dim=-1).amin(dim=(2, 3))
    few = draws.uniform(0, 1, OBJECTS) < 0.45 + 0.45 * difficulty
    present = few & (gap > radius + CLEARANCE)
    return present, size, from_parts(rotation, centre).transpose(1, 2)


def _surfaces(draws: Draws, object_half: Tensor, difficulty: float) -> Surfaces:
    """Textures from a few soft blobs that never repeat (difficulty 0) to fine and repetitive patterns among them."""
    rows = len(object_half)
    extent = torch.cat([torch.full((rows, FACES), 2.2), 2.5 * object_half.mean(-1)], dim=1)  # metres of one blob
    direction = draws.direction(SURFACES, WAVES)
    octave = draws.uniform(0, 1, SURFACES, WAVES) * (0.8 + 1.8 * difficulty)
    octave[..., 0] = 0.0
    repeats = draws.uniform(0, 1, SURFACES) < 0.45 * difficulty
    pattern = torch.cat([direction[..., :2, :], torch.zeros(rows, SURFACES, WAVES - 2, 3)], dim=2)
    fine = draws.uniform(1.5, 3.2, SURFACES)
    octave = torch.where(repeats[..., None], fine[..., None].expand_as(octave), octave)
    direction = torch.where(repeats[..., None, None], pattern, direction)
    frequency = direction * (2 * math.pi / extent[..., None] * torch.exp2(octave))[..., None]
    strength = torch.exp2(-0.45 * octave)[..., None, :] * draws.uniform(-1, 1, SURFACES, 2, WAVES)
    strength = strength / strength.norm(dim=-1, keepdim=True) * draws.uniform(3, 9, SURFACES, 2, 1)
    light = draws.direction(SURFACES)
    return Surfaces(
        frequency=frequency,
        phase=draws.uniform(0, 2 * math.pi, SURFACES, WAVES),
        amplitude=strength,
        palette=_palette(draws),
        light=light,
        image=torch.full((rows, SURFACES), -1),
        image_size=extent * draws.uniform(0.6, 1.6, SURFACES),
    )


def _images(draws: Draws, textures: int) -> Tensor:
    """Which of the user's textures each surface wears; half of them wear none (-1)."""
    worn = draws.uniform(0, 1, SURFACES) < 0.5
    return torch.where(worn, draws.uniform(0, textures, SURFACES).long().clamp_max(textures - 1), -1)


def _palette(draws: Draws) -> Tensor:
    """Three colours a surface, around one of its own, far enough apart to be told from each other."""
    base = draws.uniform(0.15, 0.85, SURFACES, 1, 3)
    return (base + draws.uniform(-0.45, 0.45, SURFACES, 3, 3)).clamp(0.02, 0.98)
