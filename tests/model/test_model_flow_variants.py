"""The other heads of Fig. 2: what each may depend on, and what each can express."""

import dataclasses

import pytest
import torch
from tiny_model import TINY, TINY_VGGT, gradients, tiny_images, tiny_model

from flow3r.config import FlowHeadConfig
from flow3r.geometry.camera import centred_intrinsics, unproject
from flow3r.geometry.flow import flow_from_depth
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle, transform_maps
from flow3r.model.flow_heads import LatentWidths, make_flow_head
from flow3r.types import Latents, Prediction

KINDS = ("factored", "tracking", "projective", "projective+sceneflow")
WIDTHS = LatentWidths(geometry=16, camera=16, fused=16, source_camera=True)
SIZE, GRID = (28, 42), (2, 3)


def head_of(kind: str, widths: LatentWidths = WIDTHS) -> torch.nn.Module:
    config = FlowHeadConfig(kind=kind, features=8, level_channels=(8, 12, 16, 16), output_channels=4)
    return make_flow_head(config, widths, patch=14)


def leaves(views: int = 4) -> Latents:
    def levels() -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(1, views, *GRID, 16, requires_grad=True) for _ in range(4))

    return Latents(levels(), levels())


def scene(views: int = 4) -> tuple[Prediction, torch.Tensor]:
    """A slanted plane seen by cameras that look nearly the same way, as a perfect prediction of it."""
    generator = torch.Generator().manual_seed(4)
    focal = torch.tensor([[60.0, 55.0, 50.0, 65.0]])[:, :views]
    pinholes = centred_intrinsics(focal, *SIZE)
    turns = rotation_from_axis_angle(0.05 * torch.randn(1, views, 3, generator=generator))
    poses = from_parts(turns, 0.2 * torch.randn(1, views, 3, generator=generator))
    normal = torch.tensor([0.1, -0.2, 1.0])
    rays = unproject(torch.ones(1, views, *SIZE), pinholes)
    towards = ((rays @ poses[..., None, :3, :3].mT) * normal).sum(-1)
    depth = (3 - (poses[..., :3, 3] * normal).sum(-1))[..., None, None] / towards
    local = unproject(depth, pinholes)
    return Prediction(local, transform_maps(poses, local), world_from_camera=poses), pinholes


def by_view(maps: tuple[torch.Tensor, ...]) -> list[float]:
    return (
        torch.stack(
            [m.grad.abs().amax(dim=(0, 2, 3, 4)) if m.grad is not None else torch.zeros(m.shape[1]) for m in maps]
        )
        .amax(0)
        .tolist()
    )


def test_tracking_reads_the_patches_of_both_views_and_no_camera():
    head, latents, (i, j) = head_of("tracking"), leaves(), (2, 1)
    flow = head(latents, torch.tensor([[[i, j]]]))
    (flow.displacement * torch.randn_like(flow.displacement)).sum().backward()
    geometry, camera = by_view(latents.geometry), by_view(latents.camera)
    assert geometry[i] > 1e-6 and geometry[j] > 1e-6 and geometry[0] == geometry[3] == 0.0
    assert camera == [0.0] * 4


def test_tracking_finds_a_patch_where_it_has_gone():
    """Patches of j are those of i, moved one column to the left; the correction is silenced."""
    head, latents = head_of("tracking"), leaves(2)
    for parameter in head.dpt.last.parameters():
        parameter.data.zero_()
    distinct = torch.eye(16)[:6].unflatten(0, GRID)
    moved = distinct.roll(-1, dims=1)
    geometry = tuple(20 * torch.stack([distinct, moved])[None] for _ in range(4))
    head.feature.weight.data.copy_(torch.eye(16))
    head.feature.bias.data.zero_()
    head.feature_norm.weight.data.fill_(5.0)  # features that tell patches apart sharply
    flow = head(Latents(geometry, latents.camera), torch.tensor([[[0, 1]]])).displacement
    inner = flow[0, 0, :, 28:35]  # amid the columns whose patches went one to the left
    torch.testing.assert_close(inner[..., 0], torch.full_like(inner[..., 0], -14.0), atol=0.2, rtol=0)
    torch.testing.assert_close(inner[..., 1], torch.zeros_like(inner[..., 1]), atol=0.2, rtol=0)


@pytest.mark.parametrize("known", ["given", "predicted", "recovered"])
def test_projective_flow_of_true_geometry_is_the_true_flow(known):
    prediction, pinholes = scene()
    pairs = torch.tensor([[[0, 1], [3, 2], [2, 2]]])
    if known == "predicted":
        prediction = dataclasses.replace(prediction, intrinsics=pinholes)
    flow = head_of("projective")(leaves(), pairs, prediction, pinholes if known == "given" else None)
    for p, (i, j) in enumerate(pairs[0].tolist()):
        chosen = [i, j]
        true, covisible = flow_from_depth(
            prediction.local_points[:, chosen][..., 2], pinholes[:, chosen], prediction.world_from_camera[:, chosen]
        )
        assert covisible.float().mean() > 0.5
        torch.testing.assert_close(flow.displacement[:, p][covisible], true[covisible], atol=1e-2, rtol=1e-3)


def test_scene_flow_starts_as_projective_flow_and_moves_points_by_what_it_predicts():
    prediction, pinholes = scene()
    pairs, latents = torch.tensor([[[0, 1]]]), leaves()
    static = head_of("projective")(latents, pairs, prediction, pinholes).displacement
    head = head_of("projective+sceneflow")
    torch.testing.assert_close(head(latents, pairs, prediction, pinholes).displacement, static, atol=0.1, rtol=0)
    step = torch.tensor([0.3, -0.1, 0.2])
    for name, value in (("weight", torch.zeros(())), ("bias", step)):
        getattr(head.motion.dpt.last, name).data.copy_(value.expand_as(getattr(head.motion.dpt.last, name)))
    moved = dataclasses.replace(prediction, world_points=prediction.world_points + step)
    expected = head_of("projective")(latents, pairs, moved, pinholes).displacement
    torch.testing.assert_close(head(latents, pairs, prediction, pinholes).displacement, expected)


def test_points_at_and_behind_the_target_camera_give_bounded_flow_and_gradients():
    prediction, _ = scene(2)
    for z in (0.0, 1e-8, -1e-8, -3.0, float(2**-60)):
        points = prediction.world_points.clone()
        points[:, 0, :, :, 2] = z
        local = prediction.local_points.clone()
        leaf_points, leaf_local = points.requires_grad_(), local.requires_grad_()
        poses = torch.eye(4).expand(1, 2, 4, 4).clone().requires_grad_()
        given = Prediction(leaf_local, leaf_points, world_from_camera=poses)
        flow = head_of("projective")(leaves(2), torch.tensor([[[0, 1]]]), given).displacement
        assert flow.abs().max() <= 2.5 * 42
        flow.square().mean().sqrt().backward()
        for leaf in (leaf_points, poses):
            assert leaf.grad.isfinite().all() and leaf.grad.abs().max() < 1e3


def test_the_recovered_pinhole_has_a_gradient_that_many_points_share():
    prediction, _ = scene(2)
    local = prediction.local_points.clone().requires_grad_()
    given = dataclasses.replace(prediction, local_points=local)
    head_of("projective")(leaves(2), torch.tensor([[[0, 1]]]), given).displacement.square().mean().backward()
    assert (local.grad[0, 1].abs().amax(-1) > 0).float().mean() > 0.9  # of the target's view, whose pinhole it is


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_pairs_in_chunks_are_pairs_at_once(kind):
    pairs, images = torch.tensor([[[0, 1], [2, 0], [1, 1], [1, 2], [2, 1]]]), tiny_images()
    flows = []
    for chunk in (1, 3, 100):
        flow = dataclasses.replace(TINY.flow, kind=kind, pairs_per_chunk=chunk)
        flows.append(tiny_model(dataclasses.replace(TINY, flow=flow))(images, pairs, outputs=()).flow.displacement)
    for other in flows[1:]:
        torch.testing.assert_close(other, flows[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_no_pairs_give_no_flow(kind):
    model = tiny_model(dataclasses.replace(TINY, flow=dataclasses.replace(TINY.flow, kind=kind)))
    assert model(tiny_images(), torch.zeros(1, 0, 2, dtype=torch.long)).flow.displacement.shape == (1, 0, *SIZE, 2)


@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "flow3r-vggt"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_head_works_in_both_families_learns_and_runs_in_bf16(config, kind):
    config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, kind=kind))
    model, pairs = tiny_model(config), torch.tensor([[[0, 1], [2, 0]]])
    exact = model(tiny_images(), pairs, outputs=()).flow
    assert exact.displacement.shape == (1, 2, *SIZE, 2) and exact.covisible is None
    exact.displacement.square().mean().backward()
    moved = {name.split(".")[0] for name, gradient in gradients(model).items() if gradient.abs().max() > 0}
    if kind == "tracking":
        assert "camera_branch" not in moved and "camera_head" not in moved
    if kind == "factored":
        assert "camera_head" not in moved  # it bypasses what the latents are decoded to
    if kind.startswith("projective"):
        assert "camera_head" in moved
    if kind != "projective":
        assert "flow_head" in moved
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = model(tiny_images(), pairs, outputs=()).flow.displacement
    assert half.dtype == torch.float32 and half.isfinite().all()


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("family", ["flow3r", "vggt"])
def test_heads_of_the_paper_s_size_are_of_one_size(family):
    counts = {}
    for kind in KINDS:
        flow = FlowHeadConfig(kind=kind)
        with torch.device("meta"):
            if family == "flow3r":
                head = make_flow_head(flow, LatentWidths(1024, 1024, 1024, source_camera=True), 14)
            else:
                head = make_flow_head(flow, LatentWidths(2048, 2048, 1024, source_camera=False), 14)
        counts[kind] = parameters(head)
    if family == "flow3r":
        assert counts["factored"] == 42_356_962  # the public checkpoint's
    assert counts["projective"] == 0
    for kind in ("tracking", "projective+sceneflow"):
        assert abs(counts[kind] / counts["factored"] - 1) < 0.1


def test_an_unknown_head_is_refused_by_name():
    config = FlowHeadConfig()
    object.__setattr__(config, "kind", "warping")
    with pytest.raises(ValueError, match="'warping' is not known; expected one of factored, tracking"):
        make_flow_head(config, WIDTHS, 14)
