"""The distribution of scenes: rooms and grounds, the solids in them, and how everything looks. All numbers are ours."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from flow3r.config import WorldsConfig
from flow3r.data.draws import Draws
from flow3r.data.paths import any_rotation, choose_paths, lens
from flow3r.data.raycast import FACES, FAR, FLOOR_FACE, SLOTS, SOLIDS, ground_height
from flow3r.data.scenes import Scenes
from flow3r.data.surfaces import BASE_FEATURES, BASES, DETAILS, Look
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle

_WAVES = 3
_IMAGE_SHARE = 0.5  # surfaces that show a user's image, where there are any
# Two axes of a face's pattern by the axis of its normal: x, y, z.
_FACE_AXES = ((2, 1), (0, 2), (0, 1))


def draw_scenes(
    seeds: Sequence[int],
    views: int,
    size: tuple[int, int],
    config: WorldsConfig,
    difficulty: float,
    device: torch.device | str = "cpu",
) -> Scenes:
    """One scene per seed, with its cameras for images of `size` (H, W), but without its look."""
    draws = Draws(seeds, purpose=0, device=device)
    scenes, reach = _empty(draws, views, config)
    scenes = _furnished(draws, scenes, reach, config, difficulty)
    scenes = Scenes(**{**scenes.__dict__, "intrinsics": lens(draws, size, config)})
    return choose_paths(draws, scenes, reach, config, difficulty)


def _empty(draws: Draws, views: int, config: WorldsConfig) -> tuple[Scenes, Float[Tensor, "B"]]:
    """Rooms and open grounds without anything in them, and the distance at which each is looked at."""
    batch, device = len(draws.state), draws.state.device
    outdoors = draws.chance(config.outdoor_share)
    half = draws.uniform(1.8, 4.5, 2)
    height = draws.uniform(2.3, 3.6)
    low = torch.stack([-half[:, 0], -height, -half[:, 1]], dim=-1)
    high = torch.stack([half[:, 0], torch.zeros_like(height), half[:, 1]], dim=-1)
    low = torch.where(outdoors[:, None], -FAR, low)
    high = torch.where(outdoors[:, None], torch.tensor([FAR, 0.0, FAR], device=device), high)

    hilly = outdoors & draws.chance(0.6)
    length = draws.log_uniform(4, 20, _WAVES)
    heading = draws.uniform(0, 2 * math.pi, _WAVES)
    steepness = draws.uniform(0.02, 0.15, _WAVES) * hilly[:, None]
    number = 2 * math.pi / length
    waves = torch.stack(
        [steepness / number, number * heading.cos(), number * heading.sin(), draws.uniform(0, 2 * math.pi, _WAVES)], -1
    )
    away = draws.log_uniform(2.0, 7.0)
    reach = torch.where(outdoors, away, 0.7 * half.amin(1))
    light = F.normalize(draws.normal(3) + torch.tensor([0.0, -1.5, 0.0], device=device), dim=-1)  # mostly from above
    still = torch.eye(4, device=device)
    scenes = Scenes(
        low=low,
        high=high,
        outdoors=outdoors,
        waves=waves,
        half=torch.ones(batch, SOLIDS, 3, device=device),
        active=torch.zeros(batch, SOLIDS, dtype=torch.bool, device=device),
        moves=torch.zeros(batch, SOLIDS, dtype=torch.bool, device=device),
        world_from_solid=still.expand(batch, views, SOLIDS, 4, 4),
        light=light,
        world_from_camera=still.expand(batch, views, 4, 4),
        intrinsics=torch.eye(3, device=device).expand(batch, 3, 3),
    )
    return scenes, reach


def _furnished(draws: Draws, scenes: Scenes, reach: Tensor, config: WorldsConfig, difficulty: float) -> Scenes:
    """Solids on the ground, some raised or tilted, some on the move, within sight of the middle."""
    views = scenes.world_from_camera.shape[1]
    device = reach.device
    active = draws.chance(0.45 + 0.4 * difficulty, SOLIDS)
    extent = draws.log_uniform(0.07, 0.24, SOLIDS, 1) * draws.log_uniform(0.6, 1.7, SOLIDS, 3) * reach[:, None, None]
    round_from = SLOTS[0] + SLOTS[1]
    extent[:, round_from:, 2] = extent[:, round_from:, 0]
    tall = torch.where(draws.chance(0.25, SOLIDS), draws.uniform(1.2, 2.5, SOLIDS), 1.0)
    extent = extent * torch.stack([torch.ones_like(tall), tall, torch.ones_like(tall)], dim=-1)

    radius, around = reach[:, None] * draws.uniform(0.1, 1.1, SOLIDS), draws.uniform(0, 2 * math.pi, SOLIDS)
    raised = draws.chance(0.25, SOLIDS)
    lift = torch.where(raised, draws.uniform(0.1, 0.6, SOLIDS) * reach[:, None], 0.0)
    turn = draws.uniform(0, 2 * math.pi, SOLIDS)
    upright = rotation_from_axis_angle(_about_gravity(turn))
    rest = torch.where(raised[..., None, None], any_rotation(draws, SOLIDS), upright)

    share = config.moving_share * min(1.0, 2 * difficulty)
    moves = active & draws.chance(share)[:, None] & draws.chance(0.5, SOLIDS)
    step = (torch.arange(views, device=device) / max(views - 1, 1))[None, :, None] - 0.5
    travel = moves * draws.log_uniform(0.02, 0.5, SOLIDS) * reach[:, None]
    heading = draws.uniform(0, 2 * math.pi, SOLIDS)
    x = (radius * around.cos())[:, None] + (travel * heading.cos())[:, None] * step
    z = (radius * around.sin())[:, None] + (travel * heading.sin())[:, None] * step
    wall_x, _, wall_z = (scenes.high - 0.1)[:, None, None].unbind(-1)
    x, z = torch.minimum(torch.maximum(x, -wall_x), wall_x), torch.minimum(torch.maximum(z, -wall_z), wall_z)
    y = -ground_height(scenes.waves, x, z) - (0.98 * extent[..., 1] + lift)[:, None]
    centre = torch.stack([x, y, z], dim=-1)
    spin = (moves * draws.uniform(-1, 1, SOLIDS) * math.radians(70))[:, None] * step
    axis = torch.where(
        raised[..., None], F.normalize(draws.normal(SOLIDS, 3), dim=-1), _about_gravity(torch.ones_like(turn))
    )
    spun = rotation_from_axis_angle(axis[:, None] * spin[..., None]) @ rest[:, None]
    return Scenes(
        **{
            **scenes.__dict__,
            "half": extent,
            "active": active,
            "moves": moves,
            "world_from_solid": from_parts(spun, centre),
        }
    )


def _about_gravity(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b 3"]:
    zero = torch.zeros_like(angle)
    return torch.stack([zero, angle, zero], dim=-1)


def draw_look(seeds: Sequence[int], scenes: Scenes, config: WorldsConfig, difficulty: float, images: int = 0) -> Look:
    """Patterns and colours of every face. With `images` > 0, cells from BASES + DETAILS on are the user's."""
    difficulty = difficulty if config.texture is None else config.texture
    draws = Draws(seeds, purpose=1, device=scenes.low.device)
    count = FACES * (1 + SOLIDS)
    wide = _width_of_view(scenes)
    coarse = draws.uniform(0.25, 0.7, count)
    mixed = draws.log_uniform(0.05, 0.4, count)
    feature = torch.where(draws.chance(difficulty, count), mixed, coarse) * wide[:, None]
    # A blob is no larger than what it is on.
    solids = (0.9 * scenes.half.amax(-1)).repeat_interleave(FACES, dim=1)
    largest = torch.cat([torch.full_like(feature[:, :FACES], torch.inf), solids], dim=1)
    base_scale = 1 / (BASE_FEATURES * torch.minimum(feature, largest))
    fine = draws.log_uniform(0.15, 1.0, count) * wide[:, None]  # metres of a tile of detail
    base = _chosen(draws, config.patterns, BASES, count)
    detail = BASES + _chosen(draws, config.details, DETAILS, count)
    own = draws.integer(max(images, 1), count) + BASES + DETAILS
    shows_image = draws.chance(_IMAGE_SHARE if images else 0.0, count)
    base = torch.where(shows_image, own, base)
    image_scale = 1 / (draws.uniform(0.6, 1.6, count) * torch.minimum(2 * largest, wide[:, None]))
    base_scale = torch.where(shows_image, 0.5 * image_scale, base_scale)  # a tile holds the image twice across

    axes = _face_axes(draws, count, (shows_image | draws.chance(0.5, count)).float())
    along = torch.stack([axes * base_scale[..., None, None], axes / fine[..., None, None]], dim=2)
    strength = draws.uniform(0.0, 0.35, count) * draws.chance(0.8 * difficulty, count) * ~shows_image
    contrast = draws.uniform(0.5, 1.0, count)[..., None, None] * (1 - strength[..., None, None])
    mixing = contrast * any_rotation(draws, count) * draws.uniform(0.5, 1.0, count, 1, 3)
    # Vivid at first; later also as dull as much of the world is.
    saturation = draws.uniform(1 - 0.8 * difficulty, 1.0, count)[..., None, None]
    mixing = torch.lerp(mixing.mean(-2, keepdim=True).expand_as(mixing), mixing, saturation)
    colour = draws.uniform(0.25, 0.75, count, 3)
    identity = torch.eye(3, device=colour.device)
    look = Look(
        cell=torch.stack([base, detail], dim=-1),
        along=along,
        offset=draws.unit(count, 2, 2),
        colour=torch.where(shows_image[..., None], 0.5, colour),
        mixing=torch.where(shows_image[..., None, None], identity, mixing),
        detail=strength[..., None] * (0.6 + draws.uniform(-0.4, 0.4, count, 3)),
    )
    return _with_sky(draws, look, scenes)


def _chosen(draws: Draws, among: tuple[int, ...] | None, every: int, count: int) -> Int[Tensor, "B S"]:
    """Indices of patterns, `among` these or of all."""
    cells = torch.tensor(range(every) if among is None else among, device=draws.state.device)
    return cells[draws.integer(len(cells), count)]


def _width_of_view(scenes: Scenes) -> Float[Tensor, "B"]:
    """Metres that an image spans, at the distance of the scene's middle from the cameras."""
    middle = scenes.world_from_camera[..., :3, 3].mean(1)
    distance = middle.norm(dim=-1).clamp_min(1.0)
    return 2 * distance * scenes.intrinsics[:, 0, 2] / scenes.intrinsics[:, 0, 0]


def _face_axes(draws: Draws, count: int, straight: Float[Tensor, "B S"]) -> Float[Tensor, "B S 2 3"]:
    """Two orthonormal axes in the plane of every face, turned in it by any angle unless `straight`."""
    unit = torch.eye(3, device=straight.device)
    first = torch.stack([unit[_FACE_AXES[face // 2][0]] for face in range(FACES)]).repeat(count // FACES, 1)
    second = torch.stack([unit[_FACE_AXES[face // 2][1]] for face in range(FACES)]).repeat(count // FACES, 1)
    angle = (draws.uniform(0, 2 * math.pi, count) * (1 - straight))[..., None]
    return torch.stack([angle.cos() * first + angle.sin() * second, angle.cos() * second - angle.sin() * first], dim=2)


def _with_sky(draws: Draws, look: Look, scenes: Scenes) -> Look:
    """Outdoors, all but the ground shows soft clouds; its coordinates are those of a direction."""
    faces = torch.arange(look.cell.shape[1], device=look.cell.device)
    sky = scenes.outdoors[:, None] & (faces < FACES) & (faces != FLOOR_FACE)
    blue = draws.uniform(0.3, 0.6, 1, 1) * torch.tensor([0.2, 0.6, 1.0], device=sky.device) + 0.4
    plane = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.6, 1.0]], device=sky.device)
    along = torch.stack([plane * 0.12, plane * 0.5])
    clouds = draws.uniform(0.1, 0.5, 1, 1, 1).expand(-1, -1, 1, 3) * torch.tensor(
        [[1.0], [0.0], [0.0]], device=sky.device
    )
    cell = torch.stack([BASES - 1 - draws.integer(3, 1), BASES + draws.integer(2, 1)], dim=-1)
    return Look(
        cell=torch.where(sky[..., None], cell, look.cell),
        along=torch.where(sky[..., None, None, None], along, look.along),
        offset=torch.where(sky[..., None, None], look.offset[:, :1], look.offset),
        colour=torch.where(sky[..., None], blue, look.colour),
        mixing=torch.where(sky[..., None, None], clouds.mT, look.mixing),
        detail=torch.where(sky[..., None], 0.1 * torch.ones(3, device=sky.device), look.detail),
    )
