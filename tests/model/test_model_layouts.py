"""Tables of names are one-to-one; DINOv2's three layouts give the encoder that wrote them, to the bit."""

import pytest
import torch
from safetensors.torch import save_file

from flow3r.config import EncoderConfig
from flow3r.errors import CheckpointError
from flow3r.model.layouts import LAYOUTS, recognise, rename
from flow3r.model.sources import read_source
from flow3r.nn.dinov2 import DinoV2

ENCODER = EncoderConfig(width=24, depth=2, heads=2, position_grid=3, registers=4, mask_token=True)


@pytest.fixture
def encoder() -> DinoV2:
    encoder = DinoV2(ENCODER)
    for parameter in encoder.parameters():
        parameter.data = torch.randn(parameter.shape)
    return encoder


def original(encoder: DinoV2) -> dict[str, torch.Tensor]:
    """The file of the original repository, written out."""
    out = {
        "cls_token": encoder.class_token,
        "pos_embed": encoder.position_table,
        "register_tokens": encoder.register_tokens,
        "mask_token": encoder.mask_token,
        "patch_embed.proj.weight": encoder.patch_embed.weight,
        "patch_embed.proj.bias": encoder.patch_embed.bias,
        "norm.weight": encoder.norm.weight,
        "norm.bias": encoder.norm.bias,
    }
    for k, block in enumerate(encoder.blocks):
        modules = {
            "norm1": block.norm1,
            "attn.qkv": block.attention.qkv,
            "attn.proj": block.attention.proj,
            "norm2": block.norm2,
            "mlp.fc1": block.mlp.fc1,
            "mlp.fc2": block.mlp.fc2,
        }
        for name, module in modules.items():
            out |= {f"blocks.{k}.{name}.weight": module.weight, f"blocks.{k}.{name}.bias": module.bias}
        out |= {f"blocks.{k}.ls1.gamma": block.scale1.gamma, f"blocks.{k}.ls2.gamma": block.scale2.gamma}
    return {key: value.detach().clone() for key, value in out.items()}


def timm(encoder: DinoV2) -> dict[str, torch.Tensor]:
    """The class token comes with its position, which the table then lacks; so do registers, and there is no mask."""
    out = original(encoder)
    del out["mask_token"]
    out["reg_token"] = out.pop("register_tokens")
    out["cls_token"] = out["cls_token"] + out["pos_embed"][:, :1]
    out["pos_embed"] = out["pos_embed"][:, 1:].contiguous()
    return out


def transformers(encoder: DinoV2) -> dict[str, torch.Tensor]:
    """Queries, keys and values are three tensors."""
    top = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "register_tokens": "embeddings.register_tokens",
        "mask_token": "embeddings.mask_token",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    out = {}
    for key, value in original(encoder).items():
        if key in top:
            out[top[key]] = value
            continue
        name = key.replace("blocks.", "encoder.layer.").replace("attn.proj", "attention.output.dense")
        name = name.replace("ls1.gamma", "layer_scale1.lambda1").replace("ls2.gamma", "layer_scale2.lambda1")
        if "attn.qkv" not in name:
            out[name] = value
            continue
        for third, part in zip(value.split(len(value) // 3), ("query", "key", "value"), strict=True):
            out[name.replace("attn.qkv", f"attention.attention.{part}")] = third.clone()
    return out


FILES = {"dinov2": original, "dinov2-timm": timm, "dinov2-transformers": transformers}


@pytest.mark.parametrize("name", FILES)
@torch.no_grad()
def test_dinov2_comes_back_from_each_of_its_layouts(encoder, name):
    public = FILES[name](encoder)
    layout = recognise(public)
    assert layout.name == name
    own = layout.to_ours(public)
    read = DinoV2(ENCODER)
    state = {key.removeprefix("encoder."): value for key, value in own.items()}
    assert set(read.state_dict()) - set(state) == ({"mask_token"} if name == "dinov2-timm" else set())
    read.load_state_dict(state, strict=False)
    images = torch.rand(2, 3, 28, 42)
    assert torch.equal(read(images), encoder(images))


@pytest.mark.parametrize("name", FILES)
def test_written_as_it_was_read(encoder, name):
    public = FILES[name](encoder)
    again = LAYOUTS[name].from_ours(LAYOUTS[name].to_ours(public))
    assert again.keys() == public.keys()
    assert all(torch.equal(again[key], value) and again[key].is_contiguous() for key, value in public.items())


def test_a_classifiers_prefix_of_transformers(encoder):
    public = {f"dinov2_with_registers.{key}": value for key, value in transformers(encoder).items()}
    layout = recognise(public)
    assert layout.to_ours(public).keys() == layout.to_ours(transformers(encoder)).keys()


@pytest.mark.parametrize("name", FILES)
def test_a_dinov2_without_registers_is_told_apart(encoder, name):
    public = {key: value for key, value in FILES[name](encoder).items() if "reg" not in key}
    with pytest.raises(CheckpointError, match="without registers; expected DINOv2 with four"):
        recognise(public)


def test_a_third_that_lacks_makes_the_whole_lack(encoder):
    public = transformers(encoder)
    del public["encoder.layer.1.attention.attention.key.weight"]
    own = LAYOUTS["dinov2-transformers"].to_ours(public)
    assert "encoder.blocks.1.attention.qkv.weight" not in own and "encoder.blocks.1.attention.qkv.bias" in own


@pytest.mark.parametrize(
    ("key", "source", "target", "renamed"),
    [
        ("a.3.x.y", "a.{k}.*", "b.{2k+1}.*", "b.7.x.y"),
        ("b.7.x.y", "b.{2k+1}.*", "a.{k}.*", "a.3.x.y"),
        ("b.6.x.y", "b.{2k+1}.*", "a.{k}.*", None),  # not odd
        ("layer0_rn.w", "layer{k+1}_rn.*", "reduce.{k}.*", None),  # counted from one
        ("r.2.c3.w", "r.{k}.c{j+1}.*", "s.{k}.{j}.*", "s.2.2.w"),
        ("r.2.2", "r.{k}.{k}", "s.{k}", "s.2"),
        ("r.2.3", "r.{k}.{k}", "s.{k}", None),
        ("a.03.x", "a.{k}.*", "b.{k}.*", None),
        ("a.3", "a.{k}.*", "b.{k}.*", None),
        ("a.3.", "a.{k}.*", "b.{k}.*", None),
        ("norm.weight", "norm.*", "layernorm.*", "layernorm.weight"),
        ("xnorm.weight", "norm.*", "layernorm.*", None),
    ],
)
def test_rules(key, source, target, renamed):
    assert rename(key, source, target) == renamed


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.rules])
def test_no_two_rules_of_a_table_speak_of_the_same_names(name):
    """Every rule's own example leads to one name, and back to itself."""
    layout = LAYOUTS[name]
    for public, _ in layout.rules:
        for part in (public,) if isinstance(public, str) else public:
            for number in (0, 5):
                numbered = part.replace("{2k}", str(2 * number)).replace("{k+1}", str(number + 1))
                numbered = numbered.replace("{k}", str(number)).replace("{j+1}", "2").replace("{i}", "1")
                key = numbered.replace("*", "weight")
                ours, _, _ = layout.our_names([key])[key]
                assert key in layout.public_names(ours)


def test_unknown_names_stay_out_and_have_no_place():
    assert LAYOUTS["pi3"].our_names(["flow_head.norm.weight", "decoder.x.norm1.weight", "attention.qkv.weight"]) == {}
    with pytest.raises(CheckpointError, match=r"pi3.*no place for 1 tensors \(first: flow_head\.norm\.weight\)"):
        LAYOUTS["pi3"].from_ours({"flow_head.norm.weight": torch.zeros(1)})


def test_another_layout_says_what_was_seen_and_what_is_known():
    with pytest.raises(CheckpointError, match=r"first keys: a, b, c\); expected one of ours .* pi3 .* vggt"):
        recognise({"d": 0, "c": 0, "b": 0, "a": 0})


@torch.no_grad()
def test_transformers_itself_agrees(tmp_path, monkeypatch):
    package = pytest.importorskip("transformers", reason="transformers is an optional oracle")
    config = package.Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=42, patch_size=14
    )
    model = package.Dinov2WithRegistersModel(config).eval()
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(tmp_path)
    source = read_source(tmp_path)
    assert source.layout.name == "dinov2-transformers" and source.unknown == ()
    ours, images = DinoV2(ENCODER), torch.rand(2, 3, 42, 42)
    ours.load_state_dict({key.removeprefix("encoder."): value for key, value in source.tensors.items()})
    torch.testing.assert_close(ours(images).flatten(1, 2), model(images).last_hidden_state[:, 5:])


@torch.no_grad()
def test_timm_itself_agrees(tmp_path):
    package = pytest.importorskip("timm", reason="timm is an optional oracle")
    sizes = {"img_size": 42, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
    model = package.create_model("vit_large_patch14_reg4_dinov2", **sizes).eval()
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    source = read_source(tmp_path)
    assert source.layout.name == "dinov2-timm" and source.unknown == ()
    ours, images = DinoV2(ENCODER), torch.rand(2, 3, 42, 42)
    ours.load_state_dict({key.removeprefix("encoder."): value for key, value in source.tensors.items()}, strict=False)
    torch.testing.assert_close(ours(images).flatten(1, 2), model.forward_features(images)[:, 5:])
