"""The default model has the parameters of the public 1.0 B checkpoint: names by inverting the key map, and shapes."""

import dataclasses
import hashlib
import json

import pytest
import torch
from public_layout import public_key

from flow3r.config import ModelConfig
from flow3r.model.checkpoints import our_key
from flow3r.model.flow3r import Flow3r

# Of the sorted lines "key:AxBxC" of the public checkpoint's 1278 entries.
PUBLIC_SHA256 = "1dc96f1d117249bf6cb91456e56fbc2cc271576cf4b5ba93af6308a0a1377623"


def meta_model(config: ModelConfig) -> Flow3r:
    with torch.device("meta"):
        return Flow3r(config)


@pytest.fixture(scope="module")
def full() -> Flow3r:
    return meta_model(ModelConfig())


@pytest.fixture(scope="module")
def public_shapes(full) -> dict[str, list[int]]:
    return {public_key(key): list(value.shape) for key, value in full.state_dict().items()}


def test_parameter_count(full):
    assert sum(p.numel() for p in full.parameters()) == 1_001_053_694


def test_parameters_of_each_part(full):
    parts = {name: sum(p.numel() for p in module.parameters()) for name, module in full.named_children()}
    assert parts == {
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


def test_keys_and_shapes_are_the_public_ones(public_shapes):
    assert len(public_shapes) == 1278
    lines = sorted(f"{key}:{'x'.join(map(str, shape))}" for key, shape in public_shapes.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == PUBLIC_SHA256


def test_the_key_map_leads_back(full, public_shapes):
    assert [our_key(key) for key in public_shapes] == list(full.state_dict())


def test_keys_and_shapes_are_those_of_the_list(public_shapes, shared):
    assert public_shapes == json.loads((shared / "spec/keys/flow3r_full_keys.json").read_text())


def test_without_a_flow_head_the_keys_are_those_of_pi3(shared):
    model = meta_model(dataclasses.replace(ModelConfig(), flow=None))
    shapes = {public_key(key): list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == json.loads((shared / "spec/keys/pi3_full_keys.json").read_text())
