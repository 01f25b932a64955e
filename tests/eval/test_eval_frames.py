"""From posed frames to views with exact flow, on the exact room and on the Motorcycle pair."""

import importlib.metadata
from dataclasses import replace

import numpy as np
import pytest
import torch
from exact_scenes import room_views
from synthetic_room import intrinsics_of, pose, render

from flow3r.data.frame import Frame
from flow3r.errors import InputError
from flow3r.eval.frames import views_from_frames, with_exact_flow
from flow3r.eval.motorcycle import carried_over, motorcycle_depth, motorcycle_files, motorcycle_frames
from flow3r.geometry.camera import unproject
from flow3r.geometry.flow import warp
from flow3r.geometry.se3 import transform_maps


def room_frames(far: float = 0.0) -> list[Frame]:
    """Three frames of the room at an uneven size, the world's origin `far` away."""
    size, poses = (101, 187), [pose(0.1 * k, (0.3 * k, -0.02 * k, 0.0)) for k in range(3)]
    intrinsics = intrinsics_of(150.0, size)
    offset = np.zeros((4, 4))
    offset[:3, 3] = far
    frames = []
    for k, world_from_camera in enumerate(poses):
        depth, _, colours = render(world_from_camera, intrinsics, size)
        frames.append(Frame(colours, float(k), f"frame {k}", depth, intrinsics, world_from_camera + offset))
    return frames


def test_labels_stay_true_on_the_models_grid() -> None:
    views = views_from_frames(room_frames(), (20, 40))
    height, width = views.images.shape[-2:]
    assert height % 14 == 0 and width % 14 == 0 and 20 <= height * width // 196 <= 40
    assert views.images.min() >= 0 and views.images.max() <= 1 and views.names == (("frame 0", "frame 1", "frame 2"),)
    for k in range(3):
        exact, _, _ = render(
            room_frames()[k].world_from_camera, views.intrinsics[0, k].double().numpy(), (height, width)
        )
        error = (views.depth[0, k] - torch.from_numpy(exact)).abs() / torch.from_numpy(exact)
        assert error.median() < 0.02  # the nearest original pixel lies up to half of one away


def test_a_far_origin_costs_no_precision() -> None:
    near, far = (views_from_frames(room_frames(offset), (20, 40)) for offset in (0.0, 1e6))
    torch.testing.assert_close(near.world_from_camera, far.world_from_camera, atol=1e-5, rtol=0)


def test_missing_labels_stay_missing() -> None:
    frames = room_frames()
    assert views_from_frames([replace(frame, depth=None) for frame in frames], (20, 40)).depth is None
    partly = views_from_frames([frames[0], replace(frames[1], depth=None)], (20, 40))
    assert (partly.depth[0, 0] > 0).all() and (partly.depth[0, 1] == 0).all()
    bare = views_from_frames([replace(frames[0], world_from_camera=None, intrinsics=None)], (20, 40))
    assert bare.world_from_camera is None and bare.intrinsics is None


def test_exact_flow_lands_on_the_same_point() -> None:
    views = room_views(3)
    assert views.flow.pairs.tolist() == [[[0, 1], [0, 2], [1, 2]]]
    points = transform_maps(views.world_from_camera, unproject(views.depth, views.intrinsics))
    for k, (source, target) in enumerate(views.flow.pairs[0].tolist()):
        seen = warp(points[0, target].movedim(-1, 0)[None], views.flow.displacement[:, k])[0].movedim(0, -1)
        covisible = views.flow.covisible[0, k] > 0.5
        error = (seen - points[0, source]).norm(dim=-1)[covisible]
        assert covisible.double().mean() > 0.5 and error.median() < 0.02
    again = with_exact_flow(replace(views, flow=None), views.flow.pairs)
    assert torch.equal(again.flow.displacement, views.flow.displacement)


def test_carried_over_depth_keeps_the_nearest_surface() -> None:
    depth = np.zeros((1, 200), dtype=np.float32)
    depth[0, 150], depth[0, 140] = motorcycle_depth(np.array([[30.0, 20.0]], dtype=np.float32))[0]
    right = carried_over(depth)
    # x = 150 with disparity 30 and x = 140 with disparity 20 meet at 120: the larger disparity is nearer.
    assert right[0, 120] == depth[0, 150] < depth[0, 140] and (right > 0).sum() == 1


@pytest.fixture
def motorcycle() -> tuple[Frame, Frame]:
    try:
        motorcycle_files()
    except InputError as error:
        pytest.skip(str(error))
    return motorcycle_frames()


def test_motorcycle_is_the_scene_that_it_is_known_to_be(motorcycle) -> None:
    left, right = motorcycle
    assert left.image.shape == right.image.shape == (490, 622, 3)
    known = left.depth[left.depth > 0]
    assert known.min() == pytest.approx(2.11, abs=0.01) and known.max() == pytest.approx(5.02, abs=0.01)
    for frame in motorcycle:  # principal points in the middle, within a pixel
        assert np.abs(frame.intrinsics[:2, 2] - np.array([311, 245])).max() < 1.0
    assert right.world_from_camera[0, 3] == pytest.approx(0.193001)


def test_motorcycle_depth_and_pose_carry_the_right_image_onto_the_left(motorcycle) -> None:
    views = with_exact_flow(views_from_frames(motorcycle, (800, 1200)), torch.tensor([[[0, 1]]]))
    covisible = views.flow.covisible[0, 0] > 0.5
    assert 0.6 < covisible.double().mean() < 0.95
    difference = (warp(views.images[:, 1], views.flow.displacement[:, 0]) - views.images[:, 0])[0].abs().mean(0)
    unmoved = (views.images[0, 1] - views.images[0, 0]).abs().mean(0)
    assert difference[covisible].mean() < 0.3 * unmoved[covisible].mean()
    wrong_way = (warp(views.images[:, 1], -views.flow.displacement[:, 0]) - views.images[:, 0])[0].abs().mean(0)
    assert difference[covisible].mean() < 0.2 * wrong_way[covisible].mean()


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch) -> None:
    def absent(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    with pytest.raises(InputError, match="pip install"):
        motorcycle_files()
