"""Every term of π³'s objective, with its gradient, against loops over scenes, views and pixels in float64."""

import dataclasses
import math

import pytest
import torch
from test_objective import B, H, N, W, labelled_views

from flow3r.config import LossConfig
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle
from flow3r.losses.objective import pi3_objective
from flow3r.types import Flow, Prediction, Views

TERMS = ("points", "normals", "rotation", "translation", "confidence", "flow")
CONFIG = LossConfig(scale_points=10_000, edge_threshold=0.3)  # all pixels solve the scale


def masked_views() -> Views:
    """Smooth depth with a hole in it and padding; sparse labels in one view; one pair that nothing is covisible in."""
    views = labelled_views()
    slope = torch.linspace(1.0, 1.6, W).expand(B, N, H, W)
    depth = slope + 0.05 * torch.rand(B, N, H, W)
    depth[:, :, 2:4, 3:5] = 0.0
    valid = torch.ones(B, N, H, W, dtype=torch.bool)
    valid[..., -1] = False
    dense = torch.tensor([[True, True, False], [True, True, True]])
    covisible = views.flow.covisible.clone()
    covisible[1, 1] = 0.0
    flow = dataclasses.replace(views.flow, covisible=covisible)
    return dataclasses.replace(views, depth=depth, valid=valid, dense=dense, flow=flow)


def poor_prediction(views: Views) -> Prediction:
    """Off in everything, as leaves that take gradients."""
    turn = from_parts(rotation_from_axis_angle(0.3 * torch.randn(B, N, 3)), 0.3 * torch.randn(B, N, 3))
    points = 2.5 * unproject(torch.where(views.depth > 0, views.depth, 1.0), views.intrinsics)
    return Prediction(
        local_points=(points + 0.1 * torch.randn(B, N, H, W, 3)).requires_grad_(),
        confidence_logit=torch.randn(B, N, H, W).requires_grad_(),
        world_from_camera=(views.world_from_camera @ turn).requires_grad_(),
        flow=Flow(views.flow.pairs, torch.randn(B, 2, H, W, 2).requires_grad_(), None),
    )


def best_scale(x: list[float], y: list[float], weight: list[float]) -> float:
    """The s among all ratios with the least Σ w |s x - y|, which is where the least lies."""
    candidates = [b / a for a, b in zip(x, y) if a != 0]
    a, b, w = (torch.tensor(v, dtype=torch.float64) for v in (x, y, weight))
    costs = [float((w * (s * a - b).abs()).sum()) for s in candidates]
    return candidates[costs.index(min(costs))]


def angle_between(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of two rotations, by the cosine alone."""
    return torch.acos(((a.T @ b).trace() - 1) / 2)


def reference(points, poses, logit, flow, views: Views) -> dict[str, torch.Tensor]:
    """Section 3.3 and appendix A.1, Eq. 9-12, one pixel and one pair of views after another."""
    depth, intrinsics, truth = views.depth.double(), views.intrinsics.double(), views.world_from_camera.double()
    errors, targets, normals, rotations, translations = [], [], [], [], []
    for b in range(B):
        known = [(n, y, x) for n in range(N) for y in range(H) for x in range(W) if views.depth[b, n, y, x] > 0]
        known = [(n, y, x) for n, y, x in known if views.valid[b, n, y, x]]

        def true_point(n: int, y: int, x: int, b: int = b) -> torch.Tensor:
            pixel = torch.tensor([x + 0.5, y + 0.5, 1.0], dtype=torch.float64)
            return depth[b, n, y, x] * (intrinsics[b, n].inverse() @ pixel)

        at = {place: true_point(*place) for place in known}
        norm_truth = sum(p.norm() for p in at.values()) / len(known)
        norm = sum(points[b][place].norm() for place in known) / len(known)
        p = {place: points[b][place] / norm for place in known}
        q = {place: at[place] / norm_truth for place in known}
        weight = {}
        for n in range(N):
            here = [place for place in known if place[0] == n]
            mean = sum(q[place][2] for place in here) / len(here)
            weight |= {place: 1 / max(float(q[place][2]), 0.1 * float(mean)) for place in here}
        x, y, w = [], [], []
        for place in known:
            x += p[place].tolist()
            y += q[place].tolist()
            w += [weight[place]] * 3
        s = best_scale(x, y, w)
        p = {place: s * p[place] for place in known}
        for place in known:
            error = weight[place] * (p[place] - q[place]).abs().mean()
            errors.append(error)
            target = torch.exp(-CONFIG.confidence_sharpness * error.detach())
            c = torch.sigmoid(logit[b][place])
            targets.append(-target * c.log() - (1 - target) * (1 - c).log())
        normals += [normal_cost(p, q, n) for n in range(N) if views.dense[b, n]]
        for i in range(N):
            for j in range(N):
                if i != j:
                    ours, theirs = poses[b, i].inverse() @ poses[b, j], truth[b, i].inverse() @ truth[b, j]
                    rotations.append(angle_between(ours[:3, :3], theirs[:3, :3]))
                    for u in s / norm * ours[:3, 3] - theirs[:3, 3] / norm_truth:
                        small = u.abs() <= CONFIG.huber_delta
                        far = CONFIG.huber_delta * (u.abs() - CONFIG.huber_delta / 2)
                        translations.append(u**2 / 2 if small else far)
    means = {"points": errors, "confidence": targets, "rotation": rotations, "translation": translations}
    terms = {name: torch.stack(values).mean() for name, values in means.items()}
    # The mean over all blocks of all views, whether their labels are dense or not.
    terms["normals"] = sum(normals) / (B * N * (H - 1) * (W - 1)) / (4 * max(H, W))
    return terms | {"flow": flow_cost(flow, views)}


def normal_cost(p: dict, q: dict, n: int) -> torch.Tensor:
    """Σ of the smooth L1 of angles between normals at the corners of blocks of one view, edges of depth left out."""

    def smooth(y: int, x: int) -> bool:
        around = [(n, v, u) for v in range(y - 1, y + 2) for u in range(x - 1, x + 2) if 0 <= v < H and 0 <= u < W]
        z = [float(q[place][2]) if place in q else 0.0 for place in around]
        return (n, y, x) in q and max(z) - min(z) <= CONFIG.edge_threshold * float(q[n, y, x][2])

    total, beta = torch.zeros((), dtype=torch.float64), math.radians(3)
    for y in range(H - 1):
        for x in range(W - 1):
            ring = [(y, x), (y, x + 1), (y + 1, x + 1), (y + 1, x)]
            for k in range(4):
                a, o, c = ring[k - 1], ring[k], ring[(k + 1) % 4]
                if not (smooth(*a) and smooth(*o) and smooth(*c)):
                    continue
                a, o, c = (n, *a), (n, *o), (n, *c)
                u, v = (torch.linalg.cross(m[a] - m[o], m[c] - m[o]) for m in (p, q))
                angle = torch.atan2(torch.linalg.cross(u, v).norm(), u @ v)
                angle = angle.clamp(math.radians(1), math.radians(90)) - math.radians(1)
                total = total + (angle**2 / (2 * beta) if angle < beta else angle - beta / 2)
    return total


def flow_cost(flow: torch.Tensor, views: Views) -> torch.Tensor:
    costs = []
    for b in range(B):
        for k, (source, _) in enumerate(views.flow.pairs[b].tolist()):
            above, below = torch.zeros((), dtype=torch.float64), 0.0
            for y in range(H):
                for x in range(W):
                    c = float(views.flow.covisible[b, k, y, x]) * float(views.valid[b, source, y, x])
                    e = (flow[b, k, y, x] - views.flow.displacement[b, k, y, x].double()) / (max(H, W) / 2)
                    rho = (e @ e + CONFIG.flow_c**2) ** (CONFIG.flow_alpha / 2) - CONFIG.flow_c**CONFIG.flow_alpha
                    above, below = above + c * rho, below + c
            costs += [above / below] if below > 0 else []
    return torch.stack(costs).mean()


def tangent(poses: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """A gradient by poses as one by turns and shifts: what lies across rigid motions is a matter of formulas."""
    turn = poses[..., :3, :3].mT @ gradient[..., :3, :3]
    return torch.cat([turn - turn.mT, gradient[..., :3, 3:]], dim=-1)


@pytest.fixture(scope="module")
def case():
    """One prediction, the references of its terms and their gradients."""
    torch.manual_seed(0)
    views = masked_views()
    prediction = poor_prediction(views)
    leaves = (
        prediction.local_points,
        prediction.world_from_camera,
        prediction.confidence_logit,
        prediction.flow.displacement,
    )
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    terms = reference(*doubles, views)
    gradients = {
        name: torch.autograd.grad(term, doubles, retain_graph=True, allow_unused=True, materialize_grads=True)
        for name, term in terms.items()
    }
    return views, prediction, leaves, terms, gradients


@pytest.mark.parametrize("term", TERMS)
def test_every_term_and_its_gradient_against_a_loop(case, term: str):
    views, prediction, leaves, terms, gradients = case
    config = dataclasses.replace(CONFIG, **{name: float(name == term) for name in TERMS})
    objective = pi3_objective(prediction, views, config)
    assert set(objective.terms) == {term}
    assert terms[term] > 1e-4
    torch.testing.assert_close(objective.total, terms[term].float(), atol=1e-6, rtol=1e-4)
    ours = torch.autograd.grad(objective.total, leaves, allow_unused=True, materialize_grads=True)
    for leaf, a, b in zip(("points", "poses", "logit", "flow"), ours, gradients[term]):
        b = b.float()
        if leaf == "poses":
            a, b = (tangent(prediction.world_from_camera.detach(), gradient) for gradient in (a, b))
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3, msg=lambda text, leaf=leaf: f"{leaf}: {text}")
