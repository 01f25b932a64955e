import dataclasses
import itertools

import pytest
import torch
from tiny_model import TINY, gradients, tiny_images, tiny_model

from flow3r.config import ModelConfig
from flow3r.geometry.camera import pixel_grid
from flow3r.geometry.se3 import transform_maps
from flow3r.model.flow3r import Flow3r
from flow3r.nn.memory import Memory
from flow3r.types import Prediction

PAIRS = torch.tensor([[[0, 1], [2, 0]]])


def score(prediction: Prediction) -> torch.Tensor:
    """A scalar that every output moves."""
    return (
        prediction.world_points.square().mean()
        + prediction.confidence_logit.square().mean()
        + prediction.flow.displacement.square().mean() * 1e-3
    )


@torch.no_grad()
def test_outputs_permute_with_the_views():
    model, images = tiny_model(), tiny_images(views=4)
    before = model(images, torch.tensor([[[0, 1], [3, 2]]]))
    order = torch.tensor([2, 0, 3, 1])  # new view k is old view order[k]
    place = order.argsort()
    after = model(images[:, order], place[torch.tensor([[[0, 1], [3, 2]]])])
    for name in ("local_points", "world_points", "confidence_logit", "world_from_camera"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name)[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.flow.displacement, before.flow.displacement, atol=1e-4, rtol=1e-5)  # up to 40 px


@torch.no_grad()
def test_scenes_of_a_batch_do_not_meet():
    model, images = tiny_model(), tiny_images(scenes=2)
    together, alone = model(images), model(images[1:])
    torch.testing.assert_close(together.world_points[1:], alone.world_points, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_views_of_a_scene_do_meet():
    model, images = tiny_model(), tiny_images()
    changed = images.clone()
    changed[:, 2] = 1 - changed[:, 2]
    assert (model(images).local_points - model(changed).local_points)[:, 0].abs().max() > 1e-4


@torch.no_grad()
def test_world_points_are_local_points_moved_by_rigid_poses():
    prediction = tiny_model()(tiny_images())
    poses = prediction.world_from_camera
    rotation = poses[..., :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(1, 3))
    assert torch.equal(poses[..., 3, :], torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(1, 3, 4))
    torch.testing.assert_close(prediction.world_points, transform_maps(poses, prediction.local_points))
    assert (prediction.depth > 0).all()


@torch.no_grad()
def test_a_flow_head_that_says_nothing_points_to_the_middle():
    """NDC 0 is the image's middle, so a flow head of zeros points there from every pixel."""
    model = tiny_model()
    for parameter in model.flow_head.dpt.last.parameters():
        parameter.zero_()
    flow = model(tiny_images(), PAIRS, outputs=()).flow.displacement
    target = flow + pixel_grid(28, 42, flow.device)
    torch.testing.assert_close(target, torch.tensor([21.0, 14.0]).expand_as(target))


ASKED = [c for n in range(4) for c in itertools.combinations(("points", "confidence", "cameras"), n)]


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["", "flow"])
@pytest.mark.parametrize("outputs", ASKED, ids="+".join)
@torch.no_grad()
def test_only_what_was_asked_for_is_run(outputs, pairs):
    model, ran = tiny_model(), set()
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    prediction = model(tiny_images(), pairs, outputs=outputs)
    heads = {"points": "point_head", "confidence": "confidence_head", "cameras": "camera_head"}
    branches = {"points": "point_branch", "confidence": "confidence_branch", "cameras": "camera_branch"}
    expected = {"encoder", "multiview"} | {table[output] for table in (heads, branches) for output in outputs}
    if pairs is not None:
        expected |= {"point_branch", "camera_branch", "flow_head"}
    assert ran == expected
    assert (prediction.local_points is not None) == ("points" in outputs)
    assert (prediction.confidence_logit is not None) == ("confidence" in outputs)
    assert (prediction.world_from_camera is not None) == ("cameras" in outputs)
    assert (prediction.world_points is not None) == ({"points", "cameras"} <= set(outputs))
    assert (prediction.flow is not None) == (pairs is not None)


@torch.no_grad()
def test_what_is_asked_for_does_not_change_it():
    model, images = tiny_model(), tiny_images()
    everything = model(images, PAIRS)
    torch.testing.assert_close(model(images, outputs=["cameras"]).world_from_camera, everything.world_from_camera)
    torch.testing.assert_close(model(images, PAIRS, outputs=()).flow.displacement, everything.flow.displacement)


def test_latents_are_what_the_flow_head_reads():
    model, images = tiny_model(), tiny_images()
    latents = model.latents(images)
    assert [m.shape for m in (*latents.geometry, *latents.camera)] == 8 * [(1, 3, 2, 3, TINY.branch.width)]
    flow = model.flow_head(latents, PAIRS).displacement
    torch.testing.assert_close(flow, model(images, PAIRS, outputs=()).flow.displacement)


def test_the_confidence_loss_leaves_the_trunk_alone():
    model = tiny_model()
    model(tiny_images()).confidence_logit.square().sum().backward()
    moved = {name for name, gradient in gradients(model).items() if gradient.abs().max() > 0}
    assert moved and all(name.startswith("confidence_") for name in moved)


def test_everything_else_learns():
    model = tiny_model()
    score(model(tiny_images(), PAIRS)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_recomputation_changes_memory_not_gradients():
    results, calls = [], []
    for recompute in ("nothing", "everything"):
        model = tiny_model().train()
        model.memory = Memory(recompute=recompute)
        ran = []
        for block in (*model.encoder.blocks, *model.multiview.blocks, *model.camera_branch.blocks, model.flow_head.dpt):
            block.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        score(model(tiny_images(), PAIRS)).backward()
        results.append(gradients(model))
        calls.append(len(ran))
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name], gradient, msg=name)
    assert calls[1] > calls[0]  # it did recompute


def test_a_step_in_bf16_is_finite_and_its_outputs_are_fp32():
    model = tiny_model().train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            prediction = model(tiny_images(), PAIRS)
        outputs = {f.name: getattr(prediction, f.name) for f in dataclasses.fields(prediction)}
        tensors = [v for v in (*outputs.values(), prediction.flow.displacement) if isinstance(v, torch.Tensor)]
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors)
        optimizer.zero_grad()
        score(prediction).backward()
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients(model).values())
        optimizer.step()


@torch.no_grad()
def test_bf16_is_near_fp32():
    model, images = tiny_model(), tiny_images()
    exact = model(images, PAIRS)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(images, PAIRS)
    for one, other in (
        (rounded.world_from_camera, exact.world_from_camera),
        (rounded.depth.log(), exact.depth.log()),
        (rounded.flow.displacement, exact.flow.displacement),
    ):
        assert (one - other).norm() < 0.05 * other.norm()


def test_inference_first_does_not_spoil_training():
    model, images = tiny_model(), tiny_images(height=42, width=14)
    with torch.inference_mode():
        first = model(images, PAIRS)
    prediction = model(images, PAIRS)
    score(prediction).backward()
    torch.testing.assert_close(prediction.world_points, first.world_points)


@torch.no_grad()
def test_one_view_of_one_patch():
    prediction = tiny_model()(tiny_images(views=1, height=14, width=14), torch.tensor([[[0, 0]]]))
    assert prediction.world_points.shape == (1, 1, 14, 14, 3) and prediction.world_points.isfinite().all()
    assert prediction.flow.displacement.shape == (1, 1, 14, 14, 2) and prediction.flow.displacement.isfinite().all()


def test_new_models_start_near_the_identity_with_equal_point_and_confidence_branches():
    model = Flow3r(TINY)
    poses = model(tiny_images()).world_from_camera
    assert (poses[..., :3, :3] - torch.eye(3)).abs().max() < 0.5
    for point, confidence in zip(model.point_branch.parameters(), model.confidence_branch.parameters(), strict=True):
        assert torch.equal(point, confidence) and point.data_ptr() != confidence.data_ptr()


@pytest.mark.parametrize("size", [(30, 42), (28, 43), (13, 14)])
def test_sides_that_are_no_multiples_of_a_patch(size):
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]}.*multiples of 14.*fit_frame"):
        tiny_model()(tiny_images(height=size[0], width=size[1]))


@pytest.mark.parametrize("pairs", [[[0, 3]], [[-1, 0]]])
def test_pairs_of_views_that_are_not_there(pairs):
    with pytest.raises(ValueError, match=r"pairs.*3"):
        tiny_model()(tiny_images(), torch.tensor([pairs]))


def test_no_images():
    with pytest.raises(ValueError, match="images have shape"):
        tiny_model()(tiny_images(views=0))


def test_flow_asked_of_a_model_without_a_flow_head():
    model = tiny_model(dataclasses.replace(TINY, flow=None))
    assert model(tiny_images()).flow is None
    with pytest.raises(ValueError, match="without a flow head"):
        model(tiny_images(), PAIRS)


def test_an_output_that_does_not_exist():
    with pytest.raises(ValueError, match=r"depths.*choose from points"):
        tiny_model()(tiny_images(), outputs=("depths",))


def sizes(part: str, **values: int | None) -> ModelConfig:
    return dataclasses.replace(TINY, **{part: dataclasses.replace(getattr(TINY, part), **values)})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (sizes("multiview", depth=3), "depth 3"),
        (sizes("encoder", heads=5), "width 24"),
        (sizes("branch", depth=3), "branch depth 3"),
        (sizes("flow", features=12), "neck 6"),
    ],
)
def test_sizes_that_no_model_can_have(config, said):
    with pytest.raises(ValueError, match=said):
        Flow3r(config)
