"""Every named run builds, and those of the paper carry the paper's numbers."""

import dataclasses

import pytest
import torch

from flow3r.config import ModelConfig, TrainConfig, VggtConfig
from flow3r.model.checkpoints import MODEL_OF
from flow3r.model.flow3r import Flow3r
from flow3r.presets import ABLATION_MODEL, NANO_MODEL, PRESETS, adaptation

TABLE_1 = {
    f"table1-{scenes}-{variant}": (scenes, variant)
    for scenes in ("static", "dynamic")
    for variant in ("3d-sup", "flow-projective", "flow-tracking", "flow-factored")
}
KIND = {"flow-projective": "projective", "flow-tracking": "tracking", "flow-factored": "factored"}


def parameters(config: ModelConfig | VggtConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MODEL_OF[type(config)](config).parameters())


def sources(config: TrainConfig) -> tuple[dict[str, int | None], dict[str, int | None]]:
    sides = (config.data.labelled, config.data.unlabelled)
    return tuple({source.dataset: source.sequences for source in side} for side in sides)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_named_as_it_is_filed_and_builds(name: str):
    config = PRESETS[name]
    assert config.name == name
    with torch.device("meta"):
        model = MODEL_OF[type(config.model)](config.model)
    assert (model.flow_head is not None) == (config.model.flow is not None)
    names = [parameter for parameter, _ in model.named_parameters()]
    assert all(any(parameter.startswith(prefix) for parameter in names) for prefix in config.trainable)


@pytest.mark.parametrize("name", ["flow3r", "flow3r-vggt"])
def test_the_large_scale_stages_are_those_of_appendix_a1(name):
    warmup, both = PRESETS[f"{name}-warmup"], PRESETS[name]
    assert (warmup.steps, warmup.optim.learning_rate, warmup.trainable) == (50_000, 5e-5, ("flow_head.",))
    assert (both.steps, both.optim.learning_rate, both.trainable) == (100_000, 2e-5, ("",))
    assert both.init_from == f"runs/{name}-warmup"
    for stage in (warmup, both):
        assert stage.devices == 8 and stage.data.views == (2, 24) and stage.data.images_per_batch == 24
        assert stage.data.aspect == (0.5, 2.0) and stage.model.flow.kind == "factored"
        pixels = [tokens * stage.model.encoder.patch**2 for tokens in stage.data.tokens]
        assert 99_000 <= pixels[0] <= 101_000 and 254_000 <= pixels[1] <= 256_000
        assert len(stage.data.labelled) == 11  # about 34K sequences
    assert not warmup.data.unlabelled
    assert list(sources(both)[1]) == ["kinetics700", "spatialvid", "epic_kitchens"]  # about 800K sequences


def test_the_two_backbones_have_the_paper_s_depths():
    assert PRESETS["flow3r"].model.multiview.depth == 36 and PRESETS["flow3r-vggt"].model.multiview.depth == 48
    assert parameters(PRESETS["flow3r"].model) == 1_001_053_694
    vggt, tracker = 1_256_537_516, 22_834_048 + 43_107_348
    one_of_two = 5 * 1024  # no first view's tokens
    pi3_flow_head, pi3_inputs, inputs = 42_356_962, 3 * 1024, 2 * 2048  # of the fusion's first layer, to 2048
    flow_head = pi3_flow_head + 2048 * (inputs - pi3_inputs)
    mask_token = 1024
    assert parameters(PRESETS["flow3r-vggt"].model) == vggt - tracker - one_of_two - mask_token + flow_head
    assert not PRESETS["flow3r-vggt"].model.multiview.first_view


def test_vggt_is_first_fitted_to_relative_supervision():
    adapt, warmup = PRESETS["flow3r-vggt-adapt"], PRESETS["flow3r-vggt-warmup"]
    assert adapt.model.flow is None and not adapt.data.unlabelled and not adapt.model.multiview.first_view
    assert adapt.init_from == "facebook/VGGT-1B" and warmup.init_from == "runs/flow3r-vggt-adapt"


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith(("table1", "table4", "table7"))])
def test_the_ablation_rows_are_those_of_appendix_a2(name):
    run = PRESETS[name]
    assert (run.steps, run.optim.learning_rate, run.devices) == (160_000, 2e-5, 4)
    assert run.optim.weight_decay == 0 and run.optim.betas == (0.9, 0.999)  # Adam
    assert run.model.multiview.depth == 24 and run.model.tokens == (256, 256) == run.data.tokens
    assert run.data.tokens[0] * 14**2 == 224 * 224 and run.data.aspect == (1.0, 1.0)
    assert run.encoder_from == "facebook/dinov2-with-registers-large" and run.init_from is None
    assert not run.data.labelled_flow  # section 4.1: flow on the additional sequences alone
    assert dataclasses.replace(run.model, flow=None) == dataclasses.replace(ABLATION_MODEL, flow=None)
    assert isinstance(run.model, VggtConfig) and not run.model.multiview.first_view


@pytest.mark.parametrize("name", TABLE_1)
def test_the_rows_of_table_1_differ_in_the_flow_head_and_its_data_alone(name):
    scenes, variant = TABLE_1[name]
    run, base = PRESETS[name], PRESETS[f"table1-{scenes}-3d-sup"]
    labelled, unlabelled = sources(run)
    assert labelled == ({"scannetpp": 1_000} if scenes == "static" else {"omniworld": 1_000})
    if variant == "3d-sup":
        assert run.model.flow is None and unlabelled == {}
    else:
        assert run.model.flow.kind == KIND[variant]
        assert unlabelled == ({"scannetpp_unlabelled": 1_000} if scenes == "static" else {"spatialvid": 3_000})
    same = dataclasses.replace(run, name=base.name, model=base.model, data=base.data)
    assert same == base
    assert dataclasses.replace(run.data, unlabelled=()) == base.data


def test_table_4_scales_the_unlabelled_videos_and_compares_with_more_labels():
    for thousands in (10, 20):
        run = PRESETS[f"table4-unlabelled-{thousands}k"]
        assert sources(run) == ({"omniworld": 1_000}, {"spatialvid": 1_000 * thousands})
        data = PRESETS["table1-dynamic-flow-factored"].data
        assert dataclasses.replace(run.data, unlabelled=()) == dataclasses.replace(data, unlabelled=())
    reference = PRESETS["table4-labelled-4k"]
    assert sources(reference) == ({"omniworld": 4_000}, {}) and reference.model.flow is None


def test_table_7_gives_the_same_videos_pseudo_labels_in_place_of_flow():
    run = PRESETS["table7-pseudo-labels"]
    assert sources(run) == ({"omniworld": 1_000, "spatialvid": 3_000}, {}) and run.model.flow is None
    assert [source.labels for source in run.data.labelled] == ["own", "megasam"]


@pytest.mark.parametrize("backbone", ["pi3", "vggt"])
def test_table_5_adds_flow_on_labelled_then_on_unlabelled_data(backbone):
    three_d, labelled, full = (PRESETS[f"table5-{backbone}-{row}"] for row in ("3d", "labelled-flow", "full"))
    assert three_d.model.flow is None and labelled.model.flow == full.model.flow is not None
    assert not three_d.data.unlabelled and not labelled.data.unlabelled and len(full.data.unlabelled) == 3
    assert labelled.data.labelled_flow and full.data.labelled_flow
    assert isinstance(full.model, ModelConfig if backbone == "pi3" else VggtConfig)
    assert {run.steps for run in (three_d, labelled, full)} == {100_000}


def test_nano_is_about_ten_million_parameters():
    assert 8e6 < parameters(NANO_MODEL) < 14e6
    with torch.device("meta"):
        assert isinstance(MODEL_OF[type(NANO_MODEL)](NANO_MODEL), Flow3r)


def test_adaptation_keeps_the_sizes_and_mixes_both_kinds():
    config = adaptation(NANO_MODEL, "weights.safetensors")
    assert config.model == NANO_MODEL and config.init_from == "weights.safetensors"
    assert 0 < config.data.unlabelled_share < 1
    assert dataclasses.replace(config, steps=1).name == "adapt"
