"""How hand-held cameras move through a scene: many candidates, of which the first that sees enough is taken."""

import math
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from flow3r.config import WorldsConfig
from flow3r.data.draws import Draws
from flow3r.data.raycast import cast, ground_height
from flow3r.data.sampling import ordered_pairs
from flow3r.data.scenes import Scenes, follow, sight
from flow3r.geometry.camera import camera_rays, centred_intrinsics
from flow3r.geometry.se3 import from_parts, invert, rotation_angle, rotation_from_axis_angle, rotation_from_quaternion

CANDIDATES, HELD_OUT_CANDIDATES = 6, 48
HELD_OUT_DEGREES = (10.0, 120.0)  # ours: what held-out views are turned against each other
PAN = (0.05, 0.6)  # angle of a pan, in fields of view: several patches, at little change of what they show
CLEARANCE = 0.3  # metres between a camera and anything else
_PROBE = 8  # rays along a side of an image that estimate what it sees
_MARGIN = 0.05  # overlap beyond what is asked for, since few rays estimate it


def choose_paths(
    draws: Draws, scenes: Scenes, reach: Float[Tensor, "B"], config: WorldsConfig, difficulty: float
) -> Scenes:
    """The scenes with their cameras on a path, and without the things that stood in its way.

    `reach` is the distance at which a scene is looked at. Of several paths per scene, each more cautious than the one
    before, the first is taken on which neighbours overlap by `config.overlap` and see more than sky or one thing close
    by; failing all, the best. Held out, all views must overlap and be turned by 10-120 degrees against each other.
    """
    count = HELD_OUT_CANDIDATES if config.held_out else CANDIDATES
    paths = _paths(draws, scenes, reach, count, config, difficulty)
    batch, views = len(scenes.low), scenes.world_from_camera.shape[1]
    every = scenes[torch.arange(batch, device=reach.device).repeat_interleave(count)]
    every = replace(every, world_from_camera=paths.flatten(0, 1))
    every = replace(every, active=every.active & ~_in_the_way(every))
    if views == 1:
        pairs = []
    elif config.held_out:
        pairs = ordered_pairs(views)
    else:
        pairs = [(i, i + 1) for i in range(views - 1)] + [(i + 1, i) for i in range(views - 1)]
    score, sees = _overlap(every, reach.repeat_interleave(count), pairs)
    good = sees & (score >= config.overlap + _MARGIN)
    if config.held_out:
        outside = _outside_range(every.world_from_camera)
        good, score = good & (outside == 0), score - 0.01 * outside
    rank = torch.arange(count, 0, -1, device=reach.device) + 2
    value = torch.where(good.view(batch, count), rank.float(), (score + sees.float()).view(batch, count))
    return every[torch.arange(batch, device=reach.device) * count + value.argmax(1)]


def _outside_range(world_from_camera: Float[Tensor, "C N 4 4"]) -> Float[Tensor, "C"]:
    """How far, in degrees, the views' rotations against each other are out of the held-out range, at worst."""
    rotation = world_from_camera[..., :3, :3]
    angle = torch.rad2deg(rotation_angle(rotation[:, :, None].mT @ rotation[:, None]))
    low, high = HELD_OUT_DEGREES
    same = torch.eye(rotation.shape[1], dtype=torch.bool, device=rotation.device)
    outside = torch.maximum(low - 0.01 - angle, angle - high - 0.01).clamp_min(0).masked_fill(same, 0.0)
    return outside.flatten(1).amax(1)


def _in_the_way(scenes: Scenes) -> Bool[Tensor, "C K"]:
    """Solids whose bounding box comes within the clearance of a camera."""
    from_camera = invert(scenes.world_from_solid) @ scenes.world_from_camera[:, :, None]
    gap = (from_camera[..., :3, 3].abs() - scenes.half[:, None]).clamp_min(0).norm(dim=-1)
    return (gap < CLEARANCE).any(1)


def _overlap(
    scenes: Scenes, reach: Tensor, pairs: list[tuple[int, int]]
) -> tuple[Float[Tensor, "C"], Bool[Tensor, "C"]]:
    """The least share of a view that its partner sees, and whether all views see more than sky or what is too close."""
    count, views = scenes.world_from_camera.shape[:2]
    device = reach.device
    side = 2 * scenes.intrinsics[:, :2, 2] / _PROBE
    scale = torch.cat([side, torch.ones_like(side[:, :1])], dim=1)
    lens = (scenes.intrinsics / scale[:, :, None])[:, None].expand(-1, views, -1, -1)
    rays = camera_rays(lens, _PROBE, _PROBE).flatten(2, 3).mT.contiguous()
    index = torch.arange(count, device=device)
    scene, view = index.repeat_interleave(views), torch.arange(views, device=device).repeat(count)
    hits = cast(sight(scenes, scene, view), rays.flatten(0, 1))
    sky = hits.depth.isinf().float().mean(1)
    close = (hits.depth < 0.15 * reach.repeat_interleave(views)[:, None]).float().mean(1)
    sees = ((sky < 0.6) & (close < 0.35)).view(count, views).all(1)
    if not pairs:
        return torch.ones(count, device=device), sees
    source, target = (torch.tensor(ends, device=device).repeat(count) for ends in zip(*pairs))
    scene = index.repeat_interleave(len(pairs))
    at = scene * views + source
    _, _, seen = follow(scenes, scene, source, target, rays[scene, source], hits.depth[at], hits.solid[at])
    return seen.float().mean(1).view(count, len(pairs)).amin(1), sees


def _paths(
    draws: Draws, scenes: Scenes, reach: Tensor, count: int, config: WorldsConfig, difficulty: float
) -> Float[Tensor, "B C N 4 4"]:
    """Candidates, from bold to cautious: orbits about a target, mixed with pans, shifts, bows and tremor."""
    views = scenes.world_from_camera.shape[1]
    outdoors = scenes.outdoors[:, None]
    caution = torch.linspace(0, 1, count, device=reach.device)
    if config.held_out:
        wide = torch.ones_like(reach)[:, None]
    else:
        pans, angle = _path_angle(draws, scenes, config)
        angle = angle * (1 - 1.5 * (caution - 0.6).clamp_min(0))
        wide = (angle / math.radians(60)).clamp_max(1.0)
    steep = wide * caution
    level = torch.where(outdoors, draws.uniform(4, 30, count), draws.uniform(-4, 32, count))
    pitch = torch.deg2rad(torch.lerp(level, draws.uniform(40, 70, count), steep))
    yaw, roll = draws.uniform(-math.pi, math.pi, count), torch.deg2rad(4 * draws.normal(count))
    start = _looking(yaw, pitch, roll)
    if config.held_out:
        rotation = _held_out_turns(draws, start, views)
    else:
        rotation = _smooth_turn(draws, start, angle, wide, views)

    target = _targets(draws, scenes, count, reach)
    backwards = -rotation[..., 2]
    distance = _distance(draws, scenes, target, backwards, reach)[:, :, None, None]
    orbit = target[:, :, None] + distance * backwards
    middle = orbit.mean(2, keepdim=True) if config.held_out else target[:, :, None] - distance * start[:, :, None, :, 2]
    loose = torch.where(draws.chance(0.3, count), draws.uniform(0, 0.5, count), draws.uniform(0.6, 1.1, count))
    coupling = torch.lerp(loose, torch.ones_like(loose), torch.maximum(wide, caution.expand_as(loose)))
    if config.pan_share and not config.held_out:
        coupling = torch.where(pans, draws.uniform(-0.3, 0, count), coupling)  # near the place, or against the turn
    centre = torch.lerp(middle, orbit, coupling[:, :, None, None])
    shift = draws.log_uniform(0.01, 0.06 + 0.44 * difficulty, count, 1, 1) * (1 - 0.6 * caution[:, None, None])
    heading = F.normalize(draws.normal(count, 1, 3), dim=-1)
    centre = centre + distance * (shift * heading * _times(draws, views, count)[..., None])
    centre = centre + 0.003 * distance * draws.normal(count, views, 3)
    return from_parts(rotation, _kept_free(scenes, centre))


def _path_angle(draws: Draws, scenes: Scenes, config: WorldsConfig) -> tuple[Bool[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """Which scenes are pans, and the angle, in radians, between the outermost views: of pans by the field of view."""
    angle = torch.deg2rad(draws.log_uniform(*config.rotation_degrees, 1))
    if not config.pan_share:  # no draw, so that worlds without pans stay what they are
        return torch.zeros_like(angle, dtype=torch.bool), angle
    pans = draws.chance(config.pan_share, 1)
    across = 2 * torch.atan(scenes.intrinsics[:, 0, 2] / scenes.intrinsics[:, 0, 0])[:, None]
    return pans, torch.where(pans, across * draws.uniform(*PAN, 1), angle)


def _looking(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Float[Tensor, "B C 3 3"]:
    """Camera axes: yaw about gravity, then pitch downwards, then roll."""
    zero = torch.zeros_like(yaw)
    turn = rotation_from_axis_angle(torch.stack([zero, yaw, zero], dim=-1))
    nod = rotation_from_axis_angle(torch.stack([-pitch, zero, zero], dim=-1))
    return turn @ nod @ rotation_from_axis_angle(torch.stack([zero, zero, roll], dim=-1))


def _times(draws: Draws, views: int, count: int) -> Float[Tensor, "B C N"]:
    """When views are taken, from -0.5 to 0.5, unevenly but in order."""
    even = torch.linspace(-0.5, 0.5, views, device=draws.state.device) if views > 1 else draws.unit(1)[0] * 0
    jitter = draws.uniform(-0.35, 0.35, count, views) / max(views - 1, 1)
    return even + jitter * (even.abs() < 0.499)


def _smooth_turn(draws: Draws, start: Tensor, angle: Tensor, wide: Tensor, views: int) -> Float[Tensor, "B C N 3 3"]:
    """Rotations about a slowly wandering axis, mostly gravity's, whose first and last are `angle` apart."""
    count = start.shape[1]
    kind = draws.unit(count)
    down = start.new_tensor([0.0, 1.0, 0.0]).expand_as(start[..., 0])
    nods, rolls = kind < 0.2 * (1 - wide), kind > 0.85
    axis = torch.where(nods[..., None], start[..., 0], torch.where(rolls[..., None], start[..., 2], down))
    axis = F.normalize(axis + 0.15 * draws.normal(count, 3), dim=-1)
    side = torch.where(draws.chance(0.5, count), 1.0, -1.0)
    times = _times(draws, views, count)[..., None]
    turn = rotation_from_axis_angle((side * angle)[..., None, None] * axis[:, :, None] * times)
    # Bow and tremor vanish at the ends, where the angle is what was drawn.
    between = torch.cos(math.pi * times)
    bow = 0.1 * angle[..., None] * draws.normal(count, 3)
    tremor = torch.minimum(0.05 * angle, torch.tensor(math.radians(0.3), device=angle.device))
    wander = between * bow[:, :, None] + (between > 1e-3) * tremor[..., None, None] * draws.normal(count, views, 3)
    return turn @ rotation_from_axis_angle(wander) @ start[:, :, None]


def _held_out_turns(draws: Draws, start: Tensor, views: int) -> Float[Tensor, "B C N 3 3"]:
    """Every view turned against the one before by an angle uniform in 10-120 degrees, the same for all candidates;
    about gravity, the line of sight, or between."""
    count = start.shape[1]
    angles = torch.deg2rad(draws.uniform(*HELD_OUT_DEGREES, max(views - 1, 1)))
    down = start.new_tensor([0.0, 1.0, 0.0])
    rotations = [start]
    for step in range(views - 1):
        here = rotations[-1]
        share = torch.where(draws.chance(0.5, count), 0.0, draws.uniform(0, 1, count))[..., None]
        axis = F.normalize(torch.lerp(down.expand_as(here[..., 2]), here[..., 2], share), dim=-1)
        axis = F.normalize(axis + 0.1 * draws.normal(count, 3), dim=-1)
        side = torch.where(draws.chance(0.5, count), 1.0, -1.0) * angles[:, step, None]
        rotations.append(rotation_from_axis_angle(side[..., None] * axis) @ here)
    return torch.stack(rotations, dim=2)


def _targets(draws: Draws, scenes: Scenes, count: int, reach: Tensor) -> Float[Tensor, "B C 3"]:
    """Points near the middle of the scene, at most at the height of a person's head."""
    room = torch.where(scenes.outdoors[:, None], 0.5 * reach[:, None], 0.35 * scenes.high)
    x, z = room[:, :1] * draws.uniform(-1, 1, count), room[:, 2:] * draws.uniform(-1, 1, count)
    up = draws.uniform(0.0, 0.35, count) * torch.where(scenes.outdoors[:, None], reach[:, None], -scenes.low[:, 1:2])
    return torch.stack([x, -up - ground_height(scenes.waves, x, z), z], dim=-1)


def _distance(
    draws: Draws, scenes: Scenes, target: Tensor, backwards: Float[Tensor, "B C N 3"], reach: Tensor
) -> Float[Tensor, "B C"]:
    """From target to cameras: outdoors about the reach, in a room as far as its walls allow in every direction used."""
    bound = torch.where(backwards > 0, scenes.high[:, None, None], scenes.low[:, None, None])
    inset = CLEARANCE * backwards.sign()
    free = (bound - inset - target[:, :, None]) / torch.where(backwards.abs() < 1e-3, 1e-3, backwards)
    free[..., 1] = torch.where(backwards[..., 1] > 0, torch.inf, free[..., 1])  # the floor only pushes cameras up
    indoors = free.amin((-2, -1)).clamp(0.3, 8.0) * draws.uniform(0.5, 0.95, target.shape[1])
    return torch.where(scenes.outdoors[:, None], reach[:, None] * draws.uniform(0.7, 1.2, target.shape[1]), indoors)


def _kept_free(scenes: Scenes, centre: Float[Tensor, "B C N 3"]) -> Float[Tensor, "B C N 3"]:
    """Camera centres moved off walls, ceiling and ground by the clearance."""
    low, high = (bound[:, None, None] for bound in (scenes.low, scenes.high))
    clamped = torch.minimum(torch.maximum(centre, low + CLEARANCE), high - CLEARANCE)
    rise = ground_height(scenes.waves, clamped[..., 0], clamped[..., 2])
    lowest = torch.where(scenes.outdoors[:, None, None], -rise - 2 * CLEARANCE, -CLEARANCE)
    return torch.cat([clamped[..., :1], torch.minimum(clamped[..., 1], lowest)[..., None], clamped[..., 2:]], dim=-1)


def lens(draws: Draws, size: tuple[int, int], config: WorldsConfig) -> Float[Tensor, "B 3 3"]:
    """Square pixels, centred, with a horizontal field of view uniform in the configured range."""
    height, width = size
    across = torch.deg2rad(draws.uniform(*config.fov_degrees))
    return centred_intrinsics(width / 2 / (across / 2).tan(), height, width)


def any_rotation(draws: Draws, *shape: int) -> Float[Tensor, "B *shape 3 3"]:
    """Uniform on all rotations."""
    return rotation_from_quaternion(draws.normal(*shape, 4))
