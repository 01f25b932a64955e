"""A sample beside the truth: in its place, the right way round, in the right colours, with its true errors."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from synthetic_room import intrinsics_of, render, walk

from flow3r.data.frame import Frame
from flow3r.data.transforms import fit_frame
from flow3r.draw import nearest_points, paint
from flow3r.eval.page import pictures
from flow3r.eval.page.pictures import (
    ERROR_RAMP,
    MOST_LAYERS,
    UNKNOWN,
    Shown,
    _crowding,
    cloud_pictures,
    colourise_error,
    images_on_grid,
    orbit_around,
    place,
    prediction_maps,
    read_shown,
    shown_views,
    truth_maps,
)
from flow3r.eval.page.trajectories import aligned_centres, trajectory_svg
from flow3r.eval.samples import Sample, write_sample
from flow3r.types import Views

SIZE = (28, 42)
FRAMES = [0, 10, 20]
TURN = np.array([[0.0, -1, 0, 4], [1, 0, 0, -2], [0, 0, 1, 7], [0, 0, 0, 1]])


@pytest.fixture(scope="module", autouse=True)
def _small_clouds():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "CLOUD_SIZE", (90, 120))
        yield


def shown(count: int = 3, scale: float = 0.3, spoil=lambda local: local) -> Shown:
    """A walk through the red and blue room, and a method that knows it, in a world and at a scale of its own."""
    poses, lens = walk(count), intrinsics_of(30.0, SIZE)
    rendered = [render(pose, lens, SIZE) for pose in poses]
    depth = np.stack([d for d, _, _ in rendered])
    frames = [Frame(np.repeat(np.repeat(c, 2, 0), 2, 1), float(k), f"f{k}") for k, (_, _, c) in enumerate(rendered)]
    local = np.stack([(points - pose[:3, 3]) @ pose[:3, :3] for pose, (_, points, _) in zip(poses, rendered)])
    own = poses.copy()
    own[:, :3, 3] *= scale
    sample = Sample(
        frames=np.arange(count),
        world_from_camera=TURN @ own,
        grid_from_image=np.tile(np.diag([0.5, 0.5, 1]), (count, 1, 1)),
        local_points=(scale * spoil(local)).astype(np.float32),
    )
    truth = Views(
        images=torch.zeros(1, count, 3, *SIZE),
        depth=torch.from_numpy(depth).float()[None],
        intrinsics=torch.from_numpy(lens).float().expand(1, count, 3, 3),
        world_from_camera=torch.from_numpy(poses).float()[None],
    )
    return Shown(frames, sample, truth)


def test_an_exact_sample_lies_on_the_truth_wherever_its_world_is():
    one = shown()
    placed = place(one)
    torch.testing.assert_close(placed.cloud.points, placed.truth.points, atol=1e-4, rtol=0)
    torch.testing.assert_close(placed.cloud.world_from_camera, one.truth.world_from_camera[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(placed.cloud.width, placed.truth.width, atol=1e-5, rtol=0)
    assert placed.error.max() < 1e-4 and placed.aligned_by == "the points"


def test_a_mirrored_sample_does_not():
    assert place(shown(spoil=lambda local: local * [-1, 1, 1])).error.median() > 0.1
    assert place(shown(spoil=lambda local: local * [1, -1, 1])).error.median() > 0.1


def test_errors_are_in_units_of_the_truths_spread():
    """One point of many that is off by a tenth of the mean distance to the centroid has error 0.1."""
    one = shown()
    truth = place(one).truth.points.flatten(0, 2)
    s = (truth - truth.mean(0)).norm(dim=-1).mean().item()

    def spoil(local):
        changed = local.copy()
        changed[1, 5, 7, 2] += 0.1 * s
        return changed

    error = place(shown(spoil=spoil)).error
    assert error[1, 5, 7] == pytest.approx(0.1, rel=0.02) and error.flatten().kthvalue(error.numel() - 1)[0] < 1e-3


def test_unknown_truth_and_missing_points_are_told_apart():
    def spoil(local):
        changed = local.copy()
        changed[0, :4] = np.nan
        return changed

    one = shown(spoil=spoil)
    depth = one.truth.depth.clone()
    depth[0, 0, 2:6] = 0
    placed = place(replace(one, truth=replace(one.truth, depth=depth)))
    assert placed.error[0, :2].isinf().all() and placed.error[0, 2:6].isnan().all()
    assert placed.error[0, 6:].max() < 1e-4
    colours = colourise_error(placed.error[0])
    assert (colours[:, :2] == 0).all() and (colours[:, 2:6] == UNKNOWN).all() and colours[:, 6:].min() > 0.99
    assert (placed.depth[0, :4] == 0).all() and (placed.depth[0, 4:] > 0).all()


def test_larger_errors_are_darker_up_to_the_largest():
    colours = colourise_error(torch.tensor([[0.0, 0.02, 0.05, 0.08, 0.1, 3.0]]))
    assert (colours.sum(0)[0].diff()[:4] < -0.1).all()
    torch.testing.assert_close(colours[:, 0, 4:], torch.tensor(ERROR_RAMP[-1])[:, None].expand(3, 2))


def test_without_depth_the_cameras_align_and_without_cameras_the_first_camera_is_the_world():
    one = shown(count=4)  # on a line, about which centres alone would leave them turned by any angle
    exact = place(one)
    posed = place(replace(one, truth=replace(one.truth, depth=None)))
    torch.testing.assert_close(posed.cloud.points, exact.cloud.points, atol=1e-3, rtol=0)
    assert posed.truth is None and posed.error is None and posed.aligned_by == "the cameras"
    alone = place(replace(one, truth=Views(images=one.truth.images)))
    assert alone.aligned_by == "the first camera"
    torch.testing.assert_close(alone.cloud.world_from_camera[0], torch.eye(4), atol=1e-5, rtol=0)
    assert alone.cloud.points[0, ..., 2].median() == pytest.approx(1.0, abs=1e-2)
    for placed in (posed, alone):
        assert truth_maps(placed).isfinite().all() and prediction_maps(placed).isfinite().all()


@pytest.mark.parametrize("spoil", [lambda local: local * np.nan])
def test_what_cannot_be_aligned_has_no_place(spoil):
    assert place(shown(spoil=spoil)) is None
    one = shown()
    assert place(replace(one, sample=None)) is None and place(replace(one, truth=None)) is None


def test_every_point_has_the_colour_of_its_pixel():
    """The aligned cloud, seen by a true camera, is that camera's image: nothing is mirrored or turned."""
    one = shown()
    cloud = place(one).cloud
    for view, frame in enumerate(one.frames):
        pose, lens = one.truth.world_from_camera[0, view], one.truth.intrinsics[0, view]
        points, colours = cloud.points[view].flatten(0, 1), cloud.colours[view].flatten(0, 1)
        seen = paint(nearest_points(points, pose, lens, SIZE), colours)
        expected = torch.from_numpy(frame.image[::2, ::2]) / 255
        assert ((seen.movedim(0, -1) - expected).abs().amax(-1) < 0.01).float().mean() > 0.98


def test_frames_are_cropped_and_resized_as_the_sample_says():
    image = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
    fitted = fit_frame(image, SIZE)
    ours = images_on_grid([Frame(image, 0.0, "a")], fitted.model_from_original[None], SIZE)[0]
    assert np.array_equal((ours * 255).round().byte().movedim(0, -1).numpy(), fitted.image)
    padded = fit_frame(image, SIZE, "pad")
    ours = images_on_grid([Frame(image, 0.0, "a")], padded.model_from_original[None], SIZE)[0].movedim(0, -1)
    inside = padded.valid.copy()
    inside[1:] &= padded.valid[:-1]
    inside[:-1] &= padded.valid[1:]
    off = (ours - torch.from_numpy(padded.image) / 255).abs().amax(-1)
    assert off[torch.from_numpy(inside)].mean() < 0.05 and (ours[[0, -1]] - 128 / 255).abs().mean() < 0.1


class Walk:
    """The frames of a sample of the room, with every label, as a sequence whose frames are every tenth."""

    name = "walk"

    def __init__(self, one: Shown):
        truth, lens = one.truth, np.diag([2.0, 2, 1]) @ intrinsics_of(30.0, SIZE)
        self.all = {
            10 * k: replace(frame, depth=np.kron(truth.depth[0, k].numpy(), np.ones((2, 2), np.float32)),
                            intrinsics=lens, world_from_camera=truth.world_from_camera[0, k].double().numpy())
            for k, frame in enumerate(one.frames)
        }  # fmt: skip

    def __len__(self):
        return 10 * len(self.all)

    def timestamps(self):
        return np.arange(len(self), dtype=np.float64)

    def frames(self, indices):
        return (self.all[index] for index in indices)


def test_what_stage_one_wrote_is_shown_beside_the_truth_on_its_grid(tmp_path):
    one = shown()
    write_sample(tmp_path / "0.npz", replace(one.sample, frames=np.array(FRAMES)))
    read = read_shown(Walk(one), FRAMES, tmp_path / "0.npz")
    assert [frame.name for frame in read.frames] == ["f0", "f1", "f2"]
    assert place(read).error.max() < 1e-4
    near = read_shown(Walk(one), FRAMES, tmp_path / "0.npz", farthest=5.0)
    assert (place(near).error.isnan() == (place(read).true_depth >= 5)).all() and (place(read).true_depth >= 5).any()
    assert read_shown(Walk(one), [0, 20], tmp_path / "0.npz").sample is None  # of other frames
    (tmp_path / "1.npz").write_bytes(b"torn")
    for name in ("1.npz", "absent.npz"):
        assert len(read_shown(Walk(one), [0, 10], tmp_path / name).frames) == 2


def test_clouds_stand_upright_in_every_picture():
    cloud = place(shown()).cloud
    for picture in cloud_pictures(cloud, orbit_around(cloud), (0.0, 1.0, 0.0)):
        red, blue = picture[0] - picture[2] > 0.3, picture[2] - picture[0] > 0.3
        rows = torch.arange(picture.shape[1])[:, None]
        assert red.sum() > 50 and blue.sum() > 50
        assert (rows * red).sum() / red.sum() < (rows * blue).sum() / blue.sum()


def test_the_same_cameras_see_every_method():
    exact, other = place(shown()), place(shown(scale=2.0))
    orbit = orbit_around(exact.truth)
    for a, b in zip(cloud_pictures(exact.cloud, orbit, (0, 0, 0)), cloud_pictures(other.cloud, orbit, (0, 0, 0))):
        assert ((a - b).abs().amax(0) > 0.1).float().mean() < 0.01


def test_maps_are_of_the_first_the_last_and_views_between():
    assert shown_views(1) == [0] and shown_views(2) == [0, 1] and shown_views(8) == [0, 2, 5, 7]
    placed = place(shown(count=2))
    assert truth_maps(placed).shape == prediction_maps(placed).shape


def circles(svg: str) -> list[tuple[float, float]]:
    root = ElementTree.fromstring(svg)
    return [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter() if c.tag.endswith("circle")]


@pytest.mark.parametrize(
    ("step", "above", "aside"),
    [((1, 0, 0), (1, 0), (0, 0)), ((0, 0, 1), (0, -1), (1, 0)), ((0, -1, 0), (0, 0), (0, -1))],
    ids=["right", "forward", "up"],
)
def test_trajectories_are_drawn_the_right_way_round(step, above, aside):
    """Cameras that look along +z with +y down. On the page x goes right and y down."""
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, :3, 3] = torch.arange(3.0)[:, None] * torch.tensor(step).float()
    dots = circles(trajectory_svg(poses, {}, {}, [0, 1, 2]))
    for drawing, expected in ((dots[:3], above), (dots[3:], aside)):
        moved = np.sign(np.round(np.subtract(drawing[2], drawing[0]), 1))
        assert tuple(moved) == expected


def test_a_trajectory_in_another_world_is_drawn_over_the_truth():
    poses = torch.from_numpy(walk(5))
    turned = torch.from_numpy(TURN) @ poses
    turned[:, :3, 3] *= 3
    svg = trajectory_svg(poses, {"exact": aligned_centres(turned, poses)}, {"exact": "#123456"}, list(range(5)))
    dots = circles(svg)
    assert dots[:5] == dots[5:10] and dots[10:15] == dots[15:]
    assert re.search(r"<text[^>]*>0\.\d+</text>", svg)  # the bar's length
    assert aligned_centres(turned[:2], poses[:2]) is None and aligned_centres(turned * torch.nan, poses) is None


def test_cameras_that_a_method_does_not_give_are_left_out():
    poses = torch.from_numpy(walk(5))
    partial = torch.from_numpy(TURN) @ poses
    partial[2] = torch.nan
    centres = aligned_centres(partial, poses)
    assert centres[2].isnan().all()
    torch.testing.assert_close(centres[[0, 1, 3, 4]], poses[[0, 1, 3, 4], :3, 3])
    assert len(circles(trajectory_svg(poses, {"a": centres}, {"a": "#000000"}, list(range(5))))) == 2 * (5 + 4)
    one = shown(count=4)
    own = one.sample.world_from_camera.copy()
    own[1] = np.nan
    placed = place(replace(one, sample=replace(one.sample, world_from_camera=own)))
    assert placed.error[1].isinf().all() and placed.error[[0, 2, 3]].max() < 1e-3
    for picture in cloud_pictures(placed.cloud, orbit_around(placed.cloud), (0.0, 1.0, 0.0), placed.truth):
        assert picture.isfinite().all() and (picture < 0.9).any()
    world = one.sample.prediction().world_points[0].numpy()
    pointed = replace(one.sample, local_points=None, world_points=world, world_from_camera=own)
    assert place(replace(one, sample=pointed)).error.max() < 1e-3  # its points are there all the same


def test_cameras_that_stand_still_are_drawn_too():
    poses = torch.eye(4).repeat(3, 1, 1)
    assert len(circles(trajectory_svg(poses, {"a": torch.zeros(3, 3).double()}, {"a": "#000000"}, [0, 1, 2]))) == 12


def test_a_cloud_next_to_the_camera_is_thinned_and_another_is_not():
    pose, lens = torch.eye(4), torch.tensor([[300.0, 0, 240], [0, 300, 180], [0, 0, 1]])
    far = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([-0.5, -0.5, 4.0])
    assert _crowding(far, torch.full((2000,), 0.01), pose, lens) == 1
    near = far * 0.05  # every point over the most pixels that one may have
    height, width = pictures.CLOUD_SIZE
    layers = 2000 * 64**2 / (height * width)
    assert _crowding(near.repeat(40, 1), torch.full((80_000,), 0.2), pose, lens) == round(40 * layers / MOST_LAYERS)
    behind = far - torch.tensor([0, 0, 10.0])
    assert _crowding(behind.repeat(40, 1), torch.full((80_000,), 0.2), pose, lens) == 1
