"""Points as a camera sees them: each on its pixel, as large as it should be, the nearest in front."""

import math

import pytest
import torch
from synthetic_room import room_reconstruction

from flow3r.draw import draw_points, look_at, nearest_points, orbit_of, points_along, upwards
from flow3r.geometry.camera import project
from flow3r.geometry.se3 import invert, transform_points

LENS = torch.tensor([[20.0, 0, 16], [0, 20, 12], [0, 0, 1]])
SIZE = (24, 32)


def by_hand(points, pose, lens, size, side, diameter):
    """Every point and every pixel in turn."""
    camera = transform_points(invert(pose), points)
    found = torch.full(size, -1)
    depth = torch.full(size, math.inf)
    for number, (x, y, z) in enumerate(camera.tolist()):
        if z <= 0:
            continue
        half = max(side, float(lens[0, 0] * diameter[number] / z)) / 2
        u, v = float(lens[0, 0]) * x / z + float(lens[0, 2]), float(lens[1, 1]) * y / z + float(lens[1, 2])
        for row in range(size[0]):
            for column in range(size[1]):
                inside = abs(column + 0.5 - u) < half and abs(row + 0.5 - v) < half
                if inside and z < depth[row, column]:
                    depth[row, column], found[row, column] = z, number
    return found


@pytest.mark.parametrize("side", [1.0, 2.5])
def test_the_depth_buffer_agrees_with_every_point_and_pixel_in_turn(side):
    random = torch.Generator().manual_seed(3)
    points = torch.rand(60, 3, generator=random) * torch.tensor([8.0, 6, 7]) - torch.tensor([4.0, 3, 1])
    diameter = torch.rand(60, generator=random) * 0.6
    pose = look_at(torch.tensor([0.3, -0.5, -2]), torch.tensor([0.0, 0, 3]), torch.tensor([0.1, -1, 0]))
    nearest = nearest_points(points, pose, LENS, SIZE, side, diameter)
    assert torch.equal(nearest, by_hand(points, pose, LENS, SIZE, side, diameter))
    assert len(nearest.unique()) > 30


@pytest.mark.parametrize("view", [0, 1, 2])
def test_a_reconstruction_seen_by_its_own_camera_gives_back_its_image(view):
    room = room_reconstruction()
    points, colours = (torch.from_numpy(x[view]).flatten(0, 1) for x in (room.points, room.colours))
    pose, lens = torch.from_numpy(room.world_from_camera[view]).float(), torch.from_numpy(room.intrinsics[view]).float()
    diameter = torch.from_numpy(room.depth[view]).flatten() / lens[0, 0]
    size = room.colours.shape[1:3]
    for options in ({}, {"diameter": diameter}):
        seen = draw_points(points, colours / 255, pose, lens, size, side=1.0, **options)
        assert torch.equal(seen.movedim(0, -1), torch.from_numpy(room.colours[view]) / 255)
        assert torch.equal(
            nearest_points(points, pose, lens, size, 1.0, **options).flatten(), torch.arange(len(points))
        )
    assert len(seen.flatten(1).unique(dim=1).T) == 2  # both of the room's colours


def test_other_views_points_hide_nothing_that_is_nearer():
    """All views' points together, seen by the first camera, lie nowhere behind its own depth."""
    room = room_reconstruction()
    points = torch.from_numpy(room.points).flatten(0, 2)
    pose, lens = torch.from_numpy(room.world_from_camera[0]).float(), torch.from_numpy(room.intrinsics[0]).float()
    nearest = nearest_points(points, pose, lens, room.depth.shape[1:])
    z = transform_points(invert(pose), points)[nearest, 2]
    assert (z <= torch.from_numpy(room.depth[0]) + 1e-5).all()


def test_points_grow_as_they_come_nearer():
    for depth, side in ((10.0, 1), (4.0, 5), (2.0, 10)):
        point = torch.tensor([[0.25 * depth / 20, 0.25 * depth / 20, depth]])
        nearest = nearest_points(point, torch.eye(4), LENS, SIZE, 1.0, torch.tensor([1.0]) if depth < 10 else None)
        assert int((nearest == 0).sum()) == side**2


def test_what_is_not_finite_or_behind_is_not_drawn():
    points = torch.tensor([[0.0, 0, math.nan], [math.inf, 0, 1], [0, 0, -1], [0, 0, 0]])
    assert (nearest_points(points, torch.eye(4), LENS, SIZE) == -1).all()
    assert (nearest_points(torch.zeros(0, 3), torch.eye(4), LENS, SIZE) == -1).all()


def test_a_finer_picture_averages_to_the_same_place():
    point, red = torch.tensor([[0.02, 0.02, 1.0]]), torch.tensor([[1.0, 0, 0]])
    coarse = draw_points(point, red, torch.eye(4), LENS, SIZE, side=1.0)
    fine = draw_points(point, red, torch.eye(4), LENS, SIZE, side=1.0, supersample=4)
    assert fine.shape == coarse.shape == (3, *SIZE)
    weight = (1 - fine[1]) / (1 - fine[1]).sum()
    rows, columns = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    middle = torch.stack([(weight * columns).sum(), (weight * rows).sum()])
    exact = project(point[None], LENS)[0, 0]
    assert (middle - exact).abs().max() <= 0.126  # half a fine pixel
    assert float((1 - fine[1]).sum()) == pytest.approx(1.0)


def test_a_line_is_drawn_from_end_to_end():
    line = points_along(torch.tensor([[[-1.0, 0, 4], [1, 1, 4]]]), count=9)
    assert line[0].tolist() == [-1, 0, 4] and line[-1].tolist() == [1, 1, 4]
    torch.testing.assert_close(line.diff(dim=0), torch.tensor([[0.25, 0.125, 0]]).expand(8, 3))


def test_a_camera_looks_at_its_target_upright():
    centre, target, up = torch.tensor([3.0, -1, 2]), torch.tensor([0.5, 0.5, 9]), torch.tensor([0.0, -1, 0])
    pose = look_at(centre, target, up)
    torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3))
    assert torch.linalg.det(pose[:3, :3]) == pytest.approx(1.0, abs=1e-5)
    seen = transform_points(invert(pose), torch.stack([target, target + up, target + torch.tensor([1.0, 0, 0])]))
    x, y, z = seen.unbind(-1)
    assert x[0].abs() < 1e-5 and y[0].abs() < 1e-5 and z[0] > 0
    assert y[1] < -0.5 and x[1].abs() < 1e-5  # up is up
    assert x[2] > 0.5  # and, for one that looks along +z, +x is right


def test_an_orbit_begins_as_the_cameras_look_and_goes_to_their_right_and_up():
    room = room_reconstruction()
    poses = torch.from_numpy(room.world_from_camera).float()
    points = torch.from_numpy(room.points).flatten(0, 2)
    orbit = orbit_of(points, poses)
    ahead, lens = orbit.camera(0, 0, SIZE)
    assert (ahead[:3, 2] @ poses[:, :3, 2].mean(0)) > 0.99 and (ahead[:3, 1] @ poses[:, :3, 1].mean(0)) > 0.99
    for azimuth, elevation, axis, sign in ((30, 0, 0, 1), (-30, 0, 0, -1), (0, 30, 1, -1)):
        pose, _ = orbit.camera(azimuth, elevation, SIZE)
        moved = transform_points(invert(ahead), pose[None, :3, 3])[0]
        assert sign * moved[axis] > 0.1 * orbit.reach
        middle = project(transform_points(invert(pose), orbit.focus[None])[None], lens)[0, 0]
        torch.testing.assert_close(middle, torch.tensor([16.0, 12]), atol=1e-3, rtol=0)


def test_an_orbit_shows_the_share_of_points_that_it_was_asked_for():
    points = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    orbit = orbit_of(points, torch.eye(4)[None], share=0.8)
    assert ((points - orbit.focus).norm(dim=-1) <= orbit.reach).float().mean() == pytest.approx(0.8, abs=2e-3)
    pose, lens = orbit.camera(70, 20, SIZE)
    edge = orbit.focus + orbit.reach * torch.nn.functional.normalize(points, dim=-1)
    pixels = project(transform_points(invert(pose), edge)[None], lens)[0]
    assert pixels[:, 1].min() >= -0.01 and pixels[:, 1].max() <= 24.01 and pixels[:, 1].max() > 23


def test_a_ring_of_cameras_has_its_axis_upwards_and_begins_at_the_first():
    up = torch.tensor([0.0, 0, 1])
    angles = torch.linspace(0, 2 * math.pi, 7)[:-1]
    centres = torch.stack([angles.cos(), angles.sin(), torch.ones(6)], dim=-1)
    ring = torch.stack([look_at(centre, torch.zeros(3), up) for centre in centres])
    orbit = orbit_of(torch.randn(100, 3), ring)
    torch.testing.assert_close(orbit.up, up)
    torch.testing.assert_close(orbit.forward, torch.tensor([-1.0, 0, 0]))


def test_cameras_back_to_back_are_held_as_the_first_is():
    other = torch.diag(torch.tensor([-1.0, 1, -1, 1]))
    orbit = orbit_of(torch.randn(100, 3), torch.stack([torch.eye(4), other]))
    torch.testing.assert_close(orbit.up, torch.tensor([0.0, -1, 0]))
    torch.testing.assert_close(orbit.forward, torch.tensor([0.0, 0, 1]))


def test_level_cameras_that_all_look_down_have_up_upwards():
    """Their mean up leans forward by the angle at which they look down."""
    up = torch.tensor([0.0, -1, 0])
    targets = torch.tensor([[-2.0, 3, 4], [0, 3, 4], [2, 3, 4]])
    poses = torch.stack([look_at(torch.zeros(3), target, up) for target in targets])
    mean = torch.nn.functional.normalize(-poses[:, :3, 1].mean(0), dim=0)
    assert mean @ up < 0.85 and upwards(poses) @ up > 0.99
    torch.testing.assert_close(upwards(poses[:1]), -poses[0, :3, 1])  # of one camera nothing else is known
