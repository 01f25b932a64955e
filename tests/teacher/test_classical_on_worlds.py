"""A judge that knows nothing of either: the teacher errs on worlds as it errs on real pairs whose flow is known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flow3r.config import WorldsConfig
from flow3r.data.datasets.folder import CameraFolder
from flow3r.data.images import read_image
from flow3r.data.worlds import render_worlds
from flow3r.geometry.flow import flow_from_depth
from flow3r.teacher.classical import ClassicalTeacher

# Of the gates for pairs only the covisible share: small motion counts here too.
TEACHER = ClassicalTeacher(least_motion=0.0, covisible_share=(0.25, 1.0), least_matches=10**9, enough_features=10**9)


def median_error(images: torch.Tensor, truth: torch.Tensor, known: torch.Tensor) -> float:
    """Median end-point error where the teacher and the truth both know the flow, in pixels of images 336 long.

    NaN if the teacher refuses the pair.
    """
    labels = TEACHER(images, torch.tensor([[0, 1]]))
    both = (labels.flow.covisible[0, 0] > 0) & known
    error = (labels.flow.displacement[0, 0] - truth).norm(dim=-1)[both]
    return float(error.median()) * 336 / max(images.shape[2:])


def stack(*images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).movedim(-1, 1).float() / 255


def read_flo(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    content = path.read_bytes()
    width, height = np.frombuffer(content[4:12], "<i4")
    flow = torch.from_numpy(np.frombuffer(content[12:], "<f4").reshape(height, width, 2).copy())
    known = (flow.abs() < 1e9).all(-1)
    return torch.where(known[..., None], flow, 0.0), known


def optical_flow_error(first: Path, second: Path, flow: Path) -> float:
    return median_error(stack(read_image(first), read_image(second)), *read_flo(flow))


def stereo_error(folder: Path) -> float:
    """The disparity lies on the left grid: right(x - d) = left(x)."""
    disparity = np.load(folder / "motorcycle_disp.npz")["arr_0"]
    known = np.isfinite(disparity)
    truth = np.stack([-np.where(known, disparity, 0), np.zeros_like(disparity)], -1)
    left, right = (read_image(folder / f"motorcycle_{side}.png") for side in ("left", "right"))
    return median_error(stack(left, right), torch.from_numpy(truth).float(), torch.from_numpy(known))


def folder_error(folder: Path, starts: list[int]) -> float:
    """Flow of the static scene from the sensor's depth and poses, median over pairs of neighbours."""
    errors = []
    for start in starts:
        a, b = CameraFolder(folder).frames([start, start + 1])
        labels = [(frame.depth, frame.intrinsics, frame.world_from_camera) for frame in (a, b)]
        flow, known = flow_from_depth(*(torch.from_numpy(np.stack(both))[None].double() for both in zip(*labels)))
        errors.append(median_error(stack(a.image, b.image), flow[0].float(), known[0]))
    return float(np.nanmedian(errors))


@pytest.fixture(scope="module")
def world_errors() -> list[float]:
    """Pairs of views with the motion of the real pairs: a few pixels to a tenth of the width."""
    config, pairs = WorldsConfig(rotation_degrees=(0.2, 10.0)), torch.tensor([[[0, 1]]])
    errors = []
    for seed in range(14):
        views = render_worlds([seed], 2, (224, 336), pairs=pairs, config=config).views
        known = views.flow.covisible[0, 0] > 0
        truth = views.flow.displacement[0, 0]
        if truth.norm(dim=-1)[known].median() < 40:
            errors.append(median_error(views.images[0], truth, known))
    return errors


def test_the_teacher_is_right_on_worlds(world_errors):
    accepted = [error for error in world_errors if not np.isnan(error)]
    assert len(accepted) >= 6
    assert np.median(accepted) < 0.8


def geometric_mean(errors: list[float]) -> float:
    return float(np.exp(np.nanmean(np.log(errors))))


def test_the_teachers_error_on_worlds_is_that_on_real_pairs(shared, world_errors):
    """Real pairs whose flow is known exactly; where a depth sensor says it, its own error adds to the teacher's."""
    data = shared / "data"
    whale, sintel = data / "flow_gt/middlebury_rubberwhale", data / "flow_gt/sintel_pair"
    exact = {
        "rubberwhale": optical_flow_error(whale / "frame10.png", whale / "frame11.png", whale / "flow10.flo"),
        "sintel": optical_flow_error(sintel / "frame_0001.png", sintel / "frame_0002.png", sintel / "frame_0001.flo"),
        "motorcycle": stereo_error(data / "pairs_with_gt/motorcycle_stereo"),
        "room": folder_error(data / "sequences_with_gt/pi3_room_synthetic", [0]),
    }
    sensor = folder_error(data / "sequences_with_gt/hololens_office", [0, 9, 19, 38, 76])
    assert not np.isnan(list(exact.values())).any()
    assert max(exact["rubberwhale"], exact["sintel"]) < 0.15
    assert 0.5 < geometric_mean(world_errors) / geometric_mean(list(exact.values())) < 2
    assert geometric_mean(world_errors) < sensor < 1
