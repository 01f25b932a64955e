"""VGGT's family beyond its parity: symmetry, confidence, the source of world points, what runs, what learns."""

import dataclasses
import itertools

import pytest
import torch
from tiny_model import TINY_REFERENCE, TINY_VGGT, gradients, tiny_images, tiny_model

from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_maps
from flow3r.model.vggt import Vggt

PAIRS = torch.tensor([[[0, 1], [3, 2]]])


@torch.no_grad()
def test_the_paper_s_form_permutes_with_its_views():
    model, images = tiny_model(TINY_VGGT), tiny_images(views=4)
    before = model(images, PAIRS)
    order = torch.tensor([2, 0, 3, 1])  # new view k is old view order[k]
    after = model(images[:, order], order.argsort()[PAIRS])
    for name in ("local_points", "world_points", "confidence_logit", "world_confidence_logit", "world_from_camera"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name)[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.flow.displacement, before.flow.displacement, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_the_public_form_permutes_all_but_its_first_view():
    model, images = tiny_model(TINY_REFERENCE), tiny_images(views=4)
    before = model(images).world_from_camera
    rest, first = torch.tensor([0, 3, 1, 2]), torch.tensor([1, 0, 2, 3])
    torch.testing.assert_close(model(images[:, rest]).world_from_camera, before[:, rest], atol=1e-5, rtol=1e-5)
    assert (model(images[:, first]).world_from_camera - before[:, first]).abs().max() > 1e-3


@torch.no_grad()
def test_the_paper_s_form_is_the_public_one_with_the_tokens_of_later_views():
    public, paper = tiny_model(TINY_REFERENCE), Vggt(dataclasses.replace(TINY_VGGT, flow=None))
    weights = {k: v for k, v in public.state_dict().items() if not k.startswith("track_head.")}
    for key in ("multiview.camera_tokens", "multiview.register_tokens"):
        weights[key] = weights[key][:, 1:]
    paper.load_state_dict(weights)
    for key in ("camera_tokens", "register_tokens"):  # a public model whose first view is as all others
        getattr(public.multiview, key)[:, 0] = getattr(public.multiview, key)[:, 1]
    images = tiny_images()
    torch.testing.assert_close(paper(images).world_points, public(images).world_points)


@torch.no_grad()
def test_confidence_is_one_minus_one_over_vggt_s_own():
    model, images = tiny_model(TINY_VGGT), tiny_images()
    prediction = model(images)
    own = 1 + prediction.confidence_logit.exp()
    torch.testing.assert_close(prediction.confidence, 1 - 1 / own)


@pytest.mark.parametrize("source", ["head", "depth"])
@torch.no_grad()
def test_world_points_come_from_the_head_or_from_depth_and_camera(source):
    prediction = tiny_model(dataclasses.replace(TINY_VGGT, world_points=source))(tiny_images())
    local = unproject(prediction.depth, prediction.intrinsics)
    torch.testing.assert_close(prediction.local_points, local)
    moved = transform_maps(prediction.world_from_camera, local)
    assert torch.allclose(prediction.world_points, moved, atol=1e-5) == (source == "depth")
    assert (prediction.world_confidence_logit is None) == (source == "depth")


@torch.no_grad()
def test_the_principal_point_is_the_centre_and_the_poses_are_rigid():
    prediction = tiny_model(TINY_VGGT)(tiny_images())
    torch.testing.assert_close(prediction.intrinsics[..., :2, 2], torch.tensor([21.0, 14.0]).expand(1, 3, 2))
    rotation = prediction.world_from_camera[..., :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5, rtol=0)


ASKED = [c for n in range(4) for c in itertools.combinations(("points", "confidence", "cameras"), n)]


@pytest.mark.parametrize("outputs", ASKED, ids="+".join)
@torch.no_grad()
def test_only_what_was_asked_for_is_run(outputs):
    model, ran = tiny_model(TINY_VGGT), set()
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    prediction = model(tiny_images(), outputs=outputs)
    heads = {"points": {"camera_head", "depth_head", "point_head"}, "confidence": {"depth_head"}}
    expected = {"encoder", "multiview"}.union(*(heads.get(output, {"camera_head"}) for output in outputs))
    assert ran == expected
    everything = model(tiny_images())
    for field in dataclasses.fields(prediction):
        value = getattr(prediction, field.name)
        assert value is None or torch.equal(value, getattr(everything, field.name))


def test_everything_learns():
    for config, pairs in ((TINY_VGGT, PAIRS), (TINY_REFERENCE, None)):
        model = tiny_model(config)
        prediction = model(tiny_images(views=4), pairs)
        total = prediction.world_points.square().mean() + prediction.local_points.square().mean()
        total = total + prediction.confidence_logit.square().mean() + prediction.world_from_camera.square().mean()
        total = total + prediction.world_confidence_logit.square().mean()
        if pairs is not None:
            total = total + 1e-3 * prediction.flow.displacement.square().mean()
        else:
            tracks = model.track(tiny_images(views=4), torch.tensor([[[8.0, 9.0], [30.0, 20.0]]]))
            total = total + tracks.pixels.square().mean() + tracks.visible.sum() + tracks.confidence.sum()
        total.backward()
        still = {name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
        assert still == set(), still
        assert all(g.isfinite().all() for g in gradients(model).values())


def test_a_fresh_model_starts_with_a_pinhole_of_one_radian_at_the_origin():
    prediction = Vggt(TINY_VGGT)(tiny_images())
    focal = prediction.intrinsics[..., [0, 1], [0, 1]]
    torch.testing.assert_close(
        focal, (torch.tensor([42.0, 28.0]) / 2 / torch.tensor(0.5).tan()).expand_as(focal), rtol=0.1, atol=0
    )
    torch.testing.assert_close(prediction.world_from_camera, torch.eye(4).expand(1, 3, 4, 4), atol=0.1, rtol=0)


def test_sizes_that_no_model_can_have():
    for change, said in (({"levels": (0, 1, 1, 3)}, "levels"), ({"levels": (0, 1, 2, 4)}, "last of them 3")):
        with pytest.raises(ValueError, match=said):
            Vggt(dataclasses.replace(TINY_VGGT, **change))
    with pytest.raises(ValueError, match="without a track head"):
        tiny_model(TINY_VGGT).track(tiny_images(), torch.zeros(1, 1, 2))
    with pytest.raises(ValueError, match="without a flow head"):
        tiny_model(TINY_REFERENCE)(tiny_images(), PAIRS)
