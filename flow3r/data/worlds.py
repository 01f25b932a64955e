"""Procedural worlds: endless scenes with exact depth, cameras, object ids, flow and covisibility, on torch alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow3r.config import WorldsConfig
from flow3r.data.furnish import draw_look, draw_scenes
from flow3r.data.raycast import FACES, SOLIDS, Hits, Sight, cast
from flow3r.data.scenes import Scenes, follow, sight
from flow3r.data.surfaces import Paint, colour_of, make_atlas, paint, procedural_atlas, tile_of_image
from flow3r.geometry.camera import camera_rays
from flow3r.geometry.se3 import from_parts, invert, nearest_rotation
from flow3r.types import Flow, OnDevice, Views

RENDERER = 1  # version of the pictures: raise it with every change of what is seen, so that kept worlds are made again

# Worked on together. On a CPU more leaves the cache and less is all overhead (benchmarks.worlds).
_RAYS_AT_ONCE, _RAYS_AT_ONCE_ON_GPU = 120_000, 4_000_000
# Four places within a pixel, no two in one row or column.
_CORNERS = ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125))


@dataclass(frozen=True)
class Worlds(OnDevice):
    """Rendered scenes with every label."""

    views: Views
    object_ids: Int[Tensor, "B N H W"]  # 0: room, ground or sky; 1 ...: objects, the same in all views
    moving: Bool[Tensor, "B N H W"]  # the pixel belongs to an object that moves between views


def render_worlds(
    seeds: Sequence[int],
    views: int,
    size: tuple[int, int],
    *,
    config: WorldsConfig = WorldsConfig(),
    frames: Int[Tensor, "B n"] | None = None,
    pairs: Int[Tensor, "B P 2"] | None = None,
    difficulty: float = 1.0,
    textures: Sequence[Float[Tensor, "3 _ _"]] = (),
    device: torch.device | str = "cpu",
) -> Worlds:
    """Render one scene per seed in `views` views of `size` (H, W), with exact flow for the ordered `pairs` if given.

    The views are a sequence: cameras and objects move from the first to the last. `frames` names those that are
    rendered of each scene, in place of all; `pairs` then index them. Scene b depends on seeds[b], views, size, config,
    difficulty and textures alone, not on the batch around it. Depth, in metres, and flow are taken at pixel centres;
    only colour is anti-aliased. The sky has depth 0: unknown. Flow includes the objects' own motion; covisible is 1
    where a ray from camera j, cast at the very point that the pixel of view i sees, meets nothing before it, inside
    image j. The world's y axis points down. `difficulty` in [0, 1] leads from coarse, distinctive textures, little
    motion and few objects to the full distribution. `textures` (RGB in [0, 1]) are laid on half of the surfaces.

    Raises ValueError for no seeds, no views, a size below one pixel, or frames that there are not.
    """
    if len(seeds) == 0 or views < 1 or min(size) < 1:
        raise ValueError(f"got {len(seeds)} seeds, {views} views of {size}; expected at least one of each")
    if frames is not None and not (frames.numel() and 0 <= frames.min() <= frames.max() < views):
        raise ValueError(f"frames {frames.tolist()} of scenes of {views} views; expected some of 0..{views - 1}")
    scenes = draw_scenes(seeds, views, size, config, difficulty, device)
    look = draw_look(seeds, scenes, config, difficulty, len(textures))
    atlas = procedural_atlas(torch.device(device))
    if textures:
        own = make_atlas([tile_of_image(texture.to(device)) for texture in textures])
        atlas = torch.cat([atlas, own], dim=2)
    scenes = replace(scenes, look=look)
    shown = torch.arange(views, device=device).expand(len(seeds), -1) if frames is None else frames.to(device)
    count = shown.shape[1]
    rays = camera_rays(scenes.intrinsics, *size).flatten(1, 2).mT.contiguous()
    scene, view = torch.arange(len(seeds), device=device).repeat_interleave(count), shown.flatten()
    parts = [
        _rendered(scenes, atlas, rays, scene[part], view[part], size) for part in _chunks(len(scene), size, rays.device)
    ]
    image, depth, solid = (torch.cat(values) for values in zip(*parts))
    flow = None if pairs is None else _flow(scenes, rays, depth, solid, shown, pairs.to(device), size)
    maps = (len(seeds), count, *size)
    moves = torch.cat([torch.zeros_like(scenes.moves[:, :1]), scenes.moves], dim=1)[scene]
    rendered = Views(
        images=image.view(len(seeds), count, 3, *size),
        depth=torch.where(depth.isinf(), 0.0, depth).view(maps),
        intrinsics=scenes.intrinsics[scene].unflatten(0, maps[:2]),
        world_from_camera=scenes.world_from_camera[scene, view].unflatten(0, maps[:2]),
        dense=torch.ones(maps[:2], dtype=torch.bool, device=device),
        flow=flow,
    )
    return Worlds(rendered, solid.view(maps), moves.gather(1, solid).view(maps))


def sample_cameras(
    seeds: Sequence[int],
    views: int,
    size: tuple[int, int],
    *,
    config: WorldsConfig = WorldsConfig(),
    difficulty: float = 1.0,
    device: torch.device | str = "cpu",
) -> tuple[Float[Tensor, "B N 4 4"], Float[Tensor, "B N 3 3"]]:
    """world_from_camera and intrinsics of the same worlds as `render_worlds`, without rendering them."""
    scenes = draw_scenes(seeds, views, size, config, difficulty, device)
    return scenes.world_from_camera, scenes.intrinsics[:, None].expand(-1, views, -1, -1).contiguous()


def mean_relative_poses(
    views: int,
    config: WorldsConfig = WorldsConfig(),
    scenes: int = 1000,
    seed: int = 0,
    size: tuple[int, int] = (112, 112),
) -> Float[Tensor, "G 4 4"]:
    """The mean pose of frame k + g in the axes of frame k, for gaps g = 1 ... views - 1, over worlds of these seeds.

    Rotation is the chordal mean, the rotation nearest to the arithmetic mean. Translations, whose scale is each world's
    own, are divided by the path length from first to last view before the mean.
    """
    parts = [
        sample_cameras(range(seed + first, seed + min(first + 100, scenes)), views, size, config=config)[0]
        for first in range(0, scenes, 100)
    ]
    world_from_camera = torch.cat(parts).double()
    steps = world_from_camera[:, 1:, :3, 3] - world_from_camera[:, :-1, :3, 3]
    length = steps.norm(dim=-1).sum(1)[:, None, None].clamp_min(1e-9)
    means = [torch.zeros(0, 4, 4)]
    for gap in range(1, views):
        relative = invert(world_from_camera[:, :-gap]) @ world_from_camera[:, gap:]
        rotation = nearest_rotation(relative[..., :3, :3].mean((0, 1)))
        means.append(from_parts(rotation, (relative[..., :3, 3] / length).mean((0, 1)))[None].float())
    return torch.cat(means)


def _chunks(count: int, size: tuple[int, int], device: torch.device) -> list[slice]:
    """Slices of the views that are worked on together."""
    rays = _RAYS_AT_ONCE if device.type == "cpu" else _RAYS_AT_ONCE_ON_GPU
    step = max(1, rays // (size[0] * size[1]))
    return [slice(first, first + step) for first in range(0, count, step)]


def _rendered(
    scenes: Scenes, atlas: Tensor, rays: Tensor, scene: Tensor, view: Tensor, size: tuple[int, int]
) -> tuple[Float[Tensor, "V 3 R"], Float[Tensor, "V R"], Int[Tensor, "V R"]]:
    """Anti-aliased colour, depth (infinite in the sky) and solid at all pixels of some views."""
    here = sight(scenes, scene, view)
    focal = scenes.intrinsics[scene, 0, 0]
    painted = paint(scenes.look, scene, here.solid_from_camera, here.open_sky, focal)
    rays = rays[scene]
    hits = cast(here, rays)
    image = _colour(here, painted, atlas, rays, hits)
    edges = _edges(hits, size)
    counts = edges.sum(1)
    if counts.any():
        row, pixel = edges.nonzero().unbind(1)
        rank = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        place = pixel.new_zeros(len(edges), int(counts.max()))  # where a view has fewer edges, pixel 0 fills up
        place[row, rank] = pixel
        corners = rays.new_tensor(_CORNERS) / focal[:, None, None]
        finer = rays.gather(2, place[:, None].expand(-1, 3, -1))[..., None].repeat(1, 1, 1, len(_CORNERS))
        finer[:, :2] += corners.mT[:, :, None]
        finer = finer.flatten(2)
        fine = _colour(here, painted, atlas, finer, cast(here, finer)).unflatten(2, (-1, len(_CORNERS))).mean(3)
        image[row, :, pixel] = fine[row, :, rank]
    return image, hits.depth, hits.solid


def _colour(here: Sight, painted: Paint, atlas: Tensor, rays: Tensor, hits: Hits) -> Float[Tensor, "V 3 R"]:
    """The colour of what was hit; the sky is looked up by direction and is not shaded."""
    views, _, count = rays.shape
    x, y = rays[:, 0], rays[:, 1]
    sky = hits.depth.isinf()
    depth = torch.where(sky, (x * x + y * y + 1).rsqrt(), hits.depth)
    cosine, shade = hits.cosine.masked_fill(sky, 1.0), hits.shade.masked_fill(sky, 1.0)
    column = hits.solid * FACES + hits.face
    column = column + torch.arange(views, device=x.device)[:, None] * (FACES * (1 + SOLIDS))
    values = (value.reshape(-1) for value in (column, x, y, depth, cosine, shade))
    return colour_of(painted, atlas, *values).view(3, views, count).movedim(0, 1).contiguous()


def _edges(hits: Hits, size: tuple[int, int]) -> Bool[Tensor, "V R"]:
    """Pixels beside another solid or face, or beside a step in depth, as at the crest of a hill."""
    face = torch.where(hits.depth.isinf(), 0, hits.face)
    surface = (hits.solid * FACES + face).to(torch.int16).unflatten(1, size)
    depth = hits.depth.unflatten(1, size)
    edge = torch.zeros_like(surface, dtype=torch.bool)
    for axis in (1, 2):
        count = surface.shape[axis] - 1
        near, far = depth.narrow(axis, 0, count), depth.narrow(axis, 1, count)
        change = surface.narrow(axis, 0, count) != surface.narrow(axis, 1, count)
        change |= torch.minimum(near, far) < 0.8 * torch.maximum(near, far)
        edge.narrow(axis, 0, count).logical_or_(change)
        edge.narrow(axis, 1, count).logical_or_(change)
    return edge.flatten(1)


def _flow(
    scenes: Scenes,
    rays: Tensor,
    depth: Tensor,
    solid: Tensor,
    shown: Int[Tensor, "B n"],
    pairs: Int[Tensor, "B P 2"],
    size: tuple[int, int],
) -> Flow:
    """Exact flow and covisibility of ordered pairs of the views `shown`, from what was hit in the sources."""
    batch, count = pairs.shape[:2]
    scene = torch.arange(batch, device=pairs.device).repeat_interleave(count)
    source, target = pairs.flatten(0, 1).unbind(-1)
    displacements, seens = [], []
    for part in _chunks(len(scene), size, rays.device):
        at = scene[part] * shown.shape[1] + source[part]
        own, here, there = rays[scene[part]], shown[scene[part], source[part]], shown[scene[part], target[part]]
        towards, z, seen = follow(scenes, scene[part], here, there, own, depth[at], solid[at])
        focal = scenes.intrinsics[scene[part], 0, 0, None, None]
        moved = torch.where((depth[at].isfinite() & (z > 0))[:, None], (towards - own)[:, :2] * focal, 0.0)
        displacements.append(moved.mT)
        seens.append(seen.float())
    displacement = torch.cat(displacements).view(batch, count, *size, 2)
    return Flow(pairs, displacement, torch.cat(seens).view(batch, count, *size))
