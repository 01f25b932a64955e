import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from public_layout import public_key
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import TINY, tiny_images, tiny_model

from flow3r.config import FlowHeadConfig, ModelConfig
from flow3r.errors import CheckpointError
from flow3r.model.checkpoints import load_model, save_model

# The public layout says nothing of heads: they follow from a head width that all parts share, and there is no key for
# a projection between encoder and multi-view transformer, so that these are as wide as each other.
PUBLIC = ModelConfig(
    dataclasses.replace(TINY.encoder, width=32, heads=4),
    dataclasses.replace(TINY.multiview, heads=4),
    dataclasses.replace(TINY.branch, heads=5),
    FlowHeadConfig(features=8, level_channels=(8, 12, 16, 16), output_channels=4),
)


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


@pytest.mark.parametrize("flow", [TINY.flow, None], ids=["flow", "no flow"])
def test_saved_and_loaded_to_the_bit(tmp_path, flow):
    model = tiny_model(dataclasses.replace(TINY, flow=flow))
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


def test_another_layout_names_its_keys(tmp_path):
    save_file({"backbone.conv.weight": torch.zeros(2)}, tmp_path / "resnet.safetensors")
    assert "backbone.conv.weight" in refusal(tmp_path / "resnet.safetensors")


def test_no_tensors_at_all(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    refusal(tmp_path / "empty.safetensors")


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


@pytest.mark.parametrize("change", [{"format": "flow3r-99"}, {"config": "{"}, {"config": "[]"}, {"config": None}])
def test_metadata_of_another_version(saved, change):
    with safe_open(saved, framework="pt") as file:
        metadata = {key: value for key, value in (file.metadata() | change).items() if value is not None}
    save_file(load_file(saved), saved, metadata)
    refusal(saved)


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
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_loading_does_not_load_the_compiler(saved, repository):
    """torch's compiler and its algebra take seconds to import, and some operators on the meta device would do it."""
    program = "import sys; from flow3r.model.checkpoints import load_model; load_model(sys.argv[1]); "
    program += "print({'torch._dynamo', 'sympy'} & set(sys.modules))"
    command = [sys.executable, "-c", program, str(saved)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository).stdout == "set()\n"
