"""The classical baseline finds the cameras of worlds, leaves out what it cannot see, and says the same twice."""

import sys
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch

from flow3r.config import WorldsConfig
from flow3r.data.frame import Frame
from flow3r.data.transforms import fit_depth
from flow3r.data.worlds import render_worlds
from flow3r.errors import InputError
from flow3r.eval.methods import Method, classical_sfm
from flow3r.eval.methods.classical_depth import interpolated_depth
from flow3r.eval.methods.classical_sfm import ClassicalMethod
from flow3r.eval.samples import read_sample, write_sample
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import rotation_angle, transform_maps

pytest.importorskip("pycolmap")
pytest.importorskip("cv2")

WORLD, VIEWS, SIZE = 2**40 + 5, 6, (240, 320)
HELD_OUT = WorldsConfig(held_out=True)
QUICK = ClassicalMethod(tokens=200)


@cache
def world():
    return render_worlds([WORLD], VIEWS, SIZE, config=HELD_OUT).views


def frames_of(images) -> list[Frame]:
    return [Frame(image, float(k), f"frame {k}") for k, image in enumerate(images)]


@cache
def images() -> tuple[np.ndarray, ...]:
    return tuple((world().images[0].movedim(1, -1) * 255).round().byte().numpy())


@cache
def solved():
    return QUICK(frames_of(images()), ())


def rotation_errors(poses: np.ndarray) -> list[float]:
    """Degrees, of all pairs of views."""
    truth = world().world_from_camera[0].double().numpy()
    found, true = (
        np.stack([(np.linalg.inv(own[i]) @ own[j])[:3, :3] for i, j in combinations(range(len(poses)), 2)])
        for own in (poses, truth)
    )
    return torch.rad2deg(rotation_angle(torch.from_numpy(found.swapaxes(1, 2) @ true))).tolist()


def test_it_is_a_method_and_its_settings_are_its_fingerprint():
    assert isinstance(QUICK, Method)
    assert QUICK.fingerprint == ClassicalMethod(tokens=200).fingerprint != ClassicalMethod().fingerprint


def test_the_cameras_of_a_world_are_found_by_its_images_alone():
    sample = solved()
    assert sample.facts["registered"] == VIEWS
    assert max(rotation_errors(sample.world_from_camera)) < 3
    to_image = np.linalg.inv(sample.grid_from_image)
    focal = (to_image @ sample.intrinsics)[:, 0, 0]
    assert np.allclose(focal, world().intrinsics[0, 0, 0, 0].item(), rtol=0.1)
    assert np.ptp(focal) < 1e-6  # one lens
    assert np.isfinite(sample.local_points).all()


def test_a_sample_of_it_keeps_the_contract(tmp_path):
    write_sample(tmp_path / "0.npz", solved())
    read = read_sample(tmp_path / "0.npz")
    assert read.facts == solved().facts and read.size == solved().size


def test_the_same_frames_give_the_same_cameras_to_the_last_bit():
    again = QUICK.track(frames_of(images()))
    assert np.array_equal(again.world_from_camera, solved().world_from_camera)


def test_a_frame_of_another_place_is_left_out_and_never_invented():
    elsewhere = render_worlds([WORLD + 1], 1, SIZE, config=HELD_OUT).views.images[0, 0]
    other = (elsewhere.movedim(0, -1) * 255).round().byte().numpy()
    tracked = QUICK.track(frames_of([*images(), other]))
    assert tracked.registered.tolist() == [True] * VIEWS + [False]
    assert np.isnan(tracked.world_from_camera[-1]).all() and len(tracked.points[-1]) == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_images_that_show_nothing_give_nothing_and_say_so(count):
    sample = QUICK(frames_of([np.full((56, 70, 3), 90, np.uint8)] * count), ())
    assert np.isnan(sample.world_from_camera).all() and np.isnan(sample.local_points).all()
    assert np.isnan(sample.intrinsics).all()
    assert sample.facts["registered"] == 0 and "no pair" in sample.facts["unregistered"]


def test_two_views_of_the_guessed_focal_length_are_solved_exactly():
    drawn = np.random.default_rng(0)
    intrinsics = classical_sfm._guess((480, 640), 1.2)
    second = np.eye(4)  # camera 2 from camera 1
    angle = 0.3
    second[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    second[:3, 3] = [-0.6, 0.1, 0.2]
    points = drawn.uniform([-1, -1, 3], [1, 1, 6], (80, 3))
    seen = []
    for pose in (np.eye(4), second):
        pixels = (points @ pose[:3, :3].T + pose[:3, 3]) @ intrinsics.T
        seen.append((pixels[:, :2] / pixels[:, 2:]).astype(np.float32))
    matches = np.stack([np.arange(80)] * 2, axis=1)
    verified = {(0, 1): classical_sfm._verify(seen[0], seen[1], matches, 1.0, 0.8)}
    tracked = classical_sfm._two_views(seen, verified, np.stack([intrinsics] * 2), 1.0)
    found = np.linalg.inv(tracked.world_from_camera[1])
    assert np.allclose(found[:3, :3], second[:3, :3], atol=1e-4)
    scale = np.linalg.norm(second[:3, 3])
    assert np.allclose(found[:3, 3] * scale, second[:3, 3], atol=1e-3)
    errors = np.linalg.norm(tracked.points[0] * scale - points[: len(tracked.points[0])], axis=1)
    assert len(tracked.points[0]) == 80 and np.median(errors) < 0.01


def plane(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Intrinsics, a pose, and the z-depth of a slanted plane: its inverse is linear in the pixels."""
    intrinsics = torch.tensor([[60.0, 0, size[1] / 2], [0, 60.0, size[0] / 2], [0, 0, 1]]).double()
    pose = torch.from_numpy(classical_pose()).double()
    x = torch.arange(size[1]).double() + 0.5
    return intrinsics, pose, (1 / (0.2 + 0.001 * x)).expand(size)


def classical_pose() -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = [[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    pose[:3, 3] = [5, -2, 1]
    return pose


def test_a_plane_is_interpolated_from_its_points():
    size = (48, 64)
    intrinsics, pose, truth = plane(size)
    points = transform_maps(pose[None], unproject(truth[None], intrinsics[None]))[0]
    sparse = points[2::5, 2::5].reshape(-1, 3)
    depth = interpolated_depth(sparse, intrinsics, pose, size)
    assert depth[2::5, 2::5].numpy() == pytest.approx(truth[2::5, 2::5].numpy(), rel=1e-5)
    assert ((depth - truth).abs() / truth).max() < 0.02
    assert interpolated_depth(points.reshape(-1, 3), intrinsics, pose, size).numpy() == pytest.approx(
        truth.numpy(), rel=1e-5
    )


def test_a_view_without_points_before_it_has_no_depth():
    intrinsics, pose, _ = plane((24, 32))
    behind = transform_maps(pose[None], torch.tensor([[[[0.0, 0.0, -3.0]]]]).double())[0, 0]
    for points in (torch.zeros(0, 3), behind):
        assert interpolated_depth(points, intrinsics, pose, (24, 32)).isnan().all()


def test_depth_of_a_world_is_right_where_there_is_something_to_see():
    views, sample = world(), solved()
    depth = sample.local_points[..., 2]
    truth = np.stack([fit_depth(d, a, sample.size) for d, a in zip(views.depth[0].numpy(), sample.grid_from_image)])
    known = truth > 0
    scale = np.median(truth[known] / depth[known])
    assert np.median(np.abs(scale * depth - truth)[known] / truth[known]) < 0.1


def test_frames_of_one_size_share_a_camera():
    assert classical_sfm._camera_of([(4, 6), (6, 4), (4, 6)]) == [1, 2, 1]


def test_without_pycolmap_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(InputError, match=r"pip install 'flow3r\[colmap\]'"):
        _ = QUICK.fingerprint
