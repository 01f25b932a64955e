"""The types move as a whole, stay as they are, and say what they hold."""

import dataclasses

import jaxtyping
import pytest
import torch

from flow3r.types import Flow, Latents, OnDevice, Prediction, Views


def views_with_flow() -> Views:
    pairs = torch.tensor([[[0, 1], [1, 0]]])
    flow = Flow(pairs, torch.randn(1, 2, 4, 6, 2), torch.rand(1, 2, 4, 6))
    return Views(torch.rand(1, 2, 3, 4, 6), depth=torch.ones(1, 2, 4, 6), flow=flow, names=(("a", "b"),))


def tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, OnDevice):
        return [t for field in dataclasses.fields(value) for t in tensors(getattr(value, field.name))]
    if isinstance(value, tuple):
        return [t for item in value for t in tensors(item)]
    return []


def test_everything_moves_to_the_device_and_the_rest_stays():
    views = views_with_flow()
    moved = views.to("meta")
    assert len(tensors(moved)) == 5
    assert all(tensor.is_meta for tensor in tensors(moved))
    assert not any(tensor.is_meta for tensor in tensors(views))
    assert moved.names == views.names and moved.intrinsics is None
    levels = tuple(torch.randn(1, 2, 2, 3, 8) for _ in range(4))
    assert all(tensor.is_meta for tensor in tensors(Latents(levels, levels).to("meta")))


def test_moving_changes_no_value():
    views = views_with_flow()
    for tensor, moved in zip(tensors(views), tensors(views.to("cpu")), strict=True):
        assert torch.equal(tensor, moved)


@pytest.mark.parametrize("kind", OnDevice.__subclasses__())
def test_types_are_frozen(kind):
    assert kind.__dataclass_params__.frozen
    with pytest.raises(dataclasses.FrozenInstanceError):
        views_with_flow().images = torch.zeros(1, 2, 3, 4, 6)


def test_labelled_means_that_depth_is_there():
    views = views_with_flow()
    assert views.labelled
    assert not dataclasses.replace(views, depth=None).labelled


def test_shapes_of_one_batch_must_agree():
    """True under pytest, where the shapes in the signatures are checked."""
    with pytest.raises(jaxtyping.TypeCheckError):
        Views(torch.rand(1, 2, 3, 4, 6), depth=torch.ones(1, 2, 6, 4))
    with pytest.raises(jaxtyping.TypeCheckError):
        Flow(torch.zeros(1, 2, 2, dtype=torch.long), torch.zeros(1, 3, 4, 6, 2), None)


def test_confidence_is_the_sigmoid_of_its_logit_and_depth_the_z_of_the_points():
    points, logit = torch.randn(1, 2, 4, 6, 3), torch.randn(1, 2, 4, 6)
    prediction = Prediction(local_points=points, confidence_logit=logit)
    torch.testing.assert_close(prediction.confidence.logit(), logit, atol=1e-5, rtol=1e-5)
    assert torch.equal(prediction.depth, points[..., 2])
    assert Prediction().confidence is None and Prediction().depth is None
