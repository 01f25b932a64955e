"""Every named run builds, and those of the paper carry the paper's numbers."""

import dataclasses
import re
from itertools import combinations
from typing import Any

import pytest
import torch

from flow3r.config import MatcherConfig, ModelConfig, TrainConfig, VggtConfig
from flow3r.data.subsets import draw_subset
from flow3r.model.checkpoints import MODEL_OF
from flow3r.model.flow3r import Flow3r
from flow3r.presets import ABLATION_MODEL, NANO_MODEL, PRESETS, PUBLISHED, adaptation

TABLE_1 = {
    f"table1-{scenes}-{variant}": (scenes, variant)
    for scenes in ("static", "dynamic")
    for variant in ("3d-sup", "flow-projective", "flow-tracking", "flow-factored")
}
KIND = {"flow-projective": "projective", "flow-tracking": "tracking", "flow-factored": "factored"}


def parameters(config: ModelConfig | VggtConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in MODEL_OF[type(config)](config).parameters())


def differing(a: Any, b: Any, path: str = "") -> list[str]:
    """The paths of the fields in which two configurations differ, down to where they are of different kinds."""
    if type(a) is type(b) and dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a)]
        return [one for name in names for one in differing(getattr(a, name), getattr(b, name), f"{path}.{name}")]
    return [] if a == b else [path.removeprefix(".")]


def sources(config: TrainConfig) -> tuple[dict[str, int | None], dict[str, int | None]]:
    sides = (config.data.labelled, config.data.unlabelled)
    return tuple({source.dataset: source.sequences for source in side} for side in sides)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_named_as_it_is_filed_and_builds(name: str):
    config = PRESETS[name]
    assert config.name == name
    with torch.device("meta"):
        model = MODEL_OF[type(config.model)](config.model)
    if not isinstance(config.model, MatcherConfig):
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


@pytest.mark.parametrize("name", ["flow3r", "flow3r-vggt"])
def test_datasets_are_drawn_by_the_square_root_of_their_published_sequences(name):
    data = PRESETS[name].data
    assert len(data.labelled) == 11 and len(data.unlabelled) == 3 and data.unlabelled_share == 0.5
    for source in (*data.labelled, *data.unlabelled):
        assert source.weight == pytest.approx(PUBLISHED[source.dataset] ** 0.5, abs=0.05)
    assert {source.dataset for source in (*data.labelled, *data.unlabelled)} == set(PUBLISHED)


def test_stages_start_from_what_earlier_stages_leave():
    """`runs/NAME` is made by the preset of that name, whose model the next one holds, with a flow head or without."""
    for name, run in PRESETS.items():
        if run.init_from is None or not run.init_from.startswith("runs/"):
            continue
        before = PRESETS[run.init_from.removeprefix("runs/")]
        if isinstance(before.model, MatcherConfig):  # gives its trunk alone
            trunk = dataclasses.replace(run.model.multiview, camera_tokens=0)
            assert (run.model.encoder, trunk) == (before.model.encoder, before.model.multiview), name
            continue
        paths = differing(run.model, before.model)
        assert paths in ([], ["flow"]), f"{name} and {before.name} differ in {paths}"
        assert before.model.flow in (None, run.model.flow), f"{name} would lose the flow head of {before.name}"
        fresh = paths and run.model.flow is not None
        assert not fresh or run.trainable == ("flow_head.",), f"{name}: a fresh head is to be warmed up first"


def test_the_chains_are_those_of_the_paper():
    chain = {name: PRESETS[name].init_from for name in PRESETS if name.startswith("flow3r")}
    assert chain == {
        "flow3r-warmup": "yyfz233/Pi3",
        "flow3r": "runs/flow3r-warmup",
        "flow3r-vggt-adapt": "facebook/VGGT-1B",
        "flow3r-vggt-warmup": "runs/flow3r-vggt-adapt",
        "flow3r-vggt": "runs/flow3r-vggt-warmup",
    }


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
    assert run.steps == (80_000 if name.endswith("exposures") else 160_000)
    assert (run.optim.learning_rate, run.devices) == (2e-5, 4)
    assert run.optim.weight_decay == 0 and run.optim.betas == (0.9, 0.999)  # Adam
    assert run.model.multiview.depth == 24 and run.model.tokens == (256, 256) == run.data.tokens
    assert run.data.tokens[0] * 14**2 == 224 * 224 and run.data.aspect == (1.0, 1.0)
    assert run.encoder_from == "facebook/dinov2-with-registers-large" and run.init_from is None
    assert not run.data.labelled_flow  # section 4.1: flow on the additional sequences alone
    assert dataclasses.replace(run.model, flow=None) == dataclasses.replace(ABLATION_MODEL, flow=None)
    assert isinstance(run.model, VggtConfig) and not run.model.multiview.first_view


@pytest.mark.parametrize("scenes", ["static", "dynamic"])
def test_any_two_flow_variants_differ_in_the_kind_of_their_head_alone(scenes):
    variants = [PRESETS[f"table1-{scenes}-{variant}"] for variant in KIND]
    assert [run.model.flow.kind for run in variants] == list(KIND.values())
    for one, other in combinations(variants, 2):
        paths = differing(one, other)
        assert paths == ["name", "model.flow.kind"], f"{one.name} and {other.name} differ in {paths}"


@pytest.mark.parametrize("name", TABLE_1)
def test_the_rows_of_table_1_differ_in_the_flow_head_and_its_data_alone(name):
    scenes, variant = TABLE_1[name]
    run, base = PRESETS[name], PRESETS[f"table1-{scenes}-3d-sup"]
    labelled, unlabelled = sources(run)
    assert labelled == ({"scannetpp": 1_000} if scenes == "static" else {"omniworld": 1_000})
    if variant == "3d-sup":
        assert run.model.flow is None and unlabelled == {}
        return
    assert unlabelled == ({"scannetpp": 1_000} if scenes == "static" else {"spatialvid": 3_000})
    assert run.model.flow.kind == KIND[variant]
    paths = differing(run, base)
    assert paths == ["name", "model.flow", "data.unlabelled"], f"{name} and {base.name} differ in {paths}"


def test_unlabelled_scenes_of_the_labelled_dataset_are_others():
    data = PRESETS["table1-static-flow-factored"].data
    (labelled,), (unlabelled,) = data.labelled, data.unlabelled
    assert labelled.dataset == unlabelled.dataset == "scannetpp"
    assert (labelled.skip, unlabelled.skip) == (0, labelled.sequences)
    names = [f"{number:04d}" for number in range(2_100)]
    sets = [set(draw_subset(source, names, test=names[:100]).names) for source in (labelled, unlabelled)]
    assert [len(one) for one in sets] == [1_000, 1_000] and not sets[0] & sets[1]


@pytest.mark.parametrize("scenes", ["static", "dynamic"])
def test_a_second_baseline_sees_its_labels_as_often_as_the_variants(scenes):
    base, variant = (PRESETS[f"table1-{scenes}-{arm}"] for arm in ("3d-sup", "flow-factored"))
    exposures = PRESETS[f"table1-{scenes}-3d-sup-exposures"]
    assert differing(exposures, base) == ["name", "steps"]
    assert exposures.steps == variant.steps * (1 - variant.data.unlabelled_share) == 80_000


def test_larger_subsets_hold_the_smaller_ones():
    """All rows of a dataset begin their stretch at the same place of its order, but for the unlabelled ScanNet++."""
    for name, run in PRESETS.items():
        for source in (*run.data.labelled, *run.data.unlabelled):
            assert source.skip == 0 or (source.dataset == "scannetpp" and name.startswith("table1-static")), name


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


def test_nano_stays_below_thirty_megabytes_in_bf16():
    assert all(2e6 < parameters(PRESETS[name].model) < 15e6 for name in ("nano", "nano-vggt"))
    with torch.device("meta"):
        assert isinstance(MODEL_OF[type(NANO_MODEL)](NANO_MODEL), Flow3r)


def test_adaptation_keeps_the_sizes_and_mixes_both_kinds():
    config = adaptation(NANO_MODEL, "weights.safetensors")
    assert config.model == NANO_MODEL and config.init_from == "weights.safetensors"
    assert 0 < config.data.unlabelled_share < 1
    assert dataclasses.replace(config, steps=1).name == "adapt"


def test_the_page_on_reproduction_names_every_run_of_the_paper_and_no_other(repository):
    page = (repository / "docs" / "reproduce.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:table\d|flow3r)(?:-[\w]+)*\b", page))
    named |= {name.replace("VARIANT", variant) for name in named for variant in KIND if "VARIANT" in name}
    named |= {name.replace("BASE", base) for name in named for base in ("pi3", "vggt") if "BASE" in name}
    named = {name for name in named if "VARIANT" not in name and "BASE" not in name}
    assert named == {name for name in PRESETS if name.startswith(("table", "flow3r"))}
