"""Pictures: directions, distances and what is unknown can be told from each other; points are drawn where they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import TINY, TINY_VGGT, tiny_model
from torch.nn import functional as F

from flow3r.data.worlds import Worlds, render_worlds
from flow3r.draw import (
    cloud_from_above,
    colourise_depth,
    colourise_flow,
    colourise_mask,
    draw_points,
    labels_picture,
    save_png,
    sheet,
    to_bytes,
    training_picture,
)
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_maps
from flow3r.types import Flow, Prediction, Views

LENS = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]])
SIZE = (24, 32)
SEED = 16  # of a world with moving objects in sight
RED, GREEN, BLUE = torch.eye(3)


def towards(*degrees: float, length: float = 5.0) -> torch.Tensor:
    """Flow (1 n 2) of one length in the given directions, clockwise from the right."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return length * torch.stack([angle.cos(), angle.sin()], dim=-1)[None]


def test_every_direction_of_flow_has_its_own_colour() -> None:
    colours = colourise_flow(towards(*range(0, 360, 30)), longest=5.0)[:, 0].T
    apart = torch.cdist(colours, colours) + torch.eye(12)
    assert apart.min() > 0.2
    assert (colours >= 0).all() and (colours <= 1).all()
    right = colours[0]
    assert right[0] == 1 and right[0] > right[1] and right[0] > right[2]  # red


def test_longer_flow_is_more_saturated_and_zero_flow_white() -> None:
    lengths = torch.tensor([0.0, 1.0, 2.0, 4.0, 40.0])
    colours = colourise_flow(torch.stack([lengths, torch.zeros(5)], -1)[None], longest=4.0)[:, 0]
    saturation = colours.amax(0) - colours.amin(0)
    assert torch.equal(colours[:, 0], torch.ones(3))
    assert (saturation.diff()[:3] > 0.1).all() and saturation[3] == saturation[4]


def test_still_flow_is_drawn() -> None:
    assert torch.equal(colourise_flow(torch.zeros(4, 5, 2)), torch.ones(3, 4, 5))


def test_flow_outside_the_mask_is_dark() -> None:
    mask = torch.tensor([[1.0, 0.0]])
    colours = colourise_flow(towards(40, 40), longest=5.0, mask=mask)[:, 0]
    assert colours[:, 1].max() < 0.2
    torch.testing.assert_close(colours[:, 0], colourise_flow(towards(40), longest=5.0)[:, 0, 0])


def test_near_is_brighter_than_far_and_unknown_is_black() -> None:
    depth = torch.linspace(1, 10, 200).view(4, 50)
    depth[0, 0] = 0
    picture = colourise_depth(depth)
    luminance = (picture * torch.tensor([0.3, 0.6, 0.1])[:, None, None]).sum(0).flatten()[1:]
    assert (luminance.diff() <= 1e-6).all() and luminance[0] > luminance[-1] + 0.5
    assert (picture[:, 0, 0] == 0).all() and (picture[:, 0, 1:].amax(0) > 0).all()


def test_depth_pictures_do_not_depend_on_scale() -> None:
    depth = torch.rand(6, 7) + 1
    torch.testing.assert_close(colourise_depth(depth), colourise_depth(100 * depth), atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_depth_is_drawn(value: float) -> None:
    picture = colourise_depth(torch.full((3, 4), value))
    assert picture.isfinite().all() and (picture.amax() > 0) == (value > 0)


def test_masks_are_grey() -> None:
    picture = colourise_mask(torch.tensor([[0.0, 0.5, 1.0, 7.0]]))
    assert torch.equal(picture, torch.tensor([0.0, 0.5, 1.0, 1.0]).expand(3, 1, 4))


def drawn_at(picture: torch.Tensor, colour: torch.Tensor) -> tuple[int, int]:
    """(x, y) of the one pixel of a colour."""
    ((y, x),) = (picture == colour[:, None, None]).all(0).nonzero().tolist()
    return x, y


def test_points_are_drawn_right_when_right_and_below_when_below() -> None:
    points = torch.tensor([[1.0, 0.0, 4.0], [0.0, 1.0, 4.0], [-1.0, -1.0, 4.0]])
    picture = draw_points(points, torch.eye(3), torch.eye(4), LENS, SIZE, side=1)
    assert drawn_at(picture, RED) == (21, 12)
    assert drawn_at(picture, GREEN) == (16, 17)
    assert drawn_at(picture, BLUE) == (11, 7)
    assert (picture.movedim(0, -1).flatten(0, 1) == 1).all(-1).sum() == SIZE[0] * SIZE[1] - 3  # on white


def test_a_camera_that_steps_right_sees_points_further_left() -> None:
    pose = torch.eye(4)
    pose[0, 3] = 1.0
    assert drawn_at(draw_points(torch.tensor([[0.0, 0, 4]]), RED[None], pose, LENS, SIZE, side=1), RED) == (11, 12)


def test_the_nearer_point_hides_the_farther() -> None:
    points = torch.tensor([[0.0, 0, 2], [0, 0, 5], [0.2, 0, 3], [0.1, 0, 1], [0, 0, -1]])
    colours = torch.stack([RED, GREEN, GREEN, BLUE, torch.zeros(3)])
    order = torch.tensor([4, 1, 0, 2, 3])
    for shuffle in (order, order.flip(0)):
        picture = draw_points(points[shuffle], colours[shuffle], torch.eye(4), LENS, SIZE, side=1)
        assert torch.equal(picture[:, 12, 16], RED) and torch.equal(picture[:, 12, 18], BLUE)
        assert not (picture == 0).all(0).any()  # what is behind the camera is not drawn


def test_splats_are_squares_cut_at_the_border() -> None:
    picture = draw_points(torch.tensor([[0.0, 0, 1]]), RED[None], torch.eye(4), LENS, SIZE, side=5)
    assert int((picture[1] == 0).sum()) == 25
    corner = torch.tensor([[(0.5 - 16) / 20, (0.5 - 12) / 20, 1.0]])
    assert int((draw_points(corner, RED[None], torch.eye(4), LENS, SIZE, side=5)[1] == 0).sum()) == 9


def test_no_points_give_a_white_picture() -> None:
    none = torch.zeros(0, 3)
    assert torch.equal(draw_points(none, none, torch.eye(4), LENS, SIZE), torch.ones(3, *SIZE))


def test_sheets_hold_every_picture_in_its_place() -> None:
    red, green = (colour[:, None, None].expand(3, 4, 6) for colour in (RED, GREEN))
    tall_blue = BLUE[:, None, None].expand(3, 8, 6)
    whole = sheet([[red, green, tall_blue], [green]], gap=1)
    assert whole.shape == (3, 2 * 6, 8 + 8 + 5)  # the tall one is 3 wide at the row's height
    assert torch.equal(whole[:, 1:5, 1:7], red) and torch.equal(whole[:, 1:5, 9:15], green)
    assert torch.equal(whole[:, 1:5, 17:20], BLUE[:, None, None].expand(3, 4, 3))
    assert torch.equal(whole[:, 7:11, 1:7], green)
    assert (whole[:, 6:, 9:] == 1).all()


def test_a_saved_picture_is_read_back(tmp_path: Path) -> None:
    picture = torch.rand(3, 5, 7)
    save_png(tmp_path / "picture.png", picture)
    read = np.asarray(Image.open(tmp_path / "picture.png"))
    assert np.array_equal(read, to_bytes(picture).numpy()) and read.shape == (5, 7, 3)
    assert np.abs(read / 255 - picture.movedim(0, -1).numpy()).max() <= 0.5 / 255 + 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def batch(scenes: int = 3) -> Views:
    pairs = torch.tensor([[1, 0]]).expand(scenes, 1, 2)
    flow = Flow(pairs, torch.randn(scenes, 1, 14, 14, 2), torch.ones(scenes, 1, 14, 14))
    return Views(images=torch.rand(scenes, 2, 3, 14, 14), depth=torch.rand(scenes, 2, 14, 14) + 1, flow=flow)


def test_label_pictures_show_source_target_flow_and_covisibility() -> None:
    views = batch()
    picture = labels_picture(views, scenes=2)
    assert picture.shape == (3, 2 * 18, 4 * 18)
    assert torch.equal(picture[:, 2:16, 2:16], views.images[0, 1])  # the pair is 1 -> 0
    assert torch.equal(picture[:, 2:16, 20:34], views.images[0, 0])
    assert torch.equal(picture[:, 2:16, 56:70], torch.ones(3, 14, 14))


@pytest.fixture(scope="module")
def world() -> Worlds:
    """A rendered world of three views, some of it moving, with exact flow from view 1 to view 2."""
    return render_worlds([SEED], 3, (42, 56), pairs=torch.tensor([[[1, 2]]]))


def truth_of(views: Views) -> Prediction:
    local = unproject(views.depth, views.intrinsics)
    world = transform_maps(views.world_from_camera, local)
    return Prediction(local, world, world_from_camera=views.world_from_camera, flow=views.flow)


def columns(views: Views, prediction: Prediction) -> list[torch.Tensor]:
    """The pictures in the first row of the training picture, all as large as the images."""
    height, width = views.images.shape[3:]
    row = training_picture(views, prediction)[:, 2 : 2 + height]
    return [tile[..., 2 : 2 + width] for tile in row.split(width + 4, dim=2)]


def test_the_rigid_flow_of_the_truth_has_the_colours_of_the_exact_label_where_the_world_stands_still(world) -> None:
    views = world.views
    source, target, covisible, label, predicted, rigid, *_ = columns(views, truth_of(views))
    assert torch.equal(source, views.images[0, 1]) and torch.equal(target, views.images[0, 2])
    seen, moving = views.flow.covisible[0, 0] > 0, world.moving[0, 1]
    assert torch.equal(covisible[0] > 0.5, seen) and 0.3 < seen.float().mean() < 1 and (seen & moving).sum() > 20
    torch.testing.assert_close(predicted[:, seen], label[:, seen], atol=1e-6, rtol=0)
    torch.testing.assert_close(rigid[:, seen & ~moving], label[:, seen & ~moving], atol=1e-2, rtol=0)
    assert (rigid - label)[:, seen & moving].abs().mean() > 0.05
    assert label[:, ~seen].max() < 0.2  # a label knows nothing there


def test_the_three_flows_share_one_scale_of_colours(world) -> None:
    views = world.views
    half = replace(views.flow, displacement=0.5 * views.flow.displacement)
    _, _, _, label, predicted, *_ = columns(views, replace(truth_of(views), flow=half))
    seen = (views.flow.covisible[0, 0] > 0) & (label.amin(0) > 0.26)  # not saturated: that has one channel below 1/4
    assert seen.sum() > 100
    torch.testing.assert_close(1 - predicted[:, seen], 0.5 * (1 - label[:, seen]), atol=1e-4, rtol=0)


def test_what_lies_behind_the_target_camera_has_no_rigid_flow(world) -> None:
    beyond = world.views.world_from_camera.clone()
    beyond[:, 2, :3, 3] += 1000 * beyond[:, 2, :3, 2]
    rigid = columns(world.views, replace(truth_of(world.views), world_from_camera=beyond))[5]
    assert rigid.max() < 0.2


def test_depth_right_up_to_scale_and_points_right_up_to_similarity_look_like_the_truth(world) -> None:
    views, right = world.views, truth_of(world.views)
    turned = torch.tensor([[0.6, 0, 0.8, 1], [0, 1, 0, 2], [-0.8, 0, 0.6, 3], [0, 0, 0, 1]])
    scale = torch.diag(torch.tensor([3.0, 3, 3, 1]))
    scaled = replace(
        right,
        local_points=3 * right.local_points,
        world_points=transform_maps((turned @ scale).expand(1, 3, 4, 4), right.world_points),
        world_from_camera=turned @ scale @ views.world_from_camera @ scale.inverse(),
        intrinsics=views.intrinsics,
    )
    *_, depth, predicted_depth, cloud, predicted_cloud = columns(views, scaled)
    torch.testing.assert_close(predicted_depth, depth, atol=1e-3, rtol=0)
    assert (predicted_cloud != cloud).any(0).float().mean() < 0.1  # points on the border of two pixels
    assert (cloud < 1).any(0).float().mean() > 0.2
    wrong = columns(views, replace(scaled, local_points=right.local_points * right.local_points[..., 2:]))[-3]
    assert (wrong - depth).abs().mean() > 0.02


def test_a_cloud_is_seen_from_behind_and_above_its_camera() -> None:
    """What lies straight ahead at the median depth is in the middle, what is nearer below it, what is higher above."""
    ahead, nearer, higher = torch.tensor([[0.0, 0, 4], [0, 0, 3], [0, -1, 4]])
    points = torch.stack([ahead, ahead, nearer, higher, ahead])[None, :, None]
    colours = torch.stack([RED, RED, GREEN, BLUE, RED]).T[None, :, :, None]
    known = torch.ones(1, 5, 1, dtype=torch.bool)
    images = torch.ones(1, 3, *SIZE)
    images[..., :5, :1], known = colours, F.pad(known, (0, SIZE[1] - 1, 0, SIZE[0] - 5))
    points = F.pad(points, (0, 0, 0, SIZE[1] - 1, 0, SIZE[0] - 5))
    picture = cloud_from_above(points, images, known, LENS)
    places = {
        name: (picture == colour[:, None, None]).all(0).nonzero().float().mean(0)
        for name, colour in {"ahead": RED, "nearer": GREEN, "higher": BLUE}.items()
    }
    assert places["ahead"].tolist() == pytest.approx([12, 16], abs=1)  # y, x
    assert places["nearer"][0] > places["ahead"][0] + 1 and places["higher"][0] < places["ahead"][0] - 1
    assert places["nearer"][1] == places["higher"][1] == places["ahead"][1]


@pytest.mark.parametrize("scenes", [1, 2])
def test_training_pictures_show_what_there_is(scenes: int) -> None:
    views = batch(2)
    points = torch.rand(2, 2, 14, 14, 3) + 1
    poses, lens = torch.eye(4).expand(2, 2, 4, 4), torch.diag(torch.tensor([9.0, 9, 1])).expand(2, 2, 3, 3)
    labelled = replace(views, world_from_camera=poses, intrinsics=lens)
    unlabelled = replace(views, depth=None)
    flow = Flow(views.flow.pairs, torch.randn(2, 1, 14, 14, 2, requires_grad=True), None)
    local = Prediction(local_points=points.requires_grad_())
    whole = replace(local, world_points=points, world_from_camera=poses, flow=flow)

    def count(views: Views, prediction: Prediction) -> int:
        picture = training_picture(views, prediction, scenes)
        assert picture.shape[1] == 18 * scenes and picture.isfinite().all() and not picture.requires_grad
        return picture.shape[2] // 18

    assert count(labelled, whole) == 10
    assert count(labelled, Prediction()) == 4 + 2  # the labels alone
    assert count(labelled, replace(whole, flow=None)) == 9
    assert count(unlabelled, whole) == 8
    assert count(unlabelled, Prediction(flow=flow)) == 5
    assert count(unlabelled, Prediction(world_from_camera=poses)) == 4
    assert count(Views(images=views.images), local) == 3
    assert count(replace(labelled, flow=None), local) == 1 + 2 + 2
    none = Flow(views.flow.pairs[:, :0], views.flow.displacement[:, :0], None)
    assert count(replace(unlabelled, flow=none), Prediction()) == 1


def test_the_prediction_may_be_of_the_first_scenes_alone() -> None:
    views = batch(3)
    first = Flow(views.flow.pairs[:2], views.flow.displacement[:2], None)
    assert training_picture(replace(views, depth=None), Prediction(flow=first)).shape == (3, 2 * 18, 5 * 18)


def test_a_cloud_does_not_depend_on_the_frame_of_a_head_of_its_own(world) -> None:
    """The world points of such a head may be turned against the cameras: that shows in the rigid flow alone."""
    right = truth_of(world.views)
    turn = torch.tensor([[0.0, 0, 1, 5], [0, 1, 0, 6], [-1, 0, 0, 7], [0, 0, 0, 1]]).expand(1, 3, 4, 4)
    turned = columns(world.views, replace(right, world_points=transform_maps(turn, right.world_points)))
    shown = columns(world.views, right)
    assert (turned[-1] != shown[-1]).any(0).float().mean() < 0.1
    assert (turned[5] != shown[5]).any(0).float().mean() > 0.5


@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["pi3", "vggt"])
def test_both_families_fill_every_column(config, world) -> None:
    with torch.no_grad():
        prediction = tiny_model(config)(world.views.images, world.views.flow.pairs)
    shown = columns(world.views, prediction)
    assert len(shown) == 10 and all(tile.isfinite().all() and tile.std() > 0 for tile in shown)
