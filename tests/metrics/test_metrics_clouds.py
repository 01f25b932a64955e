"""Neighbours, ICP and normals: brute force, planted motions and surfaces whose normals are known."""

import math

import pytest
import torch

from flow3r.geometry.se3 import rotation_angle, rotation_from_axis_angle
from flow3r.metrics.clouds import (
    iterative_closest_point,
    mutual_nearest,
    normal_consistency,
    point_normals,
)


def cloud(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sphere(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(cloud(count, seed), dim=-1)


@pytest.mark.parametrize("seed", range(3))
def test_nearest_neighbours_equal_brute_force(seed: int) -> None:
    one, other = cloud(150, seed), cloud(130, seed + 9)
    (forth, other_of_one), (back, one_of_other) = mutual_nearest(one, other)
    distance = (one[:, None] - other).norm(dim=-1)
    torch.testing.assert_close(forth, distance.min(1).values, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(back, distance.min(0).values, atol=1e-12, rtol=1e-12)
    assert (other_of_one == distance.argmin(1)).all() and (one_of_other == distance.argmin(0)).all()


def brute_force_icp(source: torch.Tensor, target: torch.Tensor, gate: float) -> tuple[torch.Tensor, float, float]:
    """The same algorithm by a full distance matrix, moving the cloud step by step. The moved points."""
    moved, last = source, (-1.0, -1.0)
    for step in range(31):
        distance, index = (moved[:, None] - target).norm(dim=-1).min(1)
        near = distance < gate
        now = near.double().mean().item(), distance[near].square().mean().sqrt().item()
        if step == 30 or (abs(now[0] - last[0]) < 1e-6 and abs(now[1] - last[1]) < 1e-6):
            break
        last = now
        a, b = moved[near], target[index[near]]
        u, _, vt = torch.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
        rotation = u @ torch.diag(torch.tensor([1.0, 1.0, torch.linalg.det(u @ vt).item()]).double()) @ vt
        moved = (moved - a.mean(0)) @ rotation.T + b.mean(0)
    return moved, *now


@pytest.mark.parametrize("seed", range(4))
def test_icp_equals_brute_force(seed: int) -> None:
    target = cloud(120, seed)
    turn = rotation_from_axis_angle(torch.tensor([0.05, -0.1, 0.08], dtype=torch.float64))
    source = (target[:90] + 0.05 * cloud(90, seed + 5)) @ turn.T + 0.1
    fit = iterative_closest_point(source, target, gate=0.6)
    moved, fitness, rmse = brute_force_icp(source, target, 0.6)
    assert (fit.fitness, fit.rmse) == pytest.approx((fitness, rmse), abs=1e-9)
    torch.testing.assert_close(source @ fit.rotation.T + fit.translation, moved, atol=1e-9, rtol=0)


def test_icp_undoes_a_small_motion_and_knows_no_scale() -> None:
    target = cloud(400)
    turn = rotation_from_axis_angle(torch.tensor([0.02, 0.03, -0.01], dtype=torch.float64))
    fit = iterative_closest_point(target @ turn.T + 0.02, target, gate=0.5)
    assert fit.rmse < 1e-9 and fit.fitness == 1.0 and rotation_angle(fit.rotation @ turn) < 1e-9
    scaled = iterative_closest_point(1.05 * target, target, gate=0.5)
    assert torch.linalg.det(scaled.rotation).item() == pytest.approx(1.0) and scaled.rmse > 0.01


def test_pairs_beyond_the_gate_pull_nothing() -> None:
    target = cloud(300)
    outliers = torch.cat([target, cloud(100, 1) + 50.0])
    fit = iterative_closest_point(outliers, target, gate=0.1)
    assert fit.fitness == pytest.approx(0.75) and fit.rmse < 1e-12
    apart = iterative_closest_point(target + 100.0, target, gate=0.1)
    assert apart.fitness == apart.rmse == 0.0 and apart.iterations == 0
    torch.testing.assert_close(apart.rotation, torch.eye(3, dtype=torch.float64))


def test_normals_of_a_plane_and_of_a_sphere() -> None:
    plane = cloud(200)
    plane[:, 2] = 0.5 * plane[:, 0] - plane[:, 1] + 3
    normal = torch.tensor([-0.5, 1.0, 1.0], dtype=torch.float64) / 1.5
    assert ((point_normals(plane) @ normal).abs() - 1).abs().max() < 1e-9
    points = sphere(4000)
    assert (point_normals(points) * points).sum(-1).abs().mean() > 0.999
    assert point_normals(plane[:5]).shape == (5, 3)
    with pytest.raises(ValueError, match="three points"):
        point_normals(plane[:2])


def consistency(one: torch.Tensor, other: torch.Tensor):
    (_, other_of_one), (_, one_of_other) = mutual_nearest(one, other)
    return normal_consistency(one, other, other_of_one, one_of_other)


def test_planes_at_an_angle_are_consistent_to_its_cosine() -> None:
    flat = cloud(300)
    flat[:, 2] = 0.0
    angle = math.radians(35.0)
    tilted = flat @ rotation_from_axis_angle(torch.tensor([angle, 0.0, 0.0], dtype=torch.float64)).T
    values = vars(consistency(tilted, flat)).values()
    assert list(values) == pytest.approx([math.cos(angle)] * 5, abs=1e-9)


def test_consistency_is_one_for_the_same_surface_and_near_a_half_for_random_points() -> None:
    points = sphere(2000)
    assert vars(consistency(points, points))["mean"] == pytest.approx(1.0, abs=1e-12)
    assert consistency(sphere(2000, 1), points).mean > 0.99
    assert consistency(cloud(2000, 2), cloud(2000, 3)).mean == pytest.approx(0.5, abs=0.05)  # E |cos| on a sphere
    rotation = rotation_from_axis_angle(torch.tensor([1.0, -0.4, 0.2], dtype=torch.float64))
    one, other = cloud(300, 2), cloud(300, 3)
    assert consistency(one @ rotation.T, other @ rotation.T).mean == pytest.approx(consistency(one, other).mean)
