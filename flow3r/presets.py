"""Named runs: the paper's, and `nano` for two CPU cores."""

from dataclasses import replace

from flow3r.config import (
    BranchConfig,
    CameraHeadConfig,
    DataConfig,
    DenseHeadConfig,
    EncoderConfig,
    FlowHeadConfig,
    LossConfig,
    MatcherConfig,
    ModelConfig,
    MultiViewConfig,
    OptimConfig,
    SourceConfig,
    TrainConfig,
    VggtConfig,
    WorldsConfig,
)

# Sizes ours: as large as learns in some hours on two CPU cores at 36-96 tokens a view. Both families have one trunk.
NANO_ENCODER = EncoderConfig(width=160, depth=3, heads=5, position_grid=8, registers=0)
NANO_MULTIVIEW = MultiViewConfig(width=160, depth=8, heads=5, registers=1, layer_scale=1.0)
NANO_MODEL = ModelConfig(
    encoder=NANO_ENCODER,
    multiview=NANO_MULTIVIEW,
    branch=BranchConfig(width=128, depth=4, heads=4, camera_width=128),
    flow=FlowHeadConfig(features=24, level_channels=(24, 32, 48, 48), output_channels=16, pairs_per_chunk=64),
    tokens=(64, 96),
)
NANO_VGGT_MODEL = VggtConfig(
    encoder=NANO_ENCODER,
    multiview=replace(NANO_MULTIVIEW, camera_tokens=1),
    levels=(0, 1, 2, 3),
    camera=CameraHeadConfig(depth=2, heads=10, iterations=3, layer_scale=1.0),
    dense=DenseHeadConfig(features=24, level_channels=(24, 32, 48, 48), output_channels=16),
    track=None,
    flow=NANO_MODEL.flow,
    world_points="depth",  # from scratch the points of a head have no spread, by which the objective divides
    tokens=(64, 96),
)

# The controlled experiments of docs/experiments.md, on two CPU cores: VGGT's family, and π³'s beside it.
EXPERIMENT_ENCODER = EncoderConfig(width=96, depth=2, heads=3, position_grid=8, registers=0)
EXPERIMENT_MULTIVIEW = MultiViewConfig(width=96, depth=8, heads=3, registers=1, layer_scale=1.0)
EXPERIMENT_FLOW = FlowHeadConfig(features=16, level_channels=(16, 24, 32, 32), output_channels=8, pairs_per_chunk=64)
EXPERIMENT_VGGT = VggtConfig(
    encoder=EXPERIMENT_ENCODER,
    multiview=replace(EXPERIMENT_MULTIVIEW, camera_tokens=1),
    levels=(0, 1, 2, 3),
    camera=CameraHeadConfig(depth=2, heads=6, iterations=2, layer_scale=1.0),
    dense=DenseHeadConfig(features=16, level_channels=(16, 24, 32, 32), output_channels=8),
    track=None,
    flow=EXPERIMENT_FLOW,
    world_points="depth",
    tokens=(64, 64),
)
EXPERIMENT_PI3 = ModelConfig(
    encoder=EXPERIMENT_ENCODER,
    multiview=EXPERIMENT_MULTIVIEW,
    branch=BranchConfig(width=96, depth=4, heads=3, camera_width=96),
    flow=EXPERIMENT_FLOW,
    tokens=(64, 64),
)

# Appendix A.1: VGGT without a first view and without tracks, under a factored flow head.
FLOW3R_VGGT_MODEL = VggtConfig(
    encoder=EncoderConfig(),
    multiview=replace(VggtConfig().multiview, first_view=False),
    track=None,
    flow=FlowHeadConfig(),
)

# Appendix A.2: the same heads on 24 layers at 224 x 224. Ours: 24 counts blocks of both kinds, as 36 and 48 do in the
# paper; the encoder is ViT-L; the heads read as far apart as VGGT's.
ABLATION_MODEL = replace(
    FLOW3R_VGGT_MODEL,
    multiview=replace(FLOW3R_VGGT_MODEL.multiview, depth=24),
    levels=(2, 5, 8, 11),
    tokens=(256, 256),
)

PI3, VGGT, DINOV2 = "yyfz233/Pi3", "facebook/VGGT-1B", "facebook/dinov2-with-registers-large"

# Sequences that are published, where they are said to be. The paper trains on about 34K labelled and 800K unlabelled
# ones (section 4.2); which of these it leaves out is not said.
PUBLISHED = {
    "co3dv2": 37_000,  # its README: twice the "nearly 19,000" of the first version's paper
    "habitat": 1_000,  # HM3D's paper: spaces; a sequence is a walk rendered in one
    "arkitscenes": 5_047,  # its README: captures, of 1,661 rooms
    "scannet": 1_513,  # its paper: scans
    "scannetpp": 1_006,  # its documentation: scenes, those of the test among them
    "megadepth": 196,  # its paper: scenes
    "blendedmvs": 113,  # its README: scenes
    "staticthings3d": 2_250,  # from memory: training sequences of FlyingThings3D, without motion
    "omniworld": 5_000,  # its page: splits of OmniWorld-Game that can be had, of 96K sequences that it counts
    "pointodyssey": 159,  # from memory: videos
    "vkitti2": 50,  # Virtual KITTI's page: five worlds in ten variations
    "kinetics700": 534_073,  # the 2020 copy of its training clips
    "spatialvid": 370_000,  # from memory: clips of its high-quality part
    "epic_kitchens": 36_000,  # EPIC-KITCHENS-100: 100 h in windows of 10 s
}


def _drawn(*datasets: str) -> tuple[SourceConfig, ...]:
    """Ours, where the paper is silent: in proportion to the square root of the number of sequences, between giving
    every dataset the same, which repeats the small ones, and every sequence the same, which hides them."""
    return tuple(SourceConfig(name, weight=round(PUBLISHED[name] ** 0.5, 1)) for name in datasets)


LABELLED = _drawn(
    "co3dv2",
    "habitat",
    "arkitscenes",
    "scannet",
    "scannetpp",
    "megadepth",
    "blendedmvs",
    "staticthings3d",
    "omniworld",
    "pointodyssey",
    "vkitti2",
)
UNLABELLED = _drawn("kinetics700", "spatialvid", "epic_kitchens")

LARGE_SCALE = TrainConfig(  # appendix A.1: end to end
    name="flow3r",
    model=ModelConfig(),
    optim=OptimConfig(learning_rate=2e-5),
    data=DataConfig(
        LABELLED,
        UNLABELLED,
        crop_clips=0.8,  # ours: labels are stored on one grid, steps are drawn on many
        unlabelled_share=0.5,  # ours: one labelled step to one unlabelled
        workers=8,  # ours: docs/scaling.md, 30 to 110 images a second for each GPU
    ),
    steps=100_000,
    init_from=PI3,
    recompute="everything",  # ours: "selective" keeps about 0.8 GB of each block for 24 images, too much for 80 GB
    devices=8,
)
ABLATION = TrainConfig(  # appendix A.2; "Adam": no weight decay, and its own betas
    name="ablation",
    model=replace(ABLATION_MODEL, flow=None),
    optim=OptimConfig(learning_rate=2e-5, betas=(0.9, 0.999), weight_decay=0.0),
    data=DataConfig(
        crop_clips=0.8,  # ours, as above
        tokens=ABLATION_MODEL.tokens,
        aspect=(1.0, 1.0),
        labelled_flow=False,
        workers=8,  # ours: docs/scaling.md, 260 images a second for each GPU
    ),
    steps=160_000,
    encoder_from=DINOV2,
    recompute="selective",  # ours: at 256 tokens an image there is room
    devices=4,
)

# Table 1: how flow is predicted; None is the baseline without flow.
VARIANTS = {"3d-sup": None, "flow-projective": "projective", "flow-tracking": "tracking", "flow-factored": "factored"}


def _stages(name: str, base: TrainConfig) -> dict[str, TrainConfig]:
    """Appendix A.1: the flow head alone, on labelled data; then everything, on both."""
    warmup = replace(
        base,
        name=f"{name}-warmup",
        trainable=("flow_head.",),
        optim=replace(base.optim, learning_rate=5e-5),
        data=replace(base.data, unlabelled=()),
        steps=50_000,
    )
    return {warmup.name: warmup, name: replace(base, name=name, init_from=f"runs/{name}-warmup")}


def _ablation(
    name: str, labelled: tuple[SourceConfig, ...], unlabelled: SourceConfig | None, variant: str
) -> TrainConfig:
    """A row of Tables 1, 4 and 7: `variant` decides the flow head, and that alone."""
    kind = VARIANTS[variant]
    return replace(
        ABLATION,
        name=name,
        model=replace(ABLATION_MODEL, flow=FlowHeadConfig(kind=kind) if kind else None),
        data=replace(ABLATION.data, labelled=labelled, unlabelled=(unlabelled,) if unlabelled else ()),
    )


def _equal_exposures(baseline: TrainConfig) -> TrainConfig:
    """Ours: a baseline of the same number of steps sees its labels more often than the variants, which spend a share of
    their steps on unlabelled video; this one sees them as often, in fewer steps."""
    steps = round(baseline.steps * (1 - baseline.data.unlabelled_share))
    return replace(baseline, name=f"{baseline.name}-exposures", steps=steps)


def _tables_1_4_7() -> list[TrainConfig]:
    scannetpp, omniworld = SourceConfig("scannetpp", 1_000), SourceConfig("omniworld", 1_000)
    more, videos = SourceConfig("scannetpp", 1_000, skip=1_000), SourceConfig("spatialvid", 3_000)
    rows = []
    for variant, kind in VARIANTS.items():
        rows.append(_ablation(f"table1-static-{variant}", (scannetpp,), more if kind else None, variant))
        rows.append(_ablation(f"table1-dynamic-{variant}", (omniworld,), videos if kind else None, variant))
    rows += [_equal_exposures(row) for row in rows if row.name.endswith("3d-sup")]
    for thousands in (10, 20):  # the rows of none and of 3K are Table 1's
        scaled = SourceConfig("spatialvid", 1_000 * thousands)
        rows.append(_ablation(f"table4-unlabelled-{thousands}k", (omniworld,), scaled, "flow-factored"))
    rows.append(_ablation("table4-labelled-4k", (SourceConfig("omniworld", 4_000),), None, "3d-sup"))
    pseudo = SourceConfig("spatialvid", 3_000, labels="megasam")  # of weight 1 each: seen as often as with flow
    rows.append(_ablation("table7-pseudo-labels", (omniworld, pseudo), None, "3d-sup"))
    return rows


def _table_5(name: str, full: TrainConfig) -> list[TrainConfig]:
    """The rows below the base model: labelled 3D alone; with flow on labelled data; with unlabelled flow as well."""
    labelled = replace(full, data=replace(full.data, unlabelled=()))
    return [
        replace(labelled, name=f"table5-{name}-3d", model=replace(full.model, flow=None), init_from=BASES[name]),
        replace(labelled, name=f"table5-{name}-labelled-flow"),
        replace(full, name=f"table5-{name}-full"),
    ]


BASES = {"pi3": PI3, "vggt": "runs/flow3r-vggt-adapt"}
FLOW3R = _stages("flow3r", LARGE_SCALE)
VGGT_ADAPT = replace(  # appendix A.1: VGGT made permutation-equivariant on labelled data; steps and rate ours
    LARGE_SCALE,
    name="flow3r-vggt-adapt",
    model=replace(FLOW3R_VGGT_MODEL, flow=None),
    data=replace(LARGE_SCALE.data, unlabelled=()),
    steps=50_000,
    init_from=VGGT,
)
FLOW3R_VGGT = _stages("flow3r-vggt", replace(LARGE_SCALE, model=FLOW3R_VGGT_MODEL, init_from="runs/flow3r-vggt-adapt"))


def _matching(name: str, model: ModelConfig | VggtConfig, learning_rate: float, steps: int) -> TrainConfig:
    """Ours, in place of a pretrained encoder: the trunk of a model alone learns to match, on pairs of worlds that move
    by several patches, half of them by pans, which change little of what is seen."""
    return TrainConfig(
        name=name,
        model=MatcherConfig(model.encoder, replace(model.multiview, camera_tokens=0), model.tokens),
        optim=OptimConfig(learning_rate=learning_rate, warmup_steps=40, weight_decay=0.02, final_fraction=0.02),
        data=DataConfig(
            views=(2, 2),  # pairs teach matching with the fewest images
            images_per_batch=64,  # of 8 pairs a step, hardly anything was learnt in small trials
            tokens=(36, 36),
            aspect=(1.0, 1.0),
            pairs_per_scene=2,
            curriculum_steps=3 * steps,
            worlds=WorldsConfig(pan_share=0.5, rotation_degrees=(5.0, 90.0)),
            augment=False,  # worlds draw their colours at random
        ),
        steps=steps,
    )


NANO_MATCHING = _matching("nano-matching", NANO_MODEL, 1.2e-3, 1500)
NANO = TrainConfig(
    name="nano",
    model=NANO_MODEL,
    loss=LossConfig(rotation=1.0),  # ours: π³'s 0.1 is for a trunk that knows correspondence already
    optim=OptimConfig(learning_rate=1e-3, warmup_steps=40, weight_decay=0.02, final_fraction=0.02),  # ours
    data=DataConfig(
        views=(2, 4),
        images_per_batch=36,
        tokens=NANO_MODEL.tokens,
        aspect=(0.6, 2.4),
        pairs_per_scene=2,
        curriculum_steps=1000,
        small_steps=500,
        small_images=48,
        worlds=WorldsConfig(pan_share=0.25, rotation_degrees=(5.0, 120.0)),
        augment=False,  # ours: worlds draw their colours at random, and the steps are few
    ),
    steps=1200,
    init_from="runs/nano-matching",
)
NANO_VGGT = replace(NANO, name="nano-vggt", model=NANO_VGGT_MODEL, loss=LossConfig())

EXPERIMENT_MATCHING = _matching("experiment-matching", EXPERIMENT_PI3, 2e-3, 500)
EXPERIMENT = TrainConfig(  # the base of all arms: 3D labels alone
    name="experiment-vggt",
    model=replace(EXPERIMENT_VGGT, flow=None),
    optim=OptimConfig(learning_rate=1.5e-3, warmup_steps=40, weight_decay=0.02, final_fraction=0.02),
    data=DataConfig(
        views=(2, 4),
        images_per_batch=16,
        tokens=EXPERIMENT_VGGT.tokens,
        aspect=(1.0, 1.0),
        pairs_per_scene=4,
        labelled_flow=False,  # paper 4.1
        augment=False,
    ),
    steps=500,
    init_from="runs/experiment-matching",
)
EXPERIMENTS = (
    EXPERIMENT_MATCHING,
    EXPERIMENT,
    replace(EXPERIMENT, name="experiment-pi3", model=replace(EXPERIMENT_PI3, flow=None), loss=LossConfig(rotation=1.0)),
)

THE_PAPERS: dict[str, TrainConfig] = {  # in an order in which each finds what it starts from
    **FLOW3R,
    VGGT_ADAPT.name: VGGT_ADAPT,
    **FLOW3R_VGGT,
    **{run.name: run for run in _tables_1_4_7()},
    **{run.name: run for run in (*_table_5("pi3", FLOW3R["flow3r"]), *_table_5("vggt", FLOW3R_VGGT["flow3r-vggt"]))},
}
PRESETS = {run.name: run for run in (NANO_MATCHING, NANO, NANO_VGGT, *EXPERIMENTS, *THE_PAPERS.values())}


def adaptation(model: ModelConfig | VggtConfig, init_from: str) -> TrainConfig:
    """Fine-tuning of `init_from` on one's own clips, beside procedural worlds as labelled anchor."""
    return TrainConfig(
        name="adapt",
        model=model,
        loss=NANO.loss,
        optim=OptimConfig(learning_rate=4e-4, warmup_steps=20, weight_decay=0.02),  # ours: docs/results.md
        data=DataConfig(
            views=(2, 4),
            images_per_batch=16,
            tokens=model.tokens,
            aspect=(0.6, 2.4),
            pairs_per_scene=3,
            unlabelled_share=0.75,  # ours: most steps on the footage, enough on worlds not to forget
            augment=False,  # ours: few steps, all on one camera's and codec's images
        ),
        steps=2000,
        init_from=init_from,
        checkpoint_every=100,
        image_every=100,
    )
