"""The default models have the parameters of the public checkpoints, and the tables of names lead there and back."""

import dataclasses
import hashlib
import json

import pytest
import torch
from public_layout import public_key

from flow3r.config import ModelConfig, VggtConfig
from flow3r.model.flow3r import Flow3r
from flow3r.model.layouts import LAYOUTS, recognise
from flow3r.model.sizes import config_from_shapes
from flow3r.model.vggt import Vggt

# Of the sorted lines "key:AxBxC" of the public checkpoints.
PUBLIC = {
    "flow3r": (1278, "1dc96f1d117249bf6cb91456e56fbc2cc271576cf4b5ba93af6308a0a1377623"),
    "pi3": (1210, "a005371b07e7044e71998b75d66efbbc8c2fcaabdfa4f46467f41e4eedd81888"),
    "vggt": (1797, "1e0e8bf276165dfe9909ebb3885c52b7dc4c013dce5a874845e5baf47af42ebc"),
}
PARAMETERS = {"flow3r": 1_001_053_694, "pi3": 958_696_732, "vggt": 1_256_537_516}
CONFIGS = {"flow3r": ModelConfig(), "pi3": ModelConfig(flow=None), "vggt": VggtConfig()}


@pytest.fixture(scope="module")
def full() -> dict[str, Flow3r | Vggt]:
    """The public models at full size, without storage."""
    with torch.device("meta"):
        return {
            name: Flow3r(config) if isinstance(config, ModelConfig) else Vggt(config)
            for name, config in CONFIGS.items()
        }


@pytest.fixture(scope="module")
def public(full) -> dict[str, dict[str, torch.Tensor]]:
    return {name: LAYOUTS[name].from_ours(model.state_dict()) for name, model in full.items()}


@pytest.mark.parametrize("name", PUBLIC)
def test_parameter_count(full, name):
    assert sum(p.numel() for p in full[name].parameters()) == PARAMETERS[name]


def test_parameters_of_each_part(full):
    def parts(name: str) -> dict[str, int]:
        return {part: sum(p.numel() for p in module.parameters()) for part, module in full[name].named_children()}

    assert parts("flow3r") == {
        "encoder": 304_371_712,
        "multiview": 453_547_008 + 5_120,  # with the register tokens
        "point_branch": 66_128_896,
        "confidence_branch": 66_128_896,
        "camera_branch": 65_604_096,
        "point_head": 602_700,
        "confidence_head": 200_900,
        "camera_head": 2_107_404,
        "flow_head": 42_356_962,
    }
    assert parts("vggt") == {
        "encoder": 304_372_736,
        "multiview": 2 * 302_364_672 + 2_048 + 8_192,  # with the camera and register tokens
        "camera_head": 216_174_610,
        "depth_head": 32_654_562,
        "point_head": 32_654_628,
        "track_head": 22_834_048 + 43_107_348,
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_keys_and_shapes_are_the_public_ones(public, name):
    lines = sorted(f"{key}:{'x'.join(map(str, value.shape))}" for key, value in public[name].items())
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == PUBLIC[name]


@pytest.mark.parametrize("name", PUBLIC)
def test_keys_and_shapes_are_those_of_the_list(public, shared, name):
    shapes = {key: list(value.shape) for key, value in public[name].items()}
    assert shapes == json.loads((shared / "spec" / "keys" / f"{name}_full_keys.json").read_text())


@pytest.mark.parametrize("name", PUBLIC)
def test_the_tables_lead_back(full, public, name):
    assert recognise(public[name]) is LAYOUTS[name]
    own = LAYOUTS[name].to_ours(public[name])
    assert {key: value.shape for key, value in own.items()} == {
        key: value.shape for key, value in full[name].state_dict().items()
    }


def test_names_agree_with_a_second_description(full, public):
    """Written apart from the tables, as substitutions."""
    assert {public_key(key) for key in full["flow3r"].state_dict()} == set(public["flow3r"])
    for ours in full["flow3r"].state_dict():
        assert LAYOUTS["flow3r"].public_names(ours) == (public_key(ours),)


@pytest.mark.parametrize("name", PUBLIC)
def test_shapes_tell_the_sizes(full, name):
    assert config_from_shapes(LAYOUTS[name].family, full[name].state_dict()) == CONFIGS[name]


def test_the_papers_vggt_has_no_first_view_and_a_flow_head_instead_of_tracks(full):
    config = CONFIGS["vggt"]
    papers = dataclasses.replace(
        config,
        multiview=dataclasses.replace(config.multiview, first_view=False),
        track=None,
        flow=ModelConfig().flow,
    )
    with torch.device("meta"):
        state = Vggt(papers).state_dict()
    shared = {key for key in full["vggt"].state_dict() if not key.startswith("track_head.")}
    assert {key for key in state if not key.startswith("flow_head.")} == shared
    assert state["multiview.camera_tokens"].shape == (1, 1, 1, 1024)
