"""Loops: a path that comes back is recognised, proved and closed; places that only look alike are not."""

import numpy as np
import torch
from oracle_walk import TOKENS, Oracle, Walk, length_of, stroll

from flow3r.metrics.pose import trajectory_errors
from flow3r.reconstruction import reconstruct
from flow3r.reconstruction.loops import find_candidates


def rebuilt(poses, model, **settings):
    return reconstruct(Walk(poses, papered=True), model, max_frames=None, tokens=TOKENS, views_per_window=8, **settings)


def ate(found, poses):
    return trajectory_errors(torch.from_numpy(found.world_from_camera), torch.from_numpy(poses)).ate


def test_closing_a_loop_takes_back_most_of_a_drift():
    poses = stroll(64)
    open_path = rebuilt(poses, Oracle(poses, bend=0.01))
    closed = rebuilt(poses, Oracle(poses, bend=0.01), loops=True)
    assert ate(open_path, poses) > 0.01 * length_of(poses)
    assert ate(closed, poses) < 0.2 * ate(open_path, poses)
    (note,) = closed.notes
    assert note.startswith("loops: ") and not note.startswith("loops: 0") and open_path.notes == ()
    gap = np.linalg.norm(closed.world_from_camera[-1, :3, 3] - closed.world_from_camera[0, :3, 3])
    assert gap < 0.25 * np.linalg.norm(open_path.world_from_camera[-1, :3, 3] - open_path.world_from_camera[0, :3, 3])


def test_depth_and_points_follow_their_cameras_when_a_loop_is_closed():
    poses = stroll(32)
    found = rebuilt(poses, Oracle(poses, bend=0.002), loops=True)
    for frame in (0, 15, 31):
        camera_from_world = np.linalg.inv(found.world_from_camera[frame])
        local = found.points[frame] @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
        np.testing.assert_allclose(local[..., 2], found.depth[frame], rtol=1e-4)


def test_a_path_that_does_not_come_back_is_left_alone():
    poses = stroll(40)[:20]
    plain, searched = (rebuilt(poses, Oracle(poses), loops=loops) for loops in (False, True))
    assert searched.notes == ("loops: 0 found and closed",)
    np.testing.assert_array_equal(plain.world_from_camera, searched.world_from_camera)


def test_a_model_that_sees_one_place_everywhere_closes_no_loop():
    """Whatever the pictures, this one says that later frames stand where the first ones stood."""

    class Lying(Oracle):
        def forward(self, images, *, outputs):
            prediction = super().forward(images, outputs=outputs)
            if self.windows[-1][-1] - self.windows[-1][0] >= len(self.windows[-1]):
                half = images.shape[1] // 2
                for values in (prediction.local_points, prediction.world_from_camera):
                    values[0, half : 2 * half] = values[0, :half]
            return prediction

    poses = stroll(40)[:20]
    model = Lying(poses)
    walk = Walk(poses, papered=True)
    alike = np.stack([frame.image for frame in walk.frames([0])])[0]

    class Alike(Walk):
        def frames(self, indices):
            for frame in super().frames(indices):
                frame.image[::2, 1:] = alike[::2, 1:]  # half of the lines: alike, but not the same
                yield frame

    found = reconstruct(
        Alike(poses, papered=True), model, max_frames=None, tokens=TOKENS, views_per_window=8, loops=True
    )
    assert found.notes == ("loops: 0 found and closed",)


def test_candidates_are_the_most_alike_frames_of_windows_that_do_not_touch():
    thumbnails = torch.nn.functional.normalize(torch.randn(40, 50, generator=torch.Generator().manual_seed(0)), dim=1)
    windows = torch.arange(40) // 8
    thumbnails[37] = thumbnails[3]
    thumbnails[36] = torch.nn.functional.normalize(thumbnails[4] + 0.1 * thumbnails[5], dim=0)
    thumbnails[12] = thumbnails[2]  # of neighbouring windows
    assert find_candidates(thumbnails, windows) == [(3, 37)]
    assert find_candidates(thumbnails[:16], windows[:16]) == []
