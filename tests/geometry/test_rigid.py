"""Rigid flow follows from points and cameras alone: not from the world's frame or scale, nor from what is not known."""

from dataclasses import replace

import torch

from flow3r.geometry.camera import centred_intrinsics, unproject
from flow3r.geometry.flow import flow_from_depth
from flow3r.geometry.rigid import predicted_intrinsics, rigid_flow
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle, transform_maps
from flow3r.types import Prediction

PAIRS = torch.tensor([[[0, 1], [2, 0]], [[1, 2], [1, 0]]])
LENS = centred_intrinsics(torch.tensor([[30.0, 40, 50], [35, 30, 60]]), 12, 16)


def scenes() -> Prediction:
    """Two scenes of three views before bumpy walls."""
    depth = 4 + torch.rand(2, 3, 12, 16)
    poses = from_parts(rotation_from_axis_angle(0.05 * torch.randn(2, 3, 3)), 0.1 * torch.randn(2, 3, 3))
    local = unproject(depth, LENS)
    return Prediction(local, transform_maps(poses, local), world_from_camera=poses, intrinsics=LENS)


def test_rigid_flow_is_the_flow_of_the_depth_for_every_pair_and_scene() -> None:
    scene = scenes()
    displacement, depth = rigid_flow(scene, PAIRS)
    assert displacement.shape == (2, 2, 12, 16, 2) and (depth > 3).all()
    for b, row in enumerate(PAIRS.tolist()):
        for p, pair in enumerate(row):
            maps = (scene.depth[b, pair], scene.intrinsics[b, pair], scene.world_from_camera[b, pair])
            expected, covisible = flow_from_depth(*(x[None] for x in maps), tolerance=1.0)
            assert covisible.sum() > 30
            torch.testing.assert_close(displacement[b, p][covisible[0]], expected[0][covisible[0]], atol=1e-4, rtol=0)


def test_rigid_flow_knows_no_world_frame_and_no_scale() -> None:
    scene = scenes()
    turn = from_parts(rotation_from_axis_angle(torch.tensor([0.3, 2.0, -1.0])), torch.tensor([1.0, -2, 3]))
    scale = torch.diag(torch.tensor([5.0, 5, 5, 1]))
    moved = replace(
        scene,
        world_points=transform_maps((turn @ scale).expand(2, 3, 4, 4), scene.world_points),
        world_from_camera=turn @ scale @ scene.world_from_camera @ scale.inverse(),
    )
    torch.testing.assert_close(rigid_flow(moved, PAIRS)[0], rigid_flow(scene, PAIRS)[0], atol=1e-3, rtol=0)


def test_unknown_intrinsics_are_read_off_the_points() -> None:
    scene = scenes()
    unknown = replace(scene, intrinsics=None)
    torch.testing.assert_close(predicted_intrinsics(unknown), LENS, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(rigid_flow(unknown, PAIRS)[0], rigid_flow(scene, PAIRS)[0], atol=1e-3, rtol=0)


def test_points_behind_the_target_are_told_by_their_depth() -> None:
    scene = scenes()
    poses = scene.world_from_camera.clone()
    poses[:, 0, 2, 3] += 100  # far beyond the walls
    displacement, depth = rigid_flow(replace(scene, world_from_camera=poses), PAIRS)
    assert (depth[0, 1] < 0).all() and (depth[1, 1] < 0).all() and (depth[:, 0] > 0).all()
    assert displacement.isfinite().all()
