"""Pose metrics against closed forms and an independent numpy twin."""

import math

import numpy as np
import pytest
import torch

from flow3r.geometry.se3 import from_parts, quaternion_from_rotation, rotation_from_axis_angle
from flow3r.metrics.pose import pair_scores, relative_pose_errors, trajectory_errors


def random_poses(views: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = rotation_from_axis_angle(torch.randn(views, 3, generator=generator, dtype=torch.float64))
    return from_parts(rotation, torch.randn(views, 3, generator=generator, dtype=torch.float64))


def similar(poses: torch.Tensor, scale: float, seed: int = 9) -> torch.Tensor:
    """The same cameras in another world frame and unit."""
    change = random_poses(1, seed)[0]
    centre = scale * (poses[:, :3, 3] @ change[:3, :3].T) + 5 * change[:3, 3]
    return from_parts(change[:3, :3] @ poses[:, :3, :3], centre)


def about(axis: int, degrees: float) -> torch.Tensor:
    vector = torch.zeros(3, dtype=torch.float64)
    vector[axis] = math.radians(degrees)
    return rotation_from_axis_angle(vector)


def test_truth_in_another_frame_and_unit_is_perfect() -> None:
    truth = random_poses(8)
    errors = relative_pose_errors(similar(truth, 3.7), truth)
    scores = pair_scores(errors)
    assert errors.rotation.numel() == 28
    assert errors.rotation.max() < 1e-6 and errors.translation_signed.max() < 1e-6
    assert scores.rra == scores.rta == scores.rta_signed == (100.0, 100.0, 100.0)
    assert scores.auc == 100.0
    trajectory = trajectory_errors(similar(truth, 3.7), truth)
    assert trajectory.ate < 1e-9 and trajectory.rpe_translation < 1e-9 and trajectory.rpe_rotation < 1e-6
    assert trajectory.scale == pytest.approx(1 / 3.7) and trajectory.degenerate == ()


@pytest.mark.parametrize("degrees", [1e-4, 4.0, 17.0, 90.0, 179.9999])
def test_rotating_one_camera_of_two_gives_that_angle(degrees: float) -> None:
    truth = random_poses(2)
    prediction = truth.clone()
    prediction[0, :3, :3] = prediction[0, :3, :3] @ about(1, degrees)
    errors = relative_pose_errors(prediction, truth)
    torch.testing.assert_close(errors.rotation, torch.tensor([degrees], dtype=torch.float64), atol=1e-8, rtol=1e-9)
    # The direction is expressed in the target camera, which did not move: w2c form.
    assert errors.translation.item() < 1e-9


def test_rotating_the_target_camera_turns_the_direction_too() -> None:
    truth = from_parts(torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]))
    prediction = truth.clone()
    prediction[1, :3, :3] = about(2, 20.0).float()  # about z, at right angles to the baseline along x
    errors = relative_pose_errors(prediction, truth)
    assert errors.rotation.item() == pytest.approx(20.0, abs=1e-4)
    assert errors.translation.item() == pytest.approx(20.0, abs=1e-4)


def test_opposite_direction_is_forgiven_by_rta_and_not_by_the_signed_one() -> None:
    truth = from_parts(torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0, 0], [1.0, 0.5, 0]]))
    prediction = from_parts(torch.eye(3).expand(2, 3, 3), torch.tensor([[0.0, 0, 0], [-2.0, -1.0, 0]]))
    errors = relative_pose_errors(prediction, truth)
    assert errors.translation.item() == pytest.approx(0.0, abs=1e-5)
    assert errors.translation_signed.item() == pytest.approx(180.0, abs=1e-5)


def test_thresholds_are_strict_and_shares_are_exact() -> None:
    truth = from_parts(torch.eye(3, dtype=torch.float64).expand(3, 3, 3), torch.eye(3, dtype=torch.float64))
    prediction = truth.clone()
    # Pairs (0, 1), (0, 2) are off by 10 degrees, (1, 2) not at all.
    prediction[0, :3, :3] = about(0, 10.0)
    scores = pair_scores(relative_pose_errors(prediction, truth))
    assert scores.rra == pytest.approx((100 / 3, 100.0, 100.0))
    errors = relative_pose_errors(prediction, truth)
    at_thirty = pair_scores(
        type(errors)(
            rotation=torch.tensor([30.0, 5.0]),
            translation=torch.tensor([29.0, 15.0]),
            translation_signed=torch.tensor([29.0, 165.0]),
            static=torch.zeros(2, dtype=torch.bool),
            failed=torch.zeros(2, dtype=torch.bool),
        )
    )
    assert at_thirty.rra == (0.0, 50.0, 50.0)
    assert at_thirty.rta == (0.0, 0.0, 100.0)
    assert at_thirty.rta_signed == (0.0, 0.0, 50.0)


def test_no_baseline_has_a_right_angle_of_error_and_is_counted() -> None:
    truth = random_poses(3)
    static = from_parts(truth[:, :3, :3], truth[:1, :3, 3].expand(3, 3))
    predicted_static = relative_pose_errors(static, truth)
    assert (predicted_static.translation == 90).all() and (predicted_static.translation_signed == 90).all()
    assert not predicted_static.static.any()
    truly_static = relative_pose_errors(truth, static)
    assert (truly_static.translation == 90).all() and truly_static.static.all()
    assert pair_scores(truly_static).static_pairs == 3
    assert relative_pose_errors(truth, truth, least_baseline=1e9).static.all()


def test_strict_leaves_static_pairs_out_of_direction_and_keeps_them_in_rotation() -> None:
    truth = random_poses(4)
    truth[1, :3, 3] = truth[0, :3, 3]
    prediction = truth.clone()
    prediction[3, :3, :3] = prediction[3, :3, :3] @ about(0, 60.0)
    errors = relative_pose_errors(prediction, truth)
    reference, strict = pair_scores(errors), pair_scores(errors, "strict")
    assert reference.static_pairs == strict.static_pairs == 1
    assert reference.rra == strict.rra == (50.0, 50.0, 50.0)
    right = (errors.translation < 30).sum().item()  # of six pairs, the static one is wrong whatever is predicted
    assert reference.rta[-1] == pytest.approx(100 * right / 6) and strict.rta[-1] == pytest.approx(100 * right / 5)
    assert reference.auc == pytest.approx(100 * 2 / 6) and strict.auc == pytest.approx(100 * 2 / 5)
    everything_static = pair_scores(relative_pose_errors(truth, truth, least_baseline=1e9), "strict")
    assert everything_static.rra == (100.0,) * 3 and everything_static.static_pairs == 6
    assert all(map(math.isnan, (*everything_static.rta, everything_static.auc)))


def test_a_pose_that_is_not_finite_fails_its_pairs_and_no_others() -> None:
    truth = random_poses(4)
    prediction = truth.clone()
    prediction[2, 1, 1] = torch.nan
    errors = relative_pose_errors(prediction, truth)
    scores = pair_scores(errors)
    assert scores.failed_pairs == 3 and scores.pairs == 6
    assert (errors.rotation[errors.failed] == 180).all() and (errors.translation_signed[errors.failed] == 180).all()
    assert (errors.translation[errors.failed] == 90).all()
    assert scores.rra == scores.rta == (50.0, 50.0, 50.0) and scores.auc == 50.0


def test_predicted_rotations_are_brought_to_so3() -> None:
    truth = random_poses(3)
    prediction = truth.clone()
    prediction[:, :3, :3] *= 1.7
    assert relative_pose_errors(prediction, truth).rotation.max() < 1e-6


def test_unusable_input_is_named() -> None:
    truth = random_poses(2)
    with pytest.raises(ValueError, match="two views"):
        relative_pose_errors(truth[:1], truth[:1])
    with pytest.raises(ValueError, match="not finite"):
        relative_pose_errors(truth, truth * torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        trajectory_errors(random_poses(3), random_poses(3) * torch.inf)


def numpy_trajectory(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """ATE and RPE written out: Umeyama 1991 on the centres, then loops over views with 4 x 4 inverses."""
    x, y = prediction[:, :3, 3], truth[:, :3, 3]
    mx, my = x.mean(0), y.mean(0)
    u, d, vt = np.linalg.svd((y - my).T @ (x - mx) / len(x))
    fix = np.diag([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ fix @ vt
    scale = np.trace(np.diag(d) @ fix) / ((x - mx) ** 2).sum(1).mean()
    offset = my - scale * rotation @ mx
    aligned = []
    for pose in prediction:
        moved = np.eye(4)
        moved[:3, :3] = rotation @ pose[:3, :3]
        moved[:3, 3] = scale * rotation @ pose[:3, 3] + offset
        aligned.append(moved)
    ate = math.sqrt(np.mean([np.sum((a[:3, 3] - t[:3, 3]) ** 2) for a, t in zip(aligned, truth)]))
    shifts, angles = [], []
    for k in range(len(truth) - 1):
        step = np.linalg.inv(truth[k]) @ truth[k + 1]
        error = np.linalg.inv(step) @ np.linalg.inv(aligned[k]) @ aligned[k + 1]
        shifts.append(np.sum(error[:3, 3] ** 2))
        angles.append(math.degrees(math.acos(np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1))) ** 2)
    return ate, math.sqrt(np.mean(shifts)), math.sqrt(np.mean(angles))


@pytest.mark.parametrize("seed", range(5))
def test_trajectory_errors_equal_their_numpy_twin(seed: int) -> None:
    truth, prediction = random_poses(8, seed), similar(random_poses(8, seed + 100), 0.3)
    ours = trajectory_errors(prediction, truth)
    expected = numpy_trajectory(prediction.numpy(), truth.numpy())
    assert (ours.ate, ours.rpe_translation, ours.rpe_rotation) == pytest.approx(expected, rel=1e-9)


def test_reversing_the_views_leaves_all_pose_errors_but_no_order_of_pairs() -> None:
    truth, prediction = random_poses(6), random_poses(6, 1)
    assert trajectory_errors(prediction.flip(0), truth.flip(0)).ate == pytest.approx(
        trajectory_errors(prediction, truth).ate
    )
    forward = relative_pose_errors(prediction, truth).rotation.sort().values
    torch.testing.assert_close(forward, relative_pose_errors(prediction.flip(0), truth.flip(0)).rotation.sort().values)


def test_rotation_drift_is_the_rpe_rotation() -> None:
    truth = random_poses(6)
    drift = torch.stack([about(1, 3.0 * k) for k in range(6)])
    prediction = from_parts(truth[:, :3, :3] @ drift, truth[:, :3, 3])
    trajectory = trajectory_errors(prediction, truth)
    assert trajectory.ate < 1e-9
    # R'ₖRₖ₊₁ against B'ₖ(R'ₖRₖ₊₁)Bₖ₊₁ with Bₖ = 3k degrees about y; the two agree only where the step commutes with B.
    steps = truth[:-1, :3, :3].mT @ truth[1:, :3, :3]
    errors = steps.mT @ (drift[:-1].mT @ steps @ drift[1:])
    cosine = ((errors.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1)
    assert trajectory.rpe_rotation == pytest.approx(cosine.acos().rad2deg().square().mean().sqrt().item(), rel=1e-6)


def test_two_cameras_have_no_trajectory_error() -> None:
    assert trajectory_errors(random_poses(2), random_poses(2, 1)) is None


def test_a_collinear_trajectory_is_solved_and_marked() -> None:
    centre = torch.arange(5, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    truth = from_parts(random_poses(5)[:, :3, :3], centre)
    prediction = similar(truth, 0.1)
    trajectory = trajectory_errors(prediction, truth)
    assert trajectory.ate < 1e-9 and trajectory.rpe_translation < 1e-9
    assert trajectory.degenerate == ("truth is collinear", "prediction is collinear")


def test_a_static_truth_is_solved_and_marked() -> None:
    truth = from_parts(random_poses(4)[:, :3, :3], torch.full((4, 3), 2.0, dtype=torch.float64))
    trajectory = trajectory_errors(random_poses(4, 1), truth)
    assert trajectory.ate == pytest.approx(0.0, abs=1e-12) and trajectory.scale == 0.0
    assert trajectory.degenerate == ("truth is static",)


def test_a_given_scale_is_kept_and_cannot_flatter_noise_under_a_static_truth() -> None:
    truth = random_poses(6)
    prediction = similar(truth, 0.5)
    assert trajectory_errors(prediction, truth, scale=2.0).ate < 1e-9
    assert trajectory_errors(prediction, truth, scale=1.0).ate > 0.1
    free = trajectory_errors(random_poses(6, 3), truth)
    same = trajectory_errors(random_poses(6, 3), truth, scale=free.scale)
    assert (same.ate, same.rpe_translation) == pytest.approx((free.ate, free.rpe_translation), rel=1e-9)
    still = from_parts(truth[:, :3, :3], torch.zeros(6, 3, dtype=torch.float64))
    noise = random_poses(6, 4)
    centre = noise[:, :3, 3] - noise[:, :3, 3].mean(0)
    assert trajectory_errors(noise, still).ate == 0.0
    expected = 3.0 * centre.square().sum(-1).mean().sqrt().item()
    assert trajectory_errors(noise, still, scale=3.0).ate == pytest.approx(expected, rel=1e-9)


def test_a_static_prediction_has_the_largest_ate_that_a_fit_can_have() -> None:
    truth = random_poses(6)
    static = from_parts(random_poses(6, 1)[:, :3, :3], torch.ones(6, 3, dtype=torch.float64))
    centre = truth[:, :3, 3]
    radius = (centre - centre.mean(0)).square().sum(-1).mean().sqrt().item()
    trajectory = trajectory_errors(static, truth)
    assert trajectory.ate == pytest.approx(radius) and trajectory.degenerate == ("prediction is static",)
    for seed in range(2, 12):
        assert trajectory_errors(random_poses(6, seed), truth).ate <= radius + 1e-12
    broken = trajectory_errors(static * torch.nan, truth)
    assert broken.ate == pytest.approx(radius) and broken.rpe_rotation == 180.0
    assert broken.degenerate == ("prediction is not finite",)


@pytest.mark.parametrize("seed", range(4))
def test_trajectory_errors_agree_with_evo(seed: int) -> None:
    metrics = pytest.importorskip("evo.core.metrics", reason="evo is an optional oracle (GPL-3.0)")
    trajectory = pytest.importorskip("evo.core.trajectory")
    truth = random_poses(8, seed)
    prediction = similar(truth, 0.3)
    prediction[:, :3, 3] += 0.1 * random_poses(8, seed + 7)[:, :3, 3]
    prediction[:, :3, :3] = prediction[:, :3, :3] @ about(seed % 3, 12.0)
    ours = trajectory_errors(prediction, truth)
    reference, estimate = (trajectory.PosePath3D(poses_se3=list(poses.numpy())) for poses in (truth, prediction))
    _, _, scale = estimate.align(reference, correct_scale=True)
    ate = metrics.APE(metrics.PoseRelation.translation_part)
    ate.process_data((reference, estimate))
    found = [ate.get_statistic(metrics.StatisticsType.rmse)]
    for relation in (metrics.PoseRelation.translation_part, metrics.PoseRelation.rotation_angle_deg):
        rpe = metrics.RPE(relation, delta=1, delta_unit=metrics.Unit.frames, all_pairs=True)
        rpe.process_data((reference, estimate))
        found.append(rpe.get_statistic(metrics.StatisticsType.rmse))
    assert (ours.ate, ours.rpe_translation, ours.rpe_rotation) == pytest.approx(found, rel=1e-9)
    assert ours.scale == pytest.approx(scale, rel=1e-9)


def test_quaternions_are_in_the_order_that_evo_takes() -> None:
    trajectory = pytest.importorskip("evo.core.trajectory", reason="evo is an optional oracle (GPL-3.0)")
    poses = random_poses(5)
    wxyz = quaternion_from_rotation(poses[:, :3, :3]).numpy()
    path = trajectory.PosePath3D(positions_xyz=poses[:, :3, 3].numpy(), orientations_quat_wxyz=wxyz)
    np.testing.assert_allclose(np.stack(path.poses_se3), poses.numpy(), atol=1e-12)


def test_what_evo_refuses_is_solved() -> None:
    trajectory = pytest.importorskip("evo.core.trajectory", reason="evo is an optional oracle (GPL-3.0)")
    geometry = pytest.importorskip("evo.core.geometry")
    line = torch.arange(5, dtype=torch.float64)[:, None] * torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    truth = from_parts(random_poses(5)[:, :3, :3], line)
    prediction = similar(truth, 0.1)
    with pytest.raises(geometry.GeometryException):
        trajectory.PosePath3D(poses_se3=list(prediction.numpy())).align(
            trajectory.PosePath3D(poses_se3=list(truth.numpy())), correct_scale=True
        )
    assert trajectory_errors(prediction, truth).ate < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_relative_pose_errors_equal_loops_over_pairs(seed: int) -> None:
    truth, prediction = random_poses(6, seed), random_poses(6, seed + 40)
    errors = relative_pose_errors(prediction, truth)
    rotation, direction, signed = [], [], []
    for i in range(6):
        for j in range(i + 1, 6):
            # W_j W_i⁻¹ with W = T⁻¹: the translation stands in camera j.
            one, other = (np.linalg.inv(poses[j]) @ poses[i] for poses in (truth.numpy(), prediction.numpy()))
            rotation.append(math.degrees(math.acos((np.trace(one[:3, :3].T @ other[:3, :3]) - 1) / 2)))
            cosine = one[:3, 3] @ other[:3, 3] / np.linalg.norm(one[:3, 3]) / np.linalg.norm(other[:3, 3])
            direction.append(math.degrees(math.acos(abs(cosine))))
            signed.append(math.degrees(math.acos(cosine)))
    for ours, expected in (
        (errors.rotation, rotation),
        (errors.translation, direction),
        (errors.translation_signed, signed),
    ):
        assert ours.tolist() == pytest.approx(expected, rel=1e-9)
