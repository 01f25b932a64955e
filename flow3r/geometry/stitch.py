"""Windows of a long sequence joined into one world: robust similarities of overlaps, their chain, and closed loops.

Every window is predicted in a world and at a scale of its own. A similarity is a 4 x 4 matrix [[s R, t], [0, 1]], named
target_from_source like a rigid motion, so that products chain and `transform_points` applies it. All in float64.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.geometry.align import umeyama, weighted_median_scale
from flow3r.geometry.se3 import axis_angle_from_rotation, from_parts, nearest_rotation, transform_points

HYPOTHESES = 200  # of three points: with 30 % outliers one in three is clean
JUDGES = 1000  # correspondences that the hypotheses are made of and judged on
ITERATIONS = 20
BIWEIGHT = 3.04  # Tukey's 4.685 standard deviations in medians of the length of a 3-D normal vector, 1.538
FIT_POINTS = 4096  # correspondences of an overlap: far more than the seven unknowns need
CENTRE_REACH, CENTRE_SHARE = 0.1, 0.1  # ours: centres err by this share of the depth, and weigh as that of the points
CLOSING_STEPS = 20


@dataclass(frozen=True)
class SimilarityFit:
    """A fitted similarity and how well it fits: the weighted median residual, in units of the points' `reach`."""

    target_from_source: Float[Tensor, "4 4"]
    residual: float


@dataclass(frozen=True)
class PosedPoints:
    """Frames as one window sees them: points in each camera's frame, confidence >= 0 (0: no point), poses."""

    local_points: Float[Tensor, "N H W 3"]
    weight: Float[Tensor, "N H W"]
    world_from_camera: Float[Tensor, "N 4 4"]


def similarity(
    scale: Float[Tensor, "*b"], rotation: Float[Tensor, "*b 3 3"], translation: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 4 4"]:
    """[[s R, t], [0, 1]]."""
    return from_parts(scale[..., None, None] * rotation, translation)


def similarity_parts(
    target_from_source: Float[Tensor, "*b 4 4"],
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
    """Scale, rotation, translation."""
    scaled = target_from_source[..., :3, :3]
    scale = torch.linalg.det(scaled) ** (1 / 3)
    return scale, scaled / scale[..., None, None], target_from_source[..., :3, 3]


def move_cameras(
    target_from_source: Float[Tensor, "*#b 4 4"], source_from_camera: Float[Tensor, "*#b 4 4"]
) -> Float[Tensor, "*b 4 4"]:
    """Camera poses in the target's world: rotations turned, centres carried along; still rigid."""
    _, rotation, _ = similarity_parts(target_from_source)
    centre = (target_from_source @ source_from_camera)[..., :3, 3]
    return from_parts(rotation @ source_from_camera[..., :3, :3], centre)


def robust_similarity(
    source: Float[Tensor, "n 3"],
    target: Float[Tensor, "n 3"],
    weight: Float[Tensor, "n"] | None = None,
    reach: Float[Tensor, "n"] | None = None,
    starts: Float[Tensor, "m 4 4"] | None = None,
) -> SimilarityFit:
    """The similarity that most of the correspondences agree on: 30 % of them may be arbitrarily wrong.

    Of `starts` and of the similarities of random triples (always the same ones) it takes the one with the least
    weighted median residual, and refines it on all points with Tukey's biweight. Residuals are counted in units of
    `reach`, the length that a point's error grows with (its depth); 1 by default. Degenerate sets are answered as by
    `umeyama`. Raises ValueError if no weight is positive.
    """
    source, target = source.double(), target.double()
    weight = torch.ones_like(source[:, 0]) if weight is None else weight.double()
    reach = torch.ones_like(weight) if reach is None else reach.double()
    used = (weight > 0).nonzero()[:, 0]
    if not len(used):
        raise ValueError("no correspondence has a positive weight; a similarity needs at least three")
    source, target, weight, reach = source[used], target[used], weight[used], reach[used]
    fit = _consensus(source, target, weight, reach, starts)
    floor = 1e-12 * (target - target.mean(0)).norm(dim=-1).max() + torch.finfo(torch.float64).tiny
    for _ in range(ITERATIONS):
        error = (transform_points(fit, source) - target).norm(dim=-1) / reach
        limit = (BIWEIGHT * _median(error, weight)).clamp_min(floor)
        agrees = (1 - (error / limit).square()).clamp_min(0).square()
        last, fit = fit, similarity(*umeyama(source, target, weight * agrees / reach.square()))
        if torch.allclose(last, fit, rtol=1e-9, atol=1e-12):
            break
    error = (transform_points(fit, source) - target).norm(dim=-1) / reach
    return SimilarityFit(fit, _median(error, weight).item())


def _consensus(
    source: Tensor, target: Tensor, weight: Tensor, reach: Tensor, starts: Tensor | None
) -> Float[Tensor, "4 4"]:
    """Of the given similarities and those of random triples the one with the least median residual."""
    generator = torch.Generator().manual_seed(0)
    candidates = [similarity(*umeyama(source, target))[None]] + ([] if starts is None else [starts.double()])
    judges = torch.randperm(len(source), generator=generator)[:JUDGES].to(source.device)
    source, target, weight, reach = source[judges], target[judges], weight[judges], reach[judges]
    if len(source) > 3:
        triples = torch.multinomial(weight.cpu().expand(HYPOTHESES, -1), 3, generator=generator).to(source.device)
        candidates.append(similarity(*umeyama(source[triples], target[triples])))
    candidates = torch.cat(candidates)
    error = (transform_points(candidates, source.expand(len(candidates), -1, 3)) - target).norm(dim=-1) / reach
    return candidates[_median(error, weight.expand_as(error)).argmin()]


def _median(values: Float[Tensor, "*b n"], weight: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    return weighted_median_scale(torch.ones_like(values), values, weight)


def overlap_similarity(source: PosedPoints, target: PosedPoints) -> SimilarityFit:
    """The similarity between the worlds of two windows from the frames that both of them saw, given in one order.

    Started from the overlapping cameras (rotation and centre) with the weighted median of depth ratios as scale;
    fitted to the confident pixels of both and the camera centres. One frame is enough. Where no pixel has weight in
    both, all pixels in front of both cameras count alike; where there are none, the cameras alone decide and the
    residual is infinite.
    """
    depth, target_depth = source.local_points[..., 2], target.local_points[..., 2]
    front = (depth > 0) & (target_depth > 0)
    weight = (source.weight * target.weight).sqrt() * front
    weight = torch.where((weight > 0).any(), weight, front.to(weight.dtype)).double()
    pose, target_pose = source.world_from_camera.double(), target.world_from_camera.double()

    scale = weighted_median_scale(
        depth.flatten().double(), target_depth.flatten().double(), (weight / depth.clamp_min(1e-9)).flatten()
    )
    turns = target_pose[:, :3, :3] @ pose[:, :3, :3].mT
    turns = torch.cat([turns, nearest_rotation(turns.mean(0))[None]])
    centre, target_centre = pose[:, :3, 3], target_pose[:, :3, 3]
    shifts = target_centre - scale * (turns[:, None] @ centre[..., None])[..., 0]  # of every turn, for every centre
    starts = similarity(scale.expand(len(turns)), turns, shifts.median(dim=1).values)

    generator = torch.Generator().manual_seed(0)
    chosen = front.flatten().nonzero()[:, 0]
    if not len(chosen):
        return SimilarityFit(starts[-1], float("inf"))
    chosen = chosen[torch.randperm(len(chosen), generator=generator)[:FIT_POINTS].to(chosen.device)]
    points, target_points = (_in_world(side, chosen) for side in (source, target))
    weight, reach = weight.flatten()[chosen], target_depth.flatten()[chosen].double()
    frames = len(centre)
    middle = _median(reach, weight)
    return robust_similarity(
        torch.cat([points, centre]),
        torch.cat([target_points, target_centre]),
        torch.cat([weight, (CENTRE_SHARE * weight.sum() / frames).expand(frames)]),
        torch.cat([reach, (CENTRE_REACH * middle).expand(frames)]),
        starts,
    )


def _in_world(side: PosedPoints, chosen: Int[Tensor, "n"]) -> Float[Tensor, "n 3"]:
    frame = chosen // side.weight[0].numel()
    pose, local = side.world_from_camera[frame].double(), side.local_points.flatten(0, 2)[chosen].double()
    return (pose[:, :3, :3] @ local[..., None])[..., 0] + pose[:, :3, 3]


def chain(steps: Iterable[Float[Tensor, "4 4"]]) -> Float[Tensor, "n 4 4"]:
    """first_from_window of all windows, from the similarities of the second and later ones into the one before."""
    placed = [torch.eye(4, dtype=torch.float64)]
    for step in steps:
        placed.append(placed[-1] @ step.double())
    return torch.stack(placed)


def blend(similarities: Float[Tensor, "n 4 4"], at: Float[Tensor, "m"]) -> Float[Tensor, "m 4 4"]:
    """Similarities between neighbours of a sequence, `at` fractional indices 0 ... n - 1: as if linear in between.

    For neighbours that are turned by little against each other, as the corrections of neighbouring windows are.
    """
    below = at.floor().long().clamp(0, len(similarities) - 1)
    above = (below + 1).clamp_max(len(similarities) - 1)
    mixed = torch.lerp(similarities[below], similarities[above], (at - below)[:, None, None].to(similarities.dtype))
    scale, rotation, translation = similarity_parts(mixed)
    return similarity(scale, nearest_rotation(rotation), translation)


def close_loops(
    world_from_window: Float[Tensor, "n 4 4"], pairs: Int[Tensor, "l 2"], first_from_second: Float[Tensor, "l 4 4"]
) -> Float[Tensor, "n 4 4"]:
    """The windows' similarities when loops spread the drift that they reveal over the chain between their ends.

    The pose graph has an edge between neighbours, as they are placed, and one per loop: `pairs` of windows and the
    similarity that was measured between them. It minimises the squared log-similarities (rotation in radians,
    translation in typical steps between neighbours, log-scale) that the edges are off by, loops with Cauchy weights at
    their median so that a false one does not pull for long. The first window stays where it is. The origin of a window
    is to be one of its cameras.
    """
    count = len(world_from_window)
    placed = world_from_window.double()
    loops = len(pairs)
    if not loops:
        return placed
    first = torch.cat([torch.arange(count - 1), pairs[:, 0].cpu()])
    second = torch.cat([torch.arange(1, count), pairs[:, 1].cpu()])
    measured = torch.cat([torch.linalg.inv(placed[:-1]) @ placed[1:], first_from_second.double()])
    step = (placed[1:, :3, 3] - placed[:-1, :3, 3]).norm(dim=-1).median()
    unit = torch.where(step > 0, step, 1.0)
    weight = torch.ones(len(first), dtype=torch.float64)
    for _ in range(CLOSING_STEPS):
        off, about = _misfit(placed, first, second, measured, unit)
        size = off[-loops:].norm(dim=-1)
        weight[-loops:] = 1 / (1 + (size / size.median().clamp_min(1e-9)).square()) if loops > 2 else 1.0
        change = _solve(count, first, second, off, about, weight)
        placed = torch.linalg.matrix_exp(_generator(change, unit)) @ placed
        if change.abs().max() < 1e-10:
            break
    return placed


def _misfit(
    placed: Tensor, first: Tensor, second: Tensor, measured: Tensor, unit: Tensor
) -> tuple[Float[Tensor, "e 7"], Float[Tensor, "e 3"]]:
    """What carries the second window of each edge to where the edge wants it, in the world's axes about its origin."""
    about = placed[second, :3, 3]
    off = placed[first] @ measured @ torch.linalg.inv(placed[second])
    scale, rotation, _ = similarity_parts(off)
    shift = transform_points(off, about[:, None])[:, 0] - about
    coordinates = [axis_angle_from_rotation(nearest_rotation(rotation)), shift / unit, scale.log()[:, None]]
    return torch.cat(coordinates, dim=-1), about / unit


def _solve(
    count: int, first: Tensor, second: Tensor, off: Tensor, about: Tensor, weight: Tensor
) -> Float[Tensor, "n 7"]:
    """One Gauss-Newton step: velocities (turn, shift, growth) of the windows about the world's origin.

    An edge is off by off + A (velocity of its first window - that of its second), A the velocity seen at `about`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    edges = len(first)
    seen = torch.eye(7, dtype=torch.float64).repeat(edges, 1, 1)
    seen[:, 3:6, :3] = -_cross(about)
    seen[:, 3:6, 6] = about
    seen = weight.sqrt()[:, None, None] * seen
    rows = (7 * torch.arange(edges)[:, None] + torch.arange(7))[:, :, None].expand(-1, -1, 7)
    columns = [(7 * end[:, None] + torch.arange(7))[:, None].expand(-1, 7, -1) for end in (first, second)]
    values = torch.cat([seen.flatten(), -seen.flatten()]).numpy()
    places = rows.flatten().repeat(2).numpy(), torch.cat([column.flatten() for column in columns]).numpy()
    jacobian = coo_matrix((values, places), shape=(7 * edges, 7 * count)).tocsc()[:, 7:]  # the first window is fixed
    right = -(weight.sqrt()[:, None] * off).flatten().numpy()
    change = torch.from_numpy(spsolve((jacobian.T @ jacobian).tocsc(), jacobian.T @ right)).view(-1, 7)
    return torch.cat([torch.zeros(1, 7, dtype=torch.float64), change])


def _cross(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """[v]x, the matrix of the product v x."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def _generator(velocity: Float[Tensor, "n 7"], unit: Tensor) -> Float[Tensor, "n 4 4"]:
    """The matrix whose exponential is the similarity of a velocity."""
    turn, shift, growth = velocity[:, :3], velocity[:, 3:6] * unit, velocity[:, 6]
    top = torch.cat([_cross(turn) + growth[:, None, None] * torch.eye(3, dtype=turn.dtype), shift[..., None]], dim=-1)
    return torch.cat([top, torch.zeros_like(top[:, :1])], dim=-2)
