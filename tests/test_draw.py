"""Pictures: directions, distances and what is unknown can be told from each other; points are drawn where they are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flow3r.draw import (
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
from flow3r.types import Flow, Prediction, Views

LENS = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]])
SIZE = (24, 32)
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
    picture = draw_points(points, torch.eye(3), torch.eye(4), LENS, SIZE, splat=0)
    assert drawn_at(picture, RED) == (21, 12)
    assert drawn_at(picture, GREEN) == (16, 17)
    assert drawn_at(picture, BLUE) == (11, 7)
    assert (picture.movedim(0, -1).flatten(0, 1) == 1).all(-1).sum() == SIZE[0] * SIZE[1] - 3  # on white


def test_a_camera_that_steps_right_sees_points_further_left() -> None:
    pose = torch.eye(4)
    pose[0, 3] = 1.0
    assert drawn_at(draw_points(torch.tensor([[0.0, 0, 4]]), RED[None], pose, LENS, SIZE, splat=0), RED) == (11, 12)


def test_the_nearer_point_hides_the_farther() -> None:
    points = torch.tensor([[0.0, 0, 2], [0, 0, 5], [0.2, 0, 3], [0.1, 0, 1], [0, 0, -1]])
    colours = torch.stack([RED, GREEN, GREEN, BLUE, torch.zeros(3)])
    order = torch.tensor([4, 1, 0, 2, 3])
    for shuffle in (order, order.flip(0)):
        picture = draw_points(points[shuffle], colours[shuffle], torch.eye(4), LENS, SIZE, splat=0)
        assert torch.equal(picture[:, 12, 16], RED) and torch.equal(picture[:, 12, 18], BLUE)
        assert not (picture == 0).all(0).any()  # what is behind the camera is not drawn


def test_splats_are_squares_cut_at_the_border() -> None:
    picture = draw_points(torch.tensor([[0.0, 0, 1]]), RED[None], torch.eye(4), LENS, SIZE, splat=2)
    assert int((picture[1] == 0).sum()) == 25
    corner = torch.tensor([[(0.5 - 16) / 20, (0.5 - 12) / 20, 1.0]])
    assert int((draw_points(corner, RED[None], torch.eye(4), LENS, SIZE, splat=2)[1] == 0).sum()) == 9


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


def test_training_pictures_show_what_there_is() -> None:
    views = batch(1)
    points = torch.rand(1, 2, 14, 14, 3) + 1
    flow = Flow(views.flow.pairs, torch.randn(1, 1, 14, 14, 2, requires_grad=True), None)
    full = training_picture(views, Prediction(local_points=points.requires_grad_(), flow=flow))
    assert full.shape == (3, 18, 7 * 18) and not full.requires_grad
    assert training_picture(views, Prediction(flow=flow)).shape == (3, 18, 4 * 18)
    unlabelled = Views(images=views.images)
    assert training_picture(unlabelled, Prediction(local_points=points)).shape == (3, 18, 18)
