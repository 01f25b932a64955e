"""Procedural worlds: endless scenes with exact depth, cameras, identities, flow and covisibility, on torch alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flow3r.config import WorldsConfig
from flow3r.data.raycast import BACKGROUND, SKY, Shapes, cast
from flow3r.data.scenes import Scenes, draw_scenes
from flow3r.data.surfaces import colour_of
from flow3r.geometry.camera import camera_rays, inside_image, pixel_grid
from flow3r.geometry.se3 import invert, transform_points
from flow3r.types import Flow, OnDevice, Views

ATTEMPTS, HELD_OUT_ATTEMPTS = 3, 12  # draws of a scene, of which the first with enough overlap is taken
PROBE = 10  # rays across the image that estimate overlap
SAME_SURFACE = 2e-3  # relative depth within which a ray is held to have reached its point
EDGE_SHARE = 0.12  # most pixels of a view that get four rays instead of one


@dataclass(frozen=True)
class Worlds(OnDevice):
    """Rendered scenes with every label. Identity 0 is the static background (and the sky), 1.. are objects."""

    views: Views
    object_ids: Int[Tensor, "B N H W"]
    moving: Bool[Tensor, "B N H W"]  # the pixel belongs to an object that moves between views


def render_worlds(
    seeds: Sequence[int],
    views: int,
    size: tuple[int, int],
    *,
    config: WorldsConfig = WorldsConfig(),
    pairs: Int[Tensor, "B P 2"] | None = None,
    difficulty: float = 1.0,
    textures: Sequence[Float[Tensor, "3 _ _"]] = (),
    device: torch.device | str = "cpu",
) -> Worlds:
    """Render one scene per seed in `views` views of `size` (H, W), with exact flow for the ordered `pairs` if given.

    Scene b depends on seeds[b], views, size, config and difficulty alone. Depth and flow are taken at pixel centres,
    the sky has depth 0 (unknown); only colour is anti-aliased. Flow includes the motion of objects; covisible is 1
    where a ray from camera j reaches the very point that pixel of view i sees. Worlds are in metres, OpenCV axes, world
    y down.
    `difficulty` in [0, 1] goes from distinctive textures and calm motion to the full distribution; `textures` (RGB in
    [0, 1]) are laid on half of the surfaces.
    """
    scenes = choose_scenes(seeds, views, size, config, difficulty, len(textures)).to(device)
    height, width = size
    shapes = scenes.shapes
    intrinsics = scenes.intrinsics[:, None].expand(-1, views, -1, -1)
    rays = camera_rays(intrinsics, height, width)[..., :2].flatten(2, 3)
    depth, identity = cast(shapes, rays)
    image = _antialiased(scenes, rays, depth, identity, size, tuple(t.to(device) for t in textures))
    map_shape = (len(seeds), views, height, width)
    known = torch.where(identity == SKY, 0.0, depth)
    flow = None if pairs is None else _flow(shapes, intrinsics, rays, depth, identity, pairs.to(device), size)
    labelled = Views(
        images=image.view(*map_shape, 3).movedim(-1, 2).contiguous(),
        depth=known.view(map_shape),
        intrinsics=intrinsics.contiguous(),
        world_from_camera=shapes.world_from_camera,
        dense=torch.ones(map_shape[:2], dtype=torch.bool, device=device),
        flow=flow,
    )
    first = shapes.world_from_object[:, :1]
    object_moves = (shapes.world_from_object - first).abs().amax(dim=(1, 3, 4)) > 1e-6
    moving = object_moves[:, None].expand(-1, views, -1).take_along_dim((identity - 1).clamp_min(0), dim=2)
    return Worlds(
        labelled,
        object_ids=identity.clamp_min(BACKGROUND).view(map_shape),
        moving=(moving & (identity > 0)).view(map_shape),
    )


def choose_scenes(
    seeds: Sequence[int],
    views: int,
    size: tuple[int, int],
    config: WorldsConfig = WorldsConfig(),
    difficulty: float = 1.0,
    textures: int = 0,
) -> Scenes:
    """Per seed the first of several draws whose consecutive views overlap enough, else the one that overlaps most."""
    attempts = HELD_OUT_ATTEMPTS if config.held_out else ATTEMPTS
    scenes = draw_scenes(seeds, views, size, config, difficulty, attempts, textures)
    overlap = least_overlap(scenes.shapes, scenes.intrinsics, size).view(len(seeds), attempts)
    order = torch.arange(attempts, 0, -1)
    rank = torch.where(overlap >= config.overlap, 1.0 + order, overlap)
    chosen = torch.arange(len(seeds)) * attempts + rank.argmax(dim=1)
    return Scenes(scenes.shapes[chosen], scenes.surfaces[chosen], scenes.intrinsics[chosen])


def least_overlap(shapes: Shapes, intrinsics: Float[Tensor, "B 3 3"], size: tuple[int, int]) -> Float[Tensor, "B"]:
    """The least share of a view that is seen in the next one, and the other way, estimated by a few rays."""
    views = shapes.world_from_camera.shape[1]
    if views == 1:
        return torch.ones(len(intrinsics))
    height, width = size
    spread = pixel_grid(PROBE, PROBE) / PROBE * torch.tensor([width, height])
    focal, principal = intrinsics[:, [0, 1], [0, 1]], intrinsics[:, :2, 2]
    rays = ((spread.flatten(0, 1)[None] - principal[:, None]) / focal[:, None])[:, None].expand(-1, views, -1, -1)
    depth, identity = cast(shapes, rays)
    step = torch.arange(views - 1)
    pairs = torch.cat([torch.stack([step, step + 1], -1), torch.stack([step + 1, step], -1)])
    pairs = pairs.expand(len(intrinsics), -1, -1)
    intrinsics = intrinsics[:, None].expand(-1, views, -1, -1)
    _, seen = _correspond(shapes, intrinsics, rays, depth, identity, pairs, size)
    return seen.float().mean(-1).amin(-1)


def mean_relative_poses(
    views: int, config: WorldsConfig = WorldsConfig(), scenes: int = 1000, seed: int = 0
) -> Float[Tensor, "G 4 4"]:
    """The mean pose i_from_j per frame gap j - i = 1 .. views - 1, over training worlds (rotation: chordal mean)."""
    shapes = choose_scenes(range(seed, seed + scenes), views, (112, 112), config).shapes
    poses = shapes.world_from_camera.double()
    means = []
    for gap in range(1, views):
        relative = (invert(poses[:, :-gap]) @ poses[:, gap:]).flatten(0, 1).mean(0)
        u, _, vt = torch.linalg.svd(relative[:3, :3])
        relative[:3, :3] = u @ torch.diag(torch.tensor([1.0, 1.0, torch.linalg.det(u @ vt)], dtype=u.dtype)) @ vt
        means.append(relative)
    return torch.stack(means).float() if means else torch.zeros(0, 4, 4)


def _flow(
    shapes: Shapes,
    intrinsics: Tensor,
    rays: Tensor,
    depth: Tensor,
    identity: Tensor,
    pairs: Tensor,
    size: tuple[int, int],
) -> Flow:
    position, covisible = _correspond(shapes, intrinsics, rays, depth, identity, pairs, size)
    displacement = position.unflatten(2, size) - pixel_grid(*size, position.device)
    covisible = covisible.unflatten(2, size)
    return Flow(pairs, torch.where(covisible[..., None], displacement, 0.0), covisible.float())


def _correspond(
    shapes: Shapes,
    intrinsics: Tensor,
    rays: Tensor,
    depth: Tensor,
    identity: Tensor,
    pairs: Tensor,
    size: tuple[int, int],
) -> tuple[Float[Tensor, "B P R 2"], Bool[Tensor, "B P R"]]:
    """Where the points that view i sees along its rays lie in view j, and whether view j sees them too.

    A point moves with what it belongs to. It is seen if a second ray, from camera j straight at it, reaches it first.
    """
    i, j = pairs[..., 0], pairs[..., 1]

    def of(values: Tensor, index: Tensor) -> Tensor:
        return values.take_along_dim(index.view(*index.shape, *[1] * (values.ndim - 2)), dim=1)

    source_depth, source_identity = of(depth, i), of(identity, i)
    finite = torch.where(source_identity == SKY, 1.0, source_depth)
    points = torch.cat([of(rays, i), torch.ones_like(finite)[..., None]], dim=-1) * finite[..., None]
    j_from_i = invert(of(shapes.world_from_camera, j)) @ of(shapes.world_from_camera, i)  # of what stands still
    objects = invert(of(shapes.world_from_camera, j))[:, :, None] @ of(shapes.world_from_object, j)
    objects = objects @ invert(of(shapes.world_from_object, i)) @ of(shapes.world_from_camera, i)[:, :, None]
    motions = torch.cat([j_from_i[:, :, None], objects], dim=2)
    moved = transform_points(j_from_i, points)
    for k in range(1, motions.shape[2]):
        belongs = (source_identity == k)[..., None]
        moved = torch.where(belongs, transform_points(motions[:, :, k], points), moved)
    front = moved[..., 2] > 1e-3
    target = torch.where(front[..., None], moved[..., :2] / moved[..., 2:].clamp_min(1e-3), 0.0)
    lens = of(intrinsics, j)
    position = target * lens[..., [0, 1], [0, 1]][:, :, None] + lens[..., None, :2, 2]
    seen_from_j = Shapes(
        **{
            name: of(getattr(shapes, name), j) if name.startswith("world_from") else getattr(shapes, name)
            for name in shapes.__dataclass_fields__
        }
    )
    reached, reached_identity = cast(seen_from_j, target)
    same = (reached_identity == source_identity) & ((reached - moved[..., 2]).abs() < SAME_SURFACE * moved[..., 2])
    return position, same & front & (source_identity != SKY) & inside_image(position, *size)


def _antialiased(
    scenes: Scenes,
    rays: Tensor,
    depth: Tensor,
    identity: Tensor,
    size: tuple[int, int],
    textures: tuple[Tensor, ...],
) -> Float[Tensor, "B N R 3"]:
    """Colour at every ray, and the mean of four rays a pixel along the borders of objects and faces."""
    focal = scenes.intrinsics[:, 0, 0]
    colour = colour_of(scenes.shapes, scenes.surfaces, rays, depth, identity, 1 / focal, textures)
    edges = _edges(depth.unflatten(2, size), identity.unflatten(2, size)).flatten(2).float()
    count = min(int(edges.sum(2).max()), int(EDGE_SHARE * edges.shape[2]))
    if count == 0:
        return colour
    certain, where = edges.topk(count, dim=2)  # a view with fewer edges than another only pads
    corner = rays.new_tensor([[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]])
    centres = rays.take_along_dim(where[..., None], dim=2)
    finer = (centres[:, :, :, None] + corner / focal[:, None, None, None, None]).flatten(2, 3)
    fine_depth, fine_identity = cast(scenes.shapes, finer)
    fine = colour_of(scenes.shapes, scenes.surfaces, finer, fine_depth, fine_identity, 1 / focal, textures)
    where = where[..., None].expand(-1, -1, -1, 3)
    smooth = torch.where(certain[..., None] > 0, fine.unflatten(2, (-1, 4)).mean(3), colour.gather(2, where))
    return colour.scatter(2, where, smooth)


def _edges(depth: Float[Tensor, "B N H W"], identity: Int[Tensor, "B N H W"]) -> Bool[Tensor, "B N H W"]:
    """Pixels beside a change of identity, or a fold or step in depth."""
    inverse = torch.where(depth.isinf(), 0.0, 1 / depth)  # linear across a plane
    edge = torch.zeros_like(identity, dtype=torch.bool)
    for axis in (2, 3):
        change = identity.diff(dim=axis) != 0
        edge.narrow(axis, 1, change.shape[axis]).logical_or_(change)
        edge.narrow(axis, 0, change.shape[axis]).logical_or_(change)
        fold = inverse.diff(n=2, dim=axis).abs() > 0.01 * inverse.narrow(axis, 1, inverse.shape[axis] - 2)
        edge.narrow(axis, 1, fold.shape[axis]).logical_or_(fold)
    return edge
