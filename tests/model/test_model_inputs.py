"""The door: what a model cannot work on is refused with what was expected and what to do."""

import pytest
import torch
from tiny_model import TINY, TINY_VGGT, tiny_images, tiny_model

from flow3r.model.inputs import check_images, check_intrinsics, check_outputs, check_pairs

CPU = torch.device("cpu")
GOOD = tiny_images()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (GOOD[0], r"shape \(3, 3, 28, 42\), expected \(scenes, views, 3"),
        (GOOD[..., :27, :], "27x42, both sides must be multiples of 14: fit them"),
        (GOOD[:, :0], "none of them 0"),
        ((255 * GOOD).to(torch.uint8), r"torch.uint8, expected floats in \[0, 1\]: images.float\(\) / 255"),
        (255 * GOOD, "range from .* to 25.*: divide 8-bit values by 255"),
        (4 * GOOD - 2, "range from -2 to .*leave ImageNet normalisation to the model"),
        (GOOD / 0.0, "range from"),
        (GOOD * float("nan"), "range from nan"),
        (GOOD.to("meta"), "on meta and the model is on cpu: move one to the other"),
    ],
)
def test_images_that_no_model_can_work_on(images, said):
    with pytest.raises(ValueError, match=said):
        check_images(images, 14, CPU)


def test_images_that_overshoot_a_little_pass():
    check_images(1.1 * GOOD - 0.05, 14, CPU)
    check_images(GOOD.bfloat16(), 14, CPU)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (torch.tensor([[[0, 3]]]), "name views 0 to 3, but there are 3"),
        (torch.tensor([[[-1, 0]]]), "name views -1 to 0"),
        (torch.tensor([[0, 1]]), r"shape \(1, 2\), expected int64 \(1, P, 2\)"),
        (torch.tensor([[[0.0, 1.0]]]), "torch.float32 of shape"),
        (torch.tensor([[[0, 1]]], dtype=torch.uint8), "torch.uint8 of shape"),  # it would index as a mask
        (torch.tensor([[[False, True]]]), "torch.bool of shape"),
        (torch.zeros(2, 1, 2, dtype=torch.long), r"expected int64 \(1, P, 2\)"),
    ],
)
def test_pairs_that_no_flow_head_can_work_on(pairs, said):
    with pytest.raises(ValueError, match=said):
        check_pairs(pairs, 1, 3, has_flow_head=True)


PINHOLES = torch.eye(3).expand(1, 3, 3, 3)


@pytest.mark.parametrize(
    ("intrinsics", "said"),
    [
        (PINHOLES[0], r"shape \(3, 3, 3\), expected floats \(1, 3, 3, 3\): one pinhole per view"),
        (PINHOLES.long(), "torch.int64 of shape"),
        (PINHOLES * float("nan"), "hold NaN or infinity"),
        (PINHOLES.to("meta"), "on meta and the images on cpu"),
    ],
)
def test_intrinsics_that_are_not_of_these_images(intrinsics, said):
    with pytest.raises(ValueError, match=said):
        check_intrinsics(intrinsics, GOOD)


def test_what_is_not_there_cannot_be_asked_for():
    with pytest.raises(ValueError, match=r"the text 'points', expected a collection of names: \['points'\]"):
        check_outputs("points")
    with pytest.raises(ValueError, match="unknown outputs colour; choose from points"):
        check_outputs(["points", "colour"])
    with pytest.raises(ValueError, match="without a flow head"):
        check_pairs(torch.zeros(1, 1, 2, dtype=torch.long), 1, 3, has_flow_head=False)


@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "flow3r-vggt"])
def test_both_families_look_at_the_door(config):
    model = tiny_model(config)
    for images, pairs in ((255 * GOOD, None), (GOOD, torch.tensor([[[0, 7]]]))):
        with pytest.raises(ValueError, match=r"range from|name views"):
            model(images, pairs)
    with pytest.raises(ValueError, match=r"heads' weights are torch.bfloat16, expected .*lay_out_for_inference"):
        tiny_model(config).bfloat16()(GOOD)
    with pytest.raises(ValueError, match="intrinsics hold NaN"):
        model(GOOD, torch.tensor([[[0, 1]]]), intrinsics=PINHOLES * float("nan"))
