"""Starts of training: the paper's, of a public model under a fresh flow head, and of an encoder from DINOv2."""

import dataclasses

import pytest
import torch
from public_layout import PUBLIC, PUBLIC_VGGT
from safetensors.torch import load_file, save_file
from tiny_model import TINY, TINY_VGGT, tiny_images, tiny_model

from flow3r.config import FlowHeadConfig
from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import initialise_from, load_encoder, load_model, save_model, start_model
from flow3r.model.layouts import LAYOUTS

HEAD = FlowHeadConfig(features=16, level_channels=(8, 8, 8, 8), output_channels=8)


def of(model, prefix: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.fixture
def pi3(tmp_path):
    model = tiny_model(dataclasses.replace(PUBLIC, flow=None))
    save_file(LAYOUTS["pi3"].from_ours(model.state_dict()), tmp_path / "pi3.safetensors")
    return model, tmp_path / "pi3.safetensors"


@pytest.fixture
def vggt(tmp_path):
    model = tiny_model(PUBLIC_VGGT)
    save_file(LAYOUTS["vggt"].from_ours(model.state_dict()), tmp_path / "vggt.safetensors")
    return model, tmp_path / "vggt.safetensors"


def test_pi3_starts_a_flow3r_with_a_fresh_flow_head(pi3):
    source, path = pi3
    model, start = start_model(path, HEAD)
    assert model.config == dataclasses.replace(PUBLIC, flow=HEAD)
    assert set(start.fresh) == of(model, "flow_head.").keys() and start.dropped == ()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)
    with torch.no_grad():
        images = tiny_images()
        assert torch.equal(model(images).world_points, source(images).world_points)
        assert model(images, torch.tensor([[[0, 1]]])).flow.displacement.isfinite().all()


def test_fresh_parts_follow_the_seed(pi3):
    heads = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        heads.append(of(start_model(pi3[1], HEAD)[0], "flow_head."))
    assert same(heads[0], heads[1]) and not same(heads[0], heads[2])


def test_vggt_starts_the_papers_form_of_itself(vggt):
    source, path = vggt
    model, start = start_model(path, HEAD)
    assert not model.config.multiview.first_view and model.track_head is None and model.config.flow == HEAD
    assert set(start.fresh) == of(model, "flow_head.").keys()
    assert set(start.dropped) == {"encoder.mask_token", *of(source, "track_head.")}
    for name in ("camera_tokens", "register_tokens"):  # those of the views that are not the first
        assert torch.equal(getattr(model.multiview, name), getattr(source.multiview, name)[:, 1:])
    for part in ("multiview.blocks.", "camera_head.", "depth_head.", "point_head."):
        assert same(of(model, part), of(source, part))
    with torch.no_grad():
        images = tiny_images()
        there, back = model(images).local_points, model(images.flip(1)).local_points.flip(1)
    torch.testing.assert_close(there, back, rtol=1e-3, atol=1e-4)


def test_our_own_weights_start_a_model_of_the_same_sizes(tmp_path):
    source = tiny_model()
    save_model(source, tmp_path / "m.safetensors")
    model = type(source)(dataclasses.replace(TINY, tokens=(1, 2)))
    start = initialise_from(model, tmp_path / "m.safetensors")
    assert start.fresh == start.dropped == () and same(model.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("branch", {"camera_width": 20}, "branch.camera_width 24 for 20"),
        ("multiview", {"heads": 4}, "multiview.heads 2 for 4"),  # no shape would tell
        ("flow", {"kind": "tracking"}, "flow.kind factored for tracking"),
    ],
)
def test_other_sizes_are_refused(tmp_path, part, change, said):
    save_model(tiny_model(), tmp_path / "m.safetensors")
    config = dataclasses.replace(TINY, **{part: dataclasses.replace(getattr(TINY, part), **change)})
    with pytest.raises(CheckpointError, match=rf"m\.safetensors: its sizes differ from the model's: {said}"):
        initialise_from(tiny_model(config), tmp_path / "m.safetensors")


def test_another_family_is_refused(vggt):
    with pytest.raises(CheckpointError, match="VggtConfig for ModelConfig"):
        initialise_from(tiny_model(), vggt[1])


def test_half_a_flow_head_is_not_a_fresh_one(tmp_path):
    public = LAYOUTS["flow3r"].from_ours(tiny_model(PUBLIC).state_dict())
    del public["flow_head.norm.weight"]
    save_file(public, tmp_path / "flow3r.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing \(first: flow_head\.norm\.weight\)"):
        initialise_from(tiny_model(PUBLIC), tmp_path / "flow3r.safetensors")


def test_nothing_else_may_lack(pi3):
    tensors = load_file(pi3[1])
    del tensors["point_head.proj.bias"]
    save_file(tensors, pi3[1])
    with pytest.raises(CheckpointError, match=r"1 missing \(first: point_head\.proj\.bias\)"):
        start_model(pi3[1], HEAD)


def test_a_head_that_the_model_lacks_is_not_dropped_unasked(tmp_path):
    save_model(tiny_model(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected \(first: flow_head\."):
        initialise_from(tiny_model(dataclasses.replace(TINY, flow=None)), tmp_path / "m.safetensors")


@pytest.mark.parametrize("layout", ["dinov2", "dinov2-timm", "dinov2-transformers"])
@pytest.mark.parametrize("config", [TINY, TINY_VGGT], ids=["flow3r", "vggt"])
def test_an_encoder_from_dinov2(tmp_path, layout, config):
    source = tiny_model(config).encoder
    own = {f"encoder.{key}": value for key, value in source.state_dict().items()}
    if layout != "dinov2-timm":
        own["encoder.mask_token"] = torch.zeros(1, 24)
    save_file(LAYOUTS[layout].from_ours(own), tmp_path / "model.safetensors")
    model = type(tiny_model(config))(config)
    rest = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith("encoder.")}
    start = load_encoder(model, tmp_path)
    assert start.fresh == () and start.dropped == (() if layout == "dinov2-timm" else ("encoder.mask_token",))
    assert same(rest, {key: value for key, value in model.state_dict().items() if key in rest})
    with torch.no_grad():
        assert torch.equal(model.encoder(tiny_images()[0]), source(tiny_images()[0]))


def test_an_encoder_of_other_sizes_or_none_at_all(tmp_path, pi3):
    with pytest.raises(CheckpointError, match=r"pi3\.safetensors: π³, expected a DINOv2 with registers"):
        load_encoder(tiny_model(), pi3[1])
    public = LAYOUTS["dinov2"].from_ours(of(tiny_model(), "encoder."))
    del public["norm.bias"]
    public["pos_embed"] = public["pos_embed"][:, :5].clone()
    public["head.weight"] = torch.zeros(1)
    save_file(public, tmp_path / "dinov2.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_encoder(tiny_model(), tmp_path / "dinov2.safetensors")
    assert "1 missing (first: norm.bias); 1 unexpected (first: head.weight)" in str(caught.value)
    assert "1 mis-shaped (first: pos_embed (1, 5, 24) for (1, 10, 24))" in str(caught.value)


def test_starts_are_saved_as_any_model(vggt, tmp_path):
    model, _ = start_model(vggt[1], HEAD)
    save_model(model, tmp_path / "start.safetensors")
    assert same(load_model(tmp_path / "start.safetensors").state_dict(), model.state_dict())
