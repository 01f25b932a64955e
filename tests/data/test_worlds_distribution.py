"""The distribution of procedural worlds: lenses, cameras, motion, overlap, and how held-out worlds differ."""

import pytest
import torch
from torch import Tensor

from flow3r.config import WorldsConfig
from flow3r.data.furnish import draw_scenes
from flow3r.data.paths import CLEARANCE
from flow3r.data.raycast import ground_height
from flow3r.data.scenes import Scenes
from flow3r.data.worlds import mean_relative_poses, render_worlds, sample_cameras
from flow3r.geometry.se3 import invert, rotation_angle
from flow3r.metrics.pose import relative_pose_errors

SIZE = (112, 112)
ALIVE, HELD_OUT = WorldsConfig(moving_share=1.0), WorldsConfig(held_out=True)


def drawn(seeds: range, views: int = 2, config: WorldsConfig = WorldsConfig(), difficulty: float = 1.0) -> Scenes:
    """The scenes behind the worlds of these seeds."""
    return draw_scenes(seeds, views, SIZE, config, difficulty)


def test_cameras_are_in_rooms_above_ground_and_outside_objects() -> None:
    scenes = drawn(range(200), 4)
    centre = scenes.world_from_camera[..., :3, 3]
    from_wall = torch.minimum(centre - scenes.low[:, None], scenes.high[:, None] - centre)
    assert from_wall[~scenes.outdoors].min() > 0.99 * CLEARANCE
    above = -ground_height(scenes.waves, centre[..., 0], centre[..., 2]) - centre[..., 1]
    assert above[scenes.outdoors].min() > 0.99 * CLEARANCE
    in_solid = invert(scenes.world_from_solid) @ scenes.world_from_camera[:, :, None]
    gap = (in_solid[..., :3, 3].abs() - scenes.half[:, None]).clamp_min(0).norm(dim=-1)  # from its bounding box
    assert gap[scenes.active[:, None].expand_as(gap)].min() > 0.99 * CLEARANCE
    assert 0.2 < scenes.outdoors.float().mean() < 0.5
    assert scenes.active.float().mean() > 0.4


@pytest.mark.parametrize("size", [(112, 112), (56, 112), (112, 56)])
def test_lenses_span_the_configured_field_of_view(size: tuple[int, int]) -> None:
    lens = sample_cameras(range(150), 1, size)[1][:, 0]
    across = 2 * torch.rad2deg(torch.atan(size[1] / 2 / lens[:, 0, 0]))
    upright = 2 * torch.rad2deg(torch.atan(size[0] / 2 / lens[:, 1, 1]))
    assert across.min() >= 29.9 and across.max() <= 90.1 and upright.max() <= 127
    assert across.min() < 35 and across.quantile(0.5) > 45  # the whole range is drawn from
    assert torch.equal(lens[:, 0, 0], lens[:, 1, 1])


def rotations(views: int, config: WorldsConfig, difficulty: float = 1.0, scenes: int = 150) -> Tensor:
    """Degrees between consecutive views."""
    pose, _ = sample_cameras(range(3000, 3000 + scenes), views, SIZE, config=config, difficulty=difficulty)
    return rotation_angle(pose[:, :-1, :3, :3].mT @ pose[:, 1:, :3, :3]).rad2deg()


def test_training_motion_spreads_evenly_over_orders_of_magnitude() -> None:
    """Tremor and the aim at a target blur the log-uniform draw from below; overlap trims it from above."""
    angle = rotations(2, WorldsConfig())
    tremor, small, wide = (angle < 3).float().mean(), ((angle >= 3) & (angle < 20)).float().mean(), (angle >= 20)
    assert tremor > 0.15 and small > 0.2 and wide.float().mean() > 0.2
    assert angle.max() > 60


def test_cameras_turn_as_far_whatever_the_difficulty() -> None:
    calm, full = (rotations(2, WorldsConfig(), difficulty) for difficulty in (0.0, 1.0))
    for share in (0.1, 0.5, 0.9):
        assert 0.5 < calm.quantile(share) / full.quantile(share) < 2.0


def test_pans_turn_by_several_patches_and_move_little() -> None:
    pans, orbits = (drawn(range(150), 2, WorldsConfig(pan_share=share, rotation_degrees=(5, 45))) for share in (1, 0))
    across = 2 * torch.atan(pans.intrinsics[:, 0, 2] / pans.intrinsics[:, 0, 0])
    moved = []
    for scenes in (pans, orbits):
        pose = scenes.world_from_camera
        angle = rotation_angle(pose[:, 0, :3, :3].mT @ pose[:, 1, :3, :3])
        moved.append(((pose[:, 1, :3, 3] - pose[:, 0, :3, 3]).norm(dim=-1) / angle).median())
        if scenes is pans:
            assert (angle / across).min() > 0.02 and (angle / across).max() < 0.61 and (angle / across).median() > 0.15
    assert moved[0] < 0.5 * moved[1]  # metres a radian


def test_difficulty_zero_has_no_moving_objects() -> None:
    scenes = drawn(range(20), 3, ALIVE, difficulty=0.0)
    assert torch.equal(scenes.world_from_solid[:, 0], scenes.world_from_solid[:, 2]) and not scenes.moves.any()


def overlaps(seeds: range, views: int, config: WorldsConfig, pairs: list[tuple[int, int]]) -> Tensor:
    """(scenes, pairs): the share of the source that the target sees, at a low resolution."""
    pairs = torch.tensor(pairs).expand(len(seeds), -1, -1)
    return render_worlds(seeds, views, (28, 28), config=config, pairs=pairs).views.flow.covisible.mean((2, 3))


def test_neighbouring_training_views_overlap() -> None:
    least = overlaps(range(100), 3, WorldsConfig(), [(0, 1), (1, 2), (1, 0), (2, 1)]).amin(1)
    assert (least >= 0.19).float().mean() > 0.9 and least.min() > 0.02


@pytest.mark.parametrize("views", [2, 3])
def test_held_out_worlds_are_wide_and_overlap(views: int) -> None:
    seeds = range(5000, 5100)
    poses, _ = sample_cameras(seeds, views, SIZE, config=HELD_OUT)
    still = torch.eye(4).expand(views, 4, 4)
    errors = torch.cat([relative_pose_errors(still, pose).rotation for pose in poses])
    assert (errors < 30).float().mean() <= 0.40  # what predicting the identity would score in RRA@30
    consecutive = rotation_angle(poses[:, :-1, :3, :3].mT @ poses[:, 1:, :3, :3]).rad2deg()
    assert consecutive.min() > 9.9 and consecutive.max() < 120.1
    assert consecutive.quantile(0.1) < 35 and consecutive.quantile(0.9) > 80  # and spread over all of it
    least = overlaps(seeds[:40], views, HELD_OUT, [(0, 1), (1, 0)]).amin(1)
    assert (least >= 0.19).float().mean() > 0.85


def test_mean_poses_are_rigid_and_turn_little() -> None:
    mean = mean_relative_poses(4, scenes=60)
    assert mean.shape == (3, 4, 4)
    rotation = mean[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)
    assert (torch.linalg.det(rotation) > 0).all()
    assert torch.equal(mean[:, 3], torch.tensor([0.0, 0, 0, 1]).expand(3, 4))
    assert rotation_angle(rotation).rad2deg().max() < 8  # turns to the left and to the right cancel
    assert mean_relative_poses(1, scenes=2).shape == (0, 4, 4)
