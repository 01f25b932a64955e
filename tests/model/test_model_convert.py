"""Conversion keeps every bit on the way there and back, and refuses to lose anything unasked."""

import dataclasses

import pytest
import torch
from public_layout import PUBLIC, PUBLIC_VGGT
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import TINY, TINY_VGGT, tiny_model

from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import load_model, save_model
from flow3r.model.convert import convert
from flow3r.model.layouts import LAYOUTS
from flow3r.model.sources import read_tensors

PI3 = dataclasses.replace(PUBLIC, flow=None)
MODELS = {"flow3r": PUBLIC, "pi3": PI3, "vggt": PUBLIC_VGGT}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value.dtype == second[key].dtype and torch.equal(value, second[key]) for key, value in first.items()
    )


@pytest.fixture
def public(tmp_path):
    """A function that writes a tiny file of a public layout: in bf16 but for one tensor, to see that types are kept."""

    def write(name: str, config=None):
        own = tiny_model(config or MODELS[name]).state_dict()
        own = {key: value if key.endswith("norm.weight") else value.bfloat16() for key, value in own.items()}
        save_file(LAYOUTS[name].from_ours(own), tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    return write


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_to_the_bit(public, tmp_path, name, suffix):
    path = public(name)
    assert convert(path, tmp_path / "ours.safetensors").name == name
    assert load_model(tmp_path / "ours.safetensors").config == MODELS[name]
    assert convert(tmp_path / "ours.safetensors", tmp_path / f"back{suffix}", to=name).name == "ours"
    assert same_bits(read_tensors(tmp_path / f"back{suffix}")[0], load_file(path))


@pytest.mark.parametrize("other", ["dinov2-timm", "dinov2-transformers", "dinov2"])
def test_encoders_there_and_back_to_the_bit(tmp_path, other):
    own = {key: value for key, value in tiny_model(PUBLIC_VGGT).state_dict().items() if key.startswith("encoder.")}
    if other == "dinov2-timm":  # where the class token already holds its position
        del own["encoder.mask_token"]
        own["encoder.position_table"][:, 0] = 0
    save_file(LAYOUTS["dinov2"].from_ours(own), tmp_path / "dinov2.safetensors")
    convert(tmp_path / "dinov2.safetensors", tmp_path / "other.safetensors", to=other)
    convert(tmp_path / "other.safetensors", tmp_path / "back.safetensors", to="dinov2")
    assert same_bits(load_file(tmp_path / "back.safetensors"), load_file(tmp_path / "dinov2.safetensors"))


def test_a_flow_head_is_not_lost_unasked(public, tmp_path):
    with pytest.raises(CheckpointError, match=r"tensors would be lost \(first: flow_head\..*--drop flow_head$"):
        convert(public("flow3r"), tmp_path / "pi3.bin", to="pi3")
    convert(public("flow3r"), tmp_path / "pi3.bin", to="pi3", drop=("flow_head",))
    assert load_model(tmp_path / "pi3.bin").config == PI3


def test_a_flow_head_without_weights_stays(tmp_path):
    config = dataclasses.replace(TINY, flow=dataclasses.replace(TINY.flow, kind="projective"))
    save_model(tiny_model(config), tmp_path / "ours.safetensors")
    convert(tmp_path / "ours.safetensors", tmp_path / "copy.safetensors")
    assert load_model(tmp_path / "copy.safetensors").config == config


def test_parts_are_dropped_from_ours_with_their_sizes(public, tmp_path):
    convert(public("vggt"), tmp_path / "ours.safetensors", drop=("track_head", "encoder.mask_token"))
    loaded = load_model(tmp_path / "ours.safetensors")
    assert loaded.track_head is None and not loaded.config.encoder.mask_token
    with pytest.raises(CheckpointError, match="has no track_head, which a file of the layout vggt holds"):
        convert(tmp_path / "ours.safetensors", tmp_path / "vggt.safetensors", to="vggt")
    for to in ("ours", "vggt"):
        with pytest.raises(CheckpointError, match=r"missing \(first: point_head"):
            convert(public("vggt"), tmp_path / "part.safetensors", to=to, drop=("point_head",))
    with pytest.raises(CheckpointError, match="has no part flow to drop; its parts are camera_head"):
        convert(public("vggt"), tmp_path / "part.safetensors", drop=("flow",))
    assert not (tmp_path / "part.safetensors").exists()


def test_the_encoder_of_a_model(public, tmp_path):
    with pytest.raises(CheckpointError, match=r"--drop camera_head depth_head multiview point_head track_head$"):
        convert(public("vggt"), tmp_path / "dinov2.safetensors", to="dinov2")
    parts = ("camera_head", "depth_head", "multiview", "point_head", "track_head")
    convert(public("vggt"), tmp_path / "dinov2.safetensors", to="dinov2", drop=parts)
    expected = {
        key.removeprefix("aggregator.patch_embed."): value
        for key, value in load_file(public("vggt")).items()
        if key.startswith("aggregator.patch_embed.")
    }
    assert same_bits(load_file(tmp_path / "dinov2.safetensors"), expected)
    with pytest.raises(CheckpointError, match="is an encoder, not a model"):
        convert(tmp_path / "dinov2.safetensors", tmp_path / "ours.safetensors")


@pytest.mark.parametrize(
    ("config", "to", "said"),
    [
        (TINY, "flow3r", r"would be lost \(first: multiview\.projection\.bias.*no place for them$"),
        (dataclasses.replace(PUBLIC, branch=dataclasses.replace(PUBLIC.branch, heads=4)), "flow3r", "branch.heads 4"),
        (PI3, "flow3r", "has no flow_head, which a file of the layout flow3r holds"),
        (PUBLIC, "vggt", "a model of the family flow3r"),
        (dataclasses.replace(TINY_VGGT, encoder=PUBLIC_VGGT.encoder), "vggt", "would be lost.*flow_head"),
        (
            dataclasses.replace(PUBLIC_VGGT, encoder=dataclasses.replace(PUBLIC_VGGT.encoder, mask_token=False)),
            "vggt",
            r"has no encoder\.mask_token",
        ),
        (
            dataclasses.replace(PUBLIC_VGGT, multiview=dataclasses.replace(PUBLIC_VGGT.multiview, first_view=False)),
            "vggt",
            "first_view False",
        ),
    ],
    ids=["projection", "heads", "no flow head", "another family", "flow head", "no mask", "no first view"],
)
def test_what_a_public_layout_cannot_say(tmp_path, config, to, said):
    save_model(tiny_model(config), tmp_path / "ours.safetensors")
    with pytest.raises(CheckpointError, match=said):
        convert(tmp_path / "ours.safetensors", tmp_path / "public.safetensors", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["ours.safetensors"]


def test_a_known_origin_stays_with_the_weights(public, tmp_path, monkeypatch):
    path = public("pi3")
    monkeypatch.setattr("flow3r.model.convert.read_source", lambda name, accept: original(path, accept))
    from flow3r.model.sources import read_source as original

    convert("yyfz233/Pi3", tmp_path / "ours.safetensors")
    with safe_open(tmp_path / "ours.safetensors", framework="pt") as file:
        assert file.metadata()["origin"] == "yyfz233/Pi3"
    monkeypatch.setattr("flow3r.model.licences._done", dict)
    monkeypatch.setattr("flow3r.model.licences._remember", lambda news: None)  # or other tests had accepted it too
    with pytest.raises(CheckpointError, match="--accept-license"):
        load_model(tmp_path / "ours.safetensors")
    load_model(tmp_path / "ours.safetensors", accept_license=True)


def test_the_source_is_not_overwritten_and_names_tell_what_to_write(public, tmp_path):
    path = public("pi3")
    with pytest.raises(CheckpointError, match="is the source itself"):
        convert(path, path)
    with pytest.raises(CheckpointError, match=r"out\.npz: cannot be told by its name what to write"):
        convert(path, tmp_path / "out.npz", to="pi3")
    with pytest.raises(CheckpointError, match=r"ours\.bin: .*sizes.*\.safetensors"):
        convert(path, tmp_path / "ours.bin")
