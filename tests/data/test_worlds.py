"""Procedural worlds: labels against the geometry that defines them, the distribution, what a seed decides."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flow3r.config import WorldsConfig
from flow3r.data.furnish import draw_look, draw_scenes
from flow3r.data.raycast import SLOTS, SOLIDS, ground_height
from flow3r.data.scenes import Scenes
from flow3r.data.surfaces import BASES
from flow3r.data.worlds import Worlds, render_worlds
from flow3r.geometry.camera import pixel_grid, project, unproject
from flow3r.geometry.flow import flow_from_depth, project_flow, sample, warp
from flow3r.geometry.se3 import invert, transform_maps, transform_points
from flow3r.types import Flow

SIZE = (112, 112)
BOTH_WAYS = torch.tensor([[0, 1], [1, 0]])
STILL, ALIVE = WorldsConfig(moving_share=0.0), WorldsConfig(moving_share=1.0)
KINDS = [kind for kind, slots in zip(("box", "ellipsoid", "cylinder"), SLOTS) for _ in range(slots)]


def drawn(seeds: range, views: int = 2, config: WorldsConfig = WorldsConfig(), difficulty: float = 1.0) -> Scenes:
    """The scenes behind the worlds of these seeds."""
    return draw_scenes(seeds, views, SIZE, config, difficulty)


def both_ways(seeds: range, config: WorldsConfig, size: tuple[int, int] = SIZE, **options) -> Worlds:
    """Two views a scene, with the flow there and back."""
    return render_worlds(seeds, 2, size, config=config, pairs=BOTH_WAYS.expand(len(seeds), -1, -1), **options)


@pytest.fixture(scope="module")
def training() -> Worlds:
    return both_ways(range(16), WorldsConfig())


@pytest.fixture(scope="module")
def still() -> Worlds:
    return both_ways(range(100, 112), STILL, (84, 126))


@pytest.fixture(scope="module")
def alive() -> Worlds:
    return both_ways(range(200, 212), ALIVE)


def near_borders(worlds: Worlds) -> Tensor:
    """(B N H W): pixels beside another surface: another identity, or a fold or step of depth."""
    depth, identity = worlds.views.depth, worlds.object_ids.float()
    inverse = torch.where(depth > 0, 1 / depth.clamp_min(1e-3), 0.0)
    patches = F.unfold(F.pad(identity.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate"), 3)
    border = (patches.amax(1) != patches.amin(1)).view_as(depth)
    for axis in (2, 3):
        bend = inverse.diff(n=2, dim=axis).abs() > 0.01 * inverse.narrow(axis, 1, inverse.shape[axis] - 2)
        border.narrow(axis, 1, bend.shape[axis]).logical_or_(bend)
    return F.max_pool2d(border.float(), 3, 1, 1) > 0


def warp_psnr(worlds: Worlds, b: int, p: int, mask: Tensor) -> float:
    """Of the source image of a pair against its target image warped by the exact flow, over the mask, in dB."""
    views = worlds.views
    i, j = views.flow.pairs[b, p].tolist()
    warped = warp(views.images[b, j][None], views.flow.displacement[b, p][None])[0]
    return float(-10 * (warped - views.images[b, i])[:, mask].square().mean().log10())


def warp_psnrs(worlds: Worlds, inside_surfaces: bool, moving: bool = False) -> Tensor:
    """Of all pairs, over covisible pixels; if so asked, without those beside another surface, or of moving objects."""
    flow, border = worlds.views.flow, near_borders(worlds)
    found = []
    for b, pairs in enumerate(flow.pairs.tolist()):
        for p, (i, j) in enumerate(pairs):
            mask = flow.covisible[b, p] > 0
            if inside_surfaces:
                arrives = warp(border[b, j][None, None].float(), flow.displacement[b, p][None])[0, 0] > 0
                mask = mask & ~border[b, i] & ~arrives
            if moving:
                mask = mask & worlds.moving[b, i]
            if mask.sum() >= 30:
                found.append(warp_psnr(worlds, b, p, mask))
    return torch.tensor(found)


def rigid_flow(worlds: Worlds) -> Tensor:
    """(B H W 2): the flow 0 -> 1 that depth and poses alone give, as if nothing moved."""
    views = worlds.views
    points = transform_maps(views.world_from_camera[:, 0], unproject(views.depth[:, 0], views.intrinsics[:, 0]))
    return project_flow(points, invert(views.world_from_camera[:, 1]), views.intrinsics[:, 1])[0]


def test_flow_of_what_stands_still_is_its_depth_and_poses(still: Worlds) -> None:
    flow = still.views.flow
    covisible = flow.covisible[:, 0] > 0
    error = (flow.displacement[:, 0] - rigid_flow(still)).norm(dim=-1)
    assert error[covisible].max() < 1e-3  # pixels
    assert not still.moving.any()


def test_covisibility_agrees_with_that_of_the_depth_maps(still: Worlds) -> None:
    views = still.views
    _, from_depth = flow_from_depth(views.depth, views.intrinsics, views.world_from_camera)
    exact = views.flow.covisible[:, 0] > 0
    agree = (exact == from_depth).flatten(1).float().mean(1)  # they may differ where a depth step crosses a pixel
    assert agree.mean() > 0.975 and agree.min() > 0.93
    assert 0.1 < exact.float().mean() < 0.98  # and there is something to agree about


def test_what_another_thing_hides_is_not_covisible(training: Worlds) -> None:
    """A point is hidden if the target sees one nearer object, which is convex, in all four pixels around the point."""
    views = training.views
    points = transform_maps(views.world_from_camera[:, 0], unproject(views.depth[:, 0], views.intrinsics[:, 0]))
    displacement, z = project_flow(points, invert(views.world_from_camera[:, 1]), views.intrinsics[:, 1])
    position = pixel_grid(*SIZE) + displacement
    inside = ((position > 1) & (position < SIZE[0] - 1)).all(-1) & (z > 0.05)
    candidates = inside & (views.depth[:, 0] > 0) & ~training.moving[:, 0]
    corner = (position - 0.5).floor().long().clamp(0, SIZE[0] - 2)
    scene = torch.arange(len(z))[:, None, None]
    around = [(scene, 1, corner[..., 1] + dy, corner[..., 0] + dx) for dx in (0, 1) for dy in (0, 1)]
    depth, identity = (torch.stack([of[place] for place in around]) for of in (views.depth, training.object_ids))
    behind_one = (identity == identity[0]).all(0) & (identity[0] > 0) & (depth < 0.9 * z).all(0)
    hidden = candidates & behind_one
    assert hidden.sum() > 500
    assert (views.flow.covisible[:, 0][hidden] == 0).all()


def test_flow_there_and_back_is_zero(training: Worlds) -> None:
    """Sampled backward flow interpolates across steps of depth, so it is read inside of surfaces only."""
    flow, border = training.views.flow, near_borders(training)
    for there, back in ((0, 1), (1, 0)):
        inside = sample_at(flow, there, border[:, [1 - there]].float())[:, 0] == 0
        returns = sample_at(flow, there, flow.covisible[:, [back]])[:, 0] == 1
        returned = sample_at(flow, there, flow.displacement[:, back].movedim(-1, 1)).movedim(1, -1)
        mutual = inside & returns & (flow.covisible[:, there] == 1)
        cycle = (flow.displacement[:, there] + returned).norm(dim=-1)[mutual]
        assert cycle.median() < 0.01 and cycle.quantile(0.99) < 0.3


def sample_at(flow: Flow, pair: int, values: Tensor) -> Tensor:
    """The values (B C H W) of the target at the ends of a pair's flow."""
    return sample(values, pixel_grid(*values.shape[-2:]) + flow.displacement[:, pair])


def test_warping_the_target_gives_the_source(training: Worlds) -> None:
    """Inside surfaces every pair reaches 30 dB. Over all covisible pixels, with the bilinear mixtures at borders of
    things, most pairs do."""
    inside, everywhere = warp_psnrs(training, inside_surfaces=True), warp_psnrs(training, inside_surfaces=False)
    assert len(inside) >= 25
    assert inside.min() >= 30 and inside.median() >= 40
    assert everywhere.median() >= 33 and (everywhere >= 30).float().mean() >= 0.85


def test_texture_and_shading_travel_with_moving_objects(alive: Worlds) -> None:
    carried = warp_psnrs(alive, inside_surfaces=True, moving=True)
    assert len(carried) >= 8
    assert carried.median() >= 35 and carried.min() >= 28


def test_flow_departs_from_the_rigid_one_on_moving_pixels_only(alive: Worlds) -> None:
    covisible = alive.views.flow.covisible[:, 0] > 0
    departure = (alive.views.flow.displacement[:, 0] - rigid_flow(alive)).norm(dim=-1)
    moving = alive.moving[:, 0]
    assert departure[covisible & ~moving].max() < 1e-3
    moved = departure[covisible & moving]
    assert len(moved) > 1000
    assert moved.median() > 2 and (moved > 0.1).float().mean() > 0.9


def test_moving_pixels_go_where_their_object_carries_them(alive: Worlds) -> None:
    views, scenes = alive.views, drawn(range(200, 212), config=ALIVE)
    points = transform_maps(views.world_from_camera[:, 0], unproject(views.depth[:, 0], views.intrinsics[:, 0]))
    for k in range(SOLIDS):
        carried = scenes.world_from_solid[:, 1, k] @ invert(scenes.world_from_solid[:, 0, k])
        there = transform_maps(invert(views.world_from_camera[:, 1]) @ carried, points)
        expected = project(there, views.intrinsics[:, 1]) - pixel_grid(*SIZE)
        seen = (alive.object_ids[:, 0] == k + 1) & (views.flow.covisible[:, 0] > 0)
        torch.testing.assert_close(views.flow.displacement[:, 0][seen], expected[seen], atol=2e-3, rtol=1e-4)


def test_points_lie_on_the_surfaces_they_are_said_to_see(training: Worlds) -> None:
    views, scenes = training.views, drawn(range(16))
    points = transform_maps(views.world_from_camera, unproject(views.depth, views.intrinsics))
    background = (training.object_ids == 0) & (views.depth > 0)
    scene, view, *_ = background.nonzero().unbind(-1)
    on_background, outdoors = points[background], scenes.outdoors[scene]
    middle, half = 0.5 * (scenes.low + scenes.high), 0.5 * (scenes.high - scenes.low)
    in_room = (on_background - middle[scene]) / half[scene]
    assert (in_room.abs().amax(-1) - 1).abs()[~outdoors].max() < 1e-4
    ground = -ground_height(scenes.waves[scene], on_background[:, :1], on_background[:, 2:])[:, 0]
    height_error = (on_background[:, 1] - ground).abs() / views.depth[background]
    assert height_error[outdoors].max() < 1e-3
    for k, kind in enumerate(KINDS):
        hit = training.object_ids == k + 1
        scene, view, *_ = hit.nonzero().unbind(-1)
        own = transform_points(invert(scenes.world_from_solid[scene, view, k]), points[hit][:, None])[:, 0]
        unit = own / scenes.half[scene, k]
        radius = {
            "box": unit.abs().amax(-1),
            "ellipsoid": unit.norm(dim=-1),
            "cylinder": torch.maximum(unit[:, ::2].norm(dim=-1), unit[:, 1].abs()),
        }[kind]
        assert ((radius - 1).abs() < 2e-3).all()


def test_sky_is_unknown_and_never_covisible(training: Worlds) -> None:
    views = training.views
    sky = views.depth == 0
    assert sky.any()
    assert (training.object_ids[sky] == 0).all() and not training.moving[sky].any()
    assert (views.depth[~sky] > 0.05).all() and views.depth.isfinite().all()
    assert (views.flow.covisible[sky] == 0).all()  # the pairs' sources are views 0 and 1, in this order
    assert not sky[~drawn(range(16)).outdoors].any()


def test_labels_have_the_promised_form(training: Worlds) -> None:
    views, flow = training.views, training.views.flow
    assert views.images.shape == (16, 2, 3, *SIZE) and views.images.dtype == torch.float32
    assert views.images.is_contiguous() and views.images.isfinite().all()
    assert views.images.min() >= 0 and views.images.max() <= 1 and views.images.std() > 0.1
    assert views.depth.shape == training.object_ids.shape == training.moving.shape == (16, 2, *SIZE)
    assert views.intrinsics.shape == (16, 2, 3, 3) and views.world_from_camera.shape == (16, 2, 4, 4)
    assert views.dense.all() and views.labelled and views.valid is None
    assert flow.displacement.shape == (16, 2, *SIZE, 2) and flow.displacement.isfinite().all()
    assert set(flow.covisible.unique().tolist()) == {0.0, 1.0}
    assert training.object_ids.min() == 0 and training.object_ids.max() <= SOLIDS
    assert not training.moving[training.object_ids == 0].any()
    rotation = views.world_from_camera[..., :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()


@pytest.mark.parametrize(("views", "size"), [(1, (56, 56)), (3, (98, 42)), (2, (42, 98)), (5, (29, 31))])
def test_any_number_of_views_and_any_size(views: int, size: tuple[int, int]) -> None:
    worlds = render_worlds(range(3), views, size)
    assert worlds.views.images.shape == (3, views, 3, *size)
    assert worlds.views.images.isfinite().all() and worlds.views.flow is None
    torch.testing.assert_close(
        worlds.views.intrinsics[0, 0, :2, 2], torch.tensor([size[1] / 2, size[0] / 2]), atol=0, rtol=0
    )


def assert_same(one: Worlds, other: Worlds) -> None:
    for name in ("images", "depth", "intrinsics", "world_from_camera"):
        torch.testing.assert_close(getattr(one.views, name), getattr(other.views, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.views.flow.displacement, other.views.flow.displacement, atol=1e-3, rtol=1e-4)
    assert torch.equal(one.views.flow.covisible, other.views.flow.covisible)
    assert torch.equal(one.object_ids, other.object_ids) and torch.equal(one.moving, other.moving)


def test_a_scene_depends_on_its_own_seed_alone(training: Worlds) -> None:
    for seed in (0, 3, 8):
        alone = both_ways(range(seed, seed + 1), WorldsConfig())
        views = training.views
        one = slice(seed, seed + 1)
        flow = type(views.flow)(views.flow.pairs[one], views.flow.displacement[one], views.flow.covisible[one])
        in_batch = type(views)(
            images=views.images[one],
            depth=views.depth[one],
            intrinsics=views.intrinsics[one],
            world_from_camera=views.world_from_camera[one],
            flow=flow,
        )
        assert_same(alone, Worlds(in_batch, training.object_ids[one], training.moving[one]))


def test_other_seeds_give_other_scenes(training: Worlds) -> None:
    images = training.views.images[:, 0].flatten(1)
    apart = torch.cdist(images, images) / images.shape[1] ** 0.5
    assert apart[~torch.eye(len(images), dtype=torch.bool)].min() > 0.05
    again = both_ways(range(2), WorldsConfig())
    assert torch.equal(again.views.images, both_ways(range(2), WorldsConfig()).views.images)


def test_user_textures_are_worn_by_about_half_of_the_surfaces() -> None:
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 16, 16)
    plain = render_worlds(range(12), 1, (56, 56))
    worn = render_worlds(range(12), 1, (56, 56), textures=[red])
    assert torch.equal(plain.views.depth, worn.views.depth)

    def pure_red(worlds: Worlds) -> float:
        image = worlds.views.images
        return float(((image[:, :, 0] > 0.3) & (image[:, :, 1:].amax(2) < 0.02)).float().mean())

    assert pure_red(plain) < 0.02
    assert 0.25 < pure_red(worn) < 0.75


def test_frames_of_a_sequence_are_those_of_the_whole() -> None:
    """Also the shading of what turns, and the flow: frame 3 first, then frame 1, of five."""
    whole = render_worlds(range(200, 206), 5, (56, 56), config=ALIVE, pairs=torch.tensor([[[3, 1]]]).expand(6, -1, -1))
    frames, pair = torch.tensor([[3, 1]]).expand(6, -1), torch.tensor([[[0, 1]]]).expand(6, -1, -1)
    some = render_worlds(range(200, 206), 5, (56, 56), config=ALIVE, frames=frames, pairs=pair)
    assert some.moving.any() and torch.equal(some.object_ids, whole.object_ids[:, [3, 1]])
    for label in ("images", "depth", "intrinsics", "world_from_camera"):
        expected = getattr(whole.views, label)[:, [3, 1]]
        torch.testing.assert_close(getattr(some.views, label), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(some.views.flow.displacement, whole.views.flow.displacement, atol=1e-3, rtol=1e-4)
    assert torch.equal(some.views.flow.covisible, whole.views.flow.covisible)


@pytest.mark.parametrize("frames", [[[0, 3]], [[-1, 0]]])
def test_frames_that_a_sequence_does_not_have_are_refused(frames: list) -> None:
    with pytest.raises(ValueError, match=r"expected some of 0\.\.2"):
        render_worlds([1], 3, (28, 28), frames=torch.tensor(frames))


def test_surfaces_wear_the_patterns_that_are_chosen_and_are_as_hard_as_is_said() -> None:
    seeds, chosen = range(6), WorldsConfig(outdoor_share=0.0, patterns=(2, 7), details=(4,), texture=0.0)
    plain = WorldsConfig(outdoor_share=0.0)
    scenes = drawn(seeds, config=plain)
    look = draw_look(seeds, scenes, chosen, difficulty=1.0)
    assert set(look.cell[..., 0].unique().tolist()) == {2, 7} and set(look.cell[..., 1].tolist()[0]) == {BASES + 4}
    easy = draw_look(seeds, scenes, plain, difficulty=0.0)
    assert torch.equal(look.along, easy.along) and torch.equal(look.mixing, easy.mixing)
    assert not torch.equal(look.along, draw_look(seeds, scenes, plain, difficulty=1.0).along)


def test_worlds_move_to_a_device_as_a_whole(still: Worlds) -> None:
    moved = still.to("meta")
    assert moved.views.images.is_meta and moved.views.flow.displacement.is_meta and moved.object_ids.is_meta
