import dataclasses

import pytest
import torch

from flow3r.model.flow3r import Flow3r
from flow3r.presets import NANO_MODEL, PRESETS, adaptation


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_named_as_it_is_filed_and_builds(name: str):
    config = PRESETS[name]
    assert config.name == name
    with torch.device("meta"):
        model = Flow3r(config.model)
    assert (model.flow_head is not None) == (config.model.flow is not None)


def test_flow3r_is_the_papers_training():
    config = PRESETS["flow3r"]
    assert config.steps == 100_000 and config.optim.learning_rate == 2e-5
    assert config.data.views == (2, 24) and config.data.images_per_batch == 24
    assert config.data.aspect == (0.5, 2.0)
    pixels = [tokens * config.model.encoder.patch**2 for tokens in config.data.tokens]
    assert 99_000 <= pixels[0] <= 101_000 and 254_000 <= pixels[1] <= 256_000


def test_nano_is_about_ten_million_parameters():
    with torch.device("meta"):
        model = Flow3r(NANO_MODEL)
    assert 8e6 < sum(p.numel() for p in model.parameters()) < 14e6


def test_adaptation_keeps_the_sizes_and_mixes_both_kinds():
    config = adaptation(NANO_MODEL, "weights.safetensors")
    assert config.model == NANO_MODEL and config.init_from == "weights.safetensors"
    assert 0 < config.data.unlabelled_share < 1
    assert dataclasses.replace(config, steps=1).name == "adapt"
