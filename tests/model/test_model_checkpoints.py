import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from public_layout import PUBLIC, PUBLIC_VGGT, public_key
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import TINY, TINY_REFERENCE, TINY_VGGT, tiny_images, tiny_model

from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import load_model, save_model
from flow3r.model.layouts import LAYOUTS


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_model(tiny_model(), path)
    return path


def public_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {public_key(key): value.clone() for key, value in model.state_dict().items()}


def rewrite(path, change) -> None:
    """Change the tensors of one of our files and keep its metadata."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    said = str(caught.value)
    assert path.name in said and "\n" not in said
    return said


@pytest.mark.parametrize(
    "config",
    [TINY, dataclasses.replace(TINY, flow=None), TINY_VGGT, TINY_REFERENCE],
    ids=["flow", "no flow", "flow3r-vggt", "vggt"],
)
def test_saved_and_loaded_to_the_bit(tmp_path, config):
    model = tiny_model(config)
    save_model(model, tmp_path / "model.safetensors")
    for name in (tmp_path / "model.safetensors", str(tmp_path)):  # the file, or the folder that holds it
        loaded = load_model(name)
        assert loaded.config == model.config and not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        assert all(p.requires_grad for p in loaded.parameters())
        with torch.no_grad():
            assert torch.equal(loaded(tiny_images()).world_points, model(tiny_images()).world_points)


def test_saved_in_bf16_it_is_the_rounded_model_in_fp32_and_rounds_no_further(tmp_path):
    model = tiny_model()
    for name in ("once", "twice"):
        save_model(model, tmp_path / f"{name}.safetensors", torch.bfloat16)
        loaded = load_model(tmp_path / f"{name}.safetensors")
        for key, parameter in loaded.named_parameters():
            assert parameter.dtype == torch.float32
            assert torch.equal(parameter, model.get_parameter(key).bfloat16().float())
        model = loaded
    assert torch.equal(loaded.image_mean, tiny_model().image_mean)  # ImageNet's constants are exact in any file
    assert (tmp_path / "once.safetensors").stat().st_size < 0.7 * 4 * sum(p.numel() for p in model.parameters())


def test_saving_neither_moves_nor_rounds_the_model(tmp_path):
    model = tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_model(model, tmp_path / "m.safetensors", torch.bfloat16)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_folder_holds_weights_and_readable_sizes(tmp_path):
    save_model(tiny_model(TINY_VGGT), tmp_path / "model", notes="made by a test")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    readable = json.loads((tmp_path / "model" / "config.json").read_text())
    assert readable["config"]["family"] == "vggt" and readable["config"]["multiview"]["depth"] == 8
    assert readable["notes"] == "made by a test"
    save_file(load_file(tmp_path / "model" / "model.safetensors"), tmp_path / "model" / "model.safetensors")
    assert load_model(tmp_path / "model").config == TINY_VGGT  # from the readable sizes


def test_the_sizes_inside_the_weights_come_before_another_programs_config(tmp_path):
    save_model(tiny_model(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"name": "of a training run"}))
    assert load_model(tmp_path).config == TINY


def test_files_from_before_there_were_families_are_of_the_first(saved):
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    sizes = json.loads(metadata["config"])
    assert sizes.pop("family") == "flow3r"
    del sizes["encoder"]["mask_token"], sizes["multiview"]["camera_tokens"]  # fields that were added later
    save_file(load_file(saved), saved, metadata | {"config": json.dumps(sizes)})
    assert load_model(saved).config == TINY


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match=r"saved as \.safetensors, which holds its sizes"):
        save_model(tiny_model(), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())


def test_notes_are_kept(tmp_path):
    save_model(tiny_model(), tmp_path / "m.safetensors", notes="made by a test")
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert file.metadata()["notes"] == "made by a test"


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_the_public_layout_gives_back_the_model_and_its_sizes(tmp_path, suffix):
    model, path = tiny_model(PUBLIC), tmp_path / f"flow3r{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    write(public_tensors(model), path)
    loaded = load_model(path)
    assert loaded.config == PUBLIC
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_vggts_layout_gives_back_the_model_and_its_sizes(tmp_path):
    model = tiny_model(PUBLIC_VGGT)
    torch.save(LAYOUTS["vggt"].from_ours(model.state_dict()), tmp_path / "model.pt")
    loaded = load_model(tmp_path)
    assert loaded.config == PUBLIC_VGGT
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_sizes_that_shapes_do_not_tell_may_be_given(tmp_path):
    config = dataclasses.replace(PUBLIC_VGGT, camera=dataclasses.replace(PUBLIC_VGGT.camera, heads=2))
    model = tiny_model(config)
    save_file(LAYOUTS["vggt"].from_ours(model.state_dict()), tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = model(tiny_images()).world_from_camera
        assert torch.equal(load_model(tmp_path, config=config)(tiny_images()).world_from_camera, expected)
        assert not torch.equal(load_model(tmp_path)(tiny_images()).world_from_camera, expected)


@torch.no_grad()
def test_the_public_code_s_rope_in_bf16_is_a_switch(saved):
    images, results = tiny_images(), {}
    for precision in (None, "rounded", "float32"):
        model = load_model(saved, rope_precision=precision)
        assert model.config.multiview.rope_precision == (precision or "products")
        with torch.autocast("cpu", torch.bfloat16):
            results[precision] = model(images).local_points
    assert not torch.equal(results[None], results["rounded"]) and not torch.equal(results[None], results["float32"])


def test_a_pi3_checkpoint_is_a_model_without_a_flow_head(tmp_path):
    tensors = {key: value for key, value in public_tensors(tiny_model(PUBLIC)).items() if "flow_head" not in key}
    save_file(tensors, tmp_path / "pi3.safetensors")
    loaded = load_model(tmp_path / "pi3.safetensors")
    assert loaded.config == dataclasses.replace(PUBLIC, flow=None) and loaded.flow_head is None
    with torch.no_grad():
        expected = tiny_model(PUBLIC)(tiny_images()).world_points
        assert torch.equal(loaded(tiny_images()).world_points, expected)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (str(self.target), "w")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    path, target = tmp_path / "model.bin", tmp_path / "ran"
    torch.save({"register_token": Bomb(target)}, path)
    assert "refused" in refusal(path) and not target.exists()


@pytest.mark.parametrize("content", [[1, 2], {"model": {"weight": torch.zeros(1)}}, torch.zeros(2)])
def test_a_pickle_that_is_no_flat_dict_of_tensors(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    assert "expected a flat dict of tensors" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(saved, value):
    key = "camera_head.rotation.bias"
    rewrite(saved, lambda tensors: tensors[key].__setitem__(3, value))
    assert key in refusal(saved)


def test_weights_of_eight_bits_are_read_too(tmp_path):
    tensors = {key: value.to(torch.float8_e4m3fn) for key, value in public_tensors(tiny_model(PUBLIC)).items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "small.safetensors")
    model = load_model(tmp_path / "small.safetensors")
    assert torch.equal(model.state_dict()["image_mean"], tensors["image_mean"].float())


def test_another_layout_names_its_keys(tmp_path):
    save_file({"backbone.conv.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    assert "backbone.conv.weight" in refusal(tmp_path / "resnet.safetensors")


def test_no_tensors_at_all(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    refusal(tmp_path / "empty.safetensors")


def test_an_encoder_is_no_model(tmp_path):
    names = {"cls_token": torch.zeros(1), "register_tokens": torch.zeros(1)}
    save_file(names, tmp_path / "dinov2.safetensors")
    assert "put it into one with load_encoder" in refusal(tmp_path / "dinov2.safetensors")


def test_a_public_file_is_told_its_keys_by_its_own_names(tmp_path):
    tensors = public_tensors(tiny_model(PUBLIC))
    del tensors["conf_head.proj.bias"]
    tensors["decoder.0.attn.rope.weight"] = torch.zeros(1)
    tensors["camera_head.fc_rot.weight"] = torch.zeros(3, 3)
    save_file(tensors, tmp_path / "flow3r.safetensors")
    said = refusal(tmp_path / "flow3r.safetensors")
    assert "1 missing (first: conf_head.proj.bias)" in said
    assert "1 unexpected (first: decoder.0.attn.rope.weight)" in said
    assert "1 mis-shaped (first: camera_head.fc_rot.weight (3, 3) for (9, 24))" in said


def test_keys_that_do_not_fit_are_counted_and_named(saved):
    def change(tensors):
        del tensors["encoder.norm.bias"], tensors["point_head.proj.bias"]
        tensors["extra.weight"] = torch.zeros(1)
        tensors["point_head.proj.weight"] = torch.zeros(2, 3)

    rewrite(saved, change)
    said = refusal(saved)
    assert "2 missing (first: encoder.norm.bias, point_head.proj.bias)" in said
    assert "1 unexpected (first: extra.weight)" in said
    assert "1 mis-shaped" in said and "point_head.proj.weight (2, 3) for (588, 40)" in said


@pytest.mark.parametrize(
    "key",
    ["decoder.2.attn.qkv.weight", "encoder.pos_embed", "decoder.0.attn.q_norm.weight", "point_decoder.projects.bias"],
)
def test_a_public_file_that_lacks_a_tensor(tmp_path, key):
    tensors = public_tensors(tiny_model(PUBLIC))
    del tensors[key]
    save_file(tensors, tmp_path / "part.safetensors")
    assert "missing" in refusal(tmp_path / "part.safetensors")


def test_a_public_file_that_lacks_its_last_block(tmp_path):
    tensors = {k: v for k, v in public_tensors(tiny_model(PUBLIC)).items() if not k.startswith("decoder.3.")}
    save_file(tensors, tmp_path / "part.safetensors")
    assert "depth 3" in refusal(tmp_path / "part.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.6, 0.999])
def test_a_truncated_file(tmp_path, suffix, share):
    path = tmp_path / f"cut{suffix}"
    write = save_file if suffix == ".safetensors" else torch.save
    write(public_tensors(tiny_model(PUBLIC)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refusal(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "flow3r-99"}, "format 'flow3r-99'"),
        ({"config": "{"}, "unreadable"),
        ({"config": "[]"}, "expected an object, got list"),
        ({"config": None}, "unreadable"),
        ({"config": '{"family": "resnet"}'}, "unknown family 'resnet', expected one of flow3r, vggt"),
        ({"config": '{"encoder": {"width": 24, "wings": 2}}'}, "unknown keys encoder.wings"),
        ({"config": '{"encoder": {"width": "24"}}'}, "encoder.width is '24', expected int"),
        ({"config": '{"flow": {"kind": "magic"}}'}, "flow.kind is 'magic'"),
        ({"config": '{"tokens": [1, 2, 3]}'}, "tokens is [1, 2, 3]"),
        ({"config": '{"encoder": 3}'}, "encoder: expected an object, got 3"),
    ],
)
def test_metadata_of_another_version(saved, change, said):
    with safe_open(saved, framework="pt") as file:
        metadata = {key: value for key, value in (file.metadata() | change).items() if value is not None}
    save_file(load_file(saved), saved, metadata)
    assert said in refusal(saved)


def test_sizes_that_no_model_can_have(saved):
    sizes = dataclasses.asdict(TINY)
    sizes["multiview"]["depth"] = 3
    save_file(load_file(saved), saved, {"format": "flow3r-1", "config": json.dumps(sizes)})
    assert "depth 3" in refusal(saved)


def test_a_file_that_is_no_weight_file(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    refusal(tmp_path / "notes.txt")


def test_a_missing_file_and_an_unknown_name(tmp_path):
    refusal(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match=r"giant.*one of nano"):
        load_model("giant")


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"the folder holds none of model\.safetensors, .*give the file itself"):
        load_model(tmp_path)


def test_loading_does_not_load_the_compiler(saved, repository):
    """torch's compiler and its algebra take seconds to import, and some operators on the meta device would do it."""
    program = "import sys; from flow3r.model.checkpoints import load_model; load_model(sys.argv[1]); "
    program += "print({'torch._dynamo', 'sympy'} & set(sys.modules))"
    command = [sys.executable, "-c", program, str(saved)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository).stdout == "set()\n"
