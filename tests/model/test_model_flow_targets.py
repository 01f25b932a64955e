"""Factored heads that are told less of the target view: its decoded camera, or few channels of its latents."""

import dataclasses

import pytest
import torch
from tiny_model import TINY, TINY_VGGT, gradients, tiny_images, tiny_model

from flow3r.config import FlowHeadConfig, ModelConfig, VggtConfig
from flow3r.geometry.camera import centred_intrinsics
from flow3r.geometry.se3 import from_parts, rotation_from_axis_angle
from flow3r.model.cost import latent_widths
from flow3r.model.flow_heads import FactoredFlow, LatentWidths, make_flow_head
from flow3r.nn.memory import Memory
from flow3r.nn.precision import lower_precision
from flow3r.presets import ABLATION_MODEL, EXPERIMENT_PI3, EXPERIMENT_VGGT
from flow3r.types import Latents, Prediction

LOCAL = LatentWidths(geometry=16, camera=12, fused=8, source_camera=True)
GLOBAL = LatentWidths(geometry=16, camera=12, fused=8, source_camera=False, pinhole=True)
GRID, SIZE, VIEWS = (2, 3), (28, 42), 4
ARMS = ({"target": "pose"}, {"camera_width": 2})
FORMS = pytest.mark.parametrize("widths", [LOCAL, GLOBAL], ids=["local", "global"])
FAMILIES = pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "flow3r-vggt"])
PAIRS = torch.tensor([[[2, 1]]])


def head_of(widths: LatentWidths, **changes) -> FactoredFlow:
    config = FlowHeadConfig(features=8, level_channels=(8, 12, 16, 16), output_channels=4, **changes)
    head, generator = make_flow_head(config, widths, patch=14), torch.Generator().manual_seed(3)
    for parameter in head.parameters():  # of full gain, so that every part matters
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else torch.ones_like(noise)
    return head


def leaves(widths: LatentWidths) -> Latents:
    def levels(width: int) -> tuple[torch.Tensor, ...]:
        return tuple(torch.randn(1, VIEWS, *GRID, width, requires_grad=True) for _ in range(4))

    return Latents(levels(widths.geometry), levels(widths.camera))


def cameras(widths: LatentWidths) -> Prediction:
    """Decoded cameras as leaves."""
    poses = from_parts(rotation_from_axis_angle(torch.randn(1, VIEWS, 3)), torch.randn(1, VIEWS, 3))
    pinholes = centred_intrinsics(torch.tensor([[40.0, 30.0, 60.0, 50.0]]), *SIZE) if widths.pinhole else None
    return Prediction(world_from_camera=poses, intrinsics=pinholes).apply(lambda x: x.detach().requires_grad_())


def reached(maps: tuple[torch.Tensor, ...] | torch.Tensor) -> set[int]:
    """The views that a gradient has reached."""
    maps = maps if isinstance(maps, tuple) else (maps,)
    return {v for m in maps if m.grad is not None for v in range(VIEWS) if m.grad[0, v].abs().max() > 0}


@FORMS
def test_a_target_s_pose_is_all_that_is_read_of_it(widths):
    head, latents, known, (i, j) = head_of(widths, target="pose"), leaves(widths), cameras(widths), (2, 1)
    flow = head(latents, PAIRS, known).displacement
    (flow * torch.randn_like(flow)).sum().backward()
    assert head.needs == {"cameras"}
    assert reached(latents.geometry) == {i}
    if widths.source_camera:  # π³'s family: relative to i, whose own latents are read as before
        assert reached(latents.camera) == {i} and reached(known.world_from_camera) == {i, j}
    else:  # VGGT's: in the world in which i's geometry is, with the field of view
        assert reached(latents.camera) == set() and reached(known.world_from_camera) == {j}
        assert reached(known.intrinsics) == {j}
        focal = known.intrinsics.grad[0, j, [0, 1], [0, 1]]
        assert (focal.abs() > 0).all() and focal.norm() == known.intrinsics.grad[0, j].norm()
    motion = known.world_from_camera.grad[0, j, :3]
    assert (motion.abs() > 0).all()


def test_where_geometry_is_local_the_world_frame_of_the_poses_does_not_matter():
    head, latents, known = head_of(LOCAL, target="pose"), leaves(LOCAL), cameras(LOCAL)
    other = from_parts(rotation_from_axis_angle(torch.tensor([0.3, -1.0, 0.5])), torch.tensor([1.0, 2.0, -3.0]))
    moved = dataclasses.replace(known, world_from_camera=other @ known.world_from_camera)
    turned = dataclasses.replace(known, world_from_camera=known.world_from_camera @ other)
    flows = [head(latents, PAIRS, cameras).displacement for cameras in (known, moved, turned)]
    torch.testing.assert_close(flows[1], flows[0], atol=1e-3, rtol=1e-4)
    assert (flows[2] - flows[0]).abs().max() > 1e-2


@FORMS
def test_pairs_in_chunks_and_scenes_apart_are_pairs_at_once(widths):
    pairs = torch.tensor([[[0, 1], [3, 2], [1, 0]]])
    for changes in ARMS:
        latents, known = leaves(widths), cameras(widths)
        flows = [head_of(widths, pairs_per_chunk=n, **changes)(latents, pairs, known).displacement for n in (1, 8)]
        torch.testing.assert_close(flows[1], flows[0], atol=1e-4, rtol=1e-4)
        two = (latents.apply(lambda x: torch.cat([torch.randn_like(x), x])), pairs.expand(2, 3, 2).clone())
        both = known.apply(lambda x: torch.cat([x.flip(1), x]))
        together = head_of(widths, **changes)(*two, both).displacement
        torch.testing.assert_close(together[1:], flows[0], atol=1e-4, rtol=1e-4)


@FORMS
def test_of_a_target_s_camera_latents_so_many_channels_are_let_through(widths):
    head, latents = head_of(widths, camera_width=2), leaves(widths)
    narrow = head.bottleneck[0].weight
    jacobian = torch.func.jacrev(lambda c: head.target_part(c.expand(1, 1, 1, 1, -1))[0])(torch.randn(widths.camera))
    assert narrow.shape == (2, widths.camera) and torch.linalg.matrix_rank(jacobian) == 2
    _, _, directions = torch.linalg.svd(narrow)
    seen, unseen = directions[0], directions[-1]
    flows = []
    for change in (torch.zeros(widths.camera), unseen, seen):
        camera = tuple(c.detach().clone() for c in latents.camera)
        for level in camera:
            level[:, 1] += 10 * change  # of the target alone
        flows.append(head(Latents(latents.geometry, camera), PAIRS).displacement)
    torch.testing.assert_close(flows[1], flows[0], atol=1e-3, rtol=1e-4)
    assert (flows[2] - flows[0]).abs().max() > 1e-2


@FORMS
def test_a_bottleneck_that_keeps_everything_is_none(widths):
    plain, wide, latents = head_of(widths), head_of(widths, camera_width=widths.camera), leaves(widths)
    assert plain.bottleneck is None and not any(key.startswith("bottleneck") for key in plain.state_dict())
    for layer in wide.bottleneck:
        layer.weight.data.copy_(torch.eye(widths.camera))
    missing = wide.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["bottleneck.0.weight", "bottleneck.1.weight"] and not missing.unexpected_keys
    torch.testing.assert_close(wide(latents, PAIRS).displacement, plain(latents, PAIRS).displacement)


@FAMILIES
@pytest.mark.parametrize("changes", ARMS, ids=["pose", "width"])
def test_both_families_have_them_and_they_teach_what_they_read(config, changes):
    model = tiny_model(dataclasses.replace(config, flow=dataclasses.replace(config.flow, **changes)))
    pairs = torch.tensor([[[0, 1], [2, 0]]])
    exact = model(tiny_images(), pairs, outputs=()).flow.displacement
    exact.square().mean().backward()
    moved = {name.split(".")[0] for name, gradient in gradients(model).items() if gradient.abs().max() > 0}
    assert {"encoder", "multiview", "flow_head"} <= moved
    assert ("camera_head" in moved) == ("target" in changes)  # only the decoded pose leads through what decodes it
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = model(tiny_images(), pairs, outputs=()).flow.displacement
    assert half.dtype == torch.float32 and (half - exact).abs().mean() < 0.1 * exact.abs().mean()
    lower_precision(model, torch.bfloat16)
    with torch.no_grad():
        low = model(tiny_images(), pairs).flow.displacement.float()
    assert (low - exact).abs().mean() < 0.1 * exact.abs().mean()


@FAMILIES
@pytest.mark.parametrize("recompute", ["selective", "everything"])
def test_what_is_run_again_in_the_backward_pass_has_the_same_gradient(config, recompute):
    model = tiny_model(dataclasses.replace(config, flow=dataclasses.replace(config.flow, target="pose")))
    found = []
    for memory in (Memory(), Memory(recompute=recompute)):
        model.zero_grad()
        model.memory = memory
        model(tiny_images(), torch.tensor([[[0, 1], [2, 0]]]), outputs=()).flow.displacement.square().mean().backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-3)


EVERY = ({"kind": "tracking"}, {"kind": "projective+sceneflow"}, *({"camera_width": n} for n in (8, 32)), ARMS[0])


@pytest.mark.parametrize("config", [EXPERIMENT_VGGT, EXPERIMENT_PI3, ABLATION_MODEL, ModelConfig()])
def test_heads_that_are_compared_have_parameters_within_a_tenth(config: ModelConfig | VggtConfig):
    flow, widths = config.flow or FlowHeadConfig(), latent_widths(config)

    def parameters(**changes) -> int:
        with torch.device("meta"):
            head = make_flow_head(dataclasses.replace(flow, **changes), widths, config.encoder.patch)
        return sum(p.numel() for p in head.parameters())

    assert parameters(kind="projective") == 0  # it is what the other heads decode, computed
    for changes in EVERY:
        assert abs(parameters(**changes) / parameters() - 1) < 0.1, changes


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"kind": "tracking", "target": "pose"}, "'pose', camera_width None of a tracking flow head: only a factored"),
        ({"kind": "projective+sceneflow", "camera_width": 8}, "camera_width 8 of a projective"),
        ({"target": "pose", "camera_width": 8}, "camera_width 8, target 'pose': expected at least 1, of a head that"),
        ({"camera_width": 0}, "camera_width 0, target 'latents': expected at least 1"),
    ],
)
def test_a_target_that_a_head_cannot_have_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        head_of(GLOBAL, **changes)


def test_an_unknown_target_is_refused_by_name():
    config = FlowHeadConfig()
    object.__setattr__(config, "target", "image")
    with pytest.raises(ValueError, match="target 'image' of a flow head is not known; expected latents or pose"):
        make_flow_head(config, GLOBAL, 14)
