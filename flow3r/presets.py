"""Named runs: the paper's, and `nano` for two CPU cores."""

from flow3r.config import (
    BranchConfig,
    DataConfig,
    EncoderConfig,
    FlowHeadConfig,
    LossConfig,
    ModelConfig,
    MultiViewConfig,
    OptimConfig,
    TrainConfig,
)

# Sizes ours: as large as learns in an hour or two on two CPU cores at 64-96 tokens a view.
NANO_MODEL = ModelConfig(
    encoder=EncoderConfig(width=256, depth=3, heads=4, position_grid=8, registers=0),
    multiview=MultiViewConfig(width=256, depth=6, heads=4, registers=1, layer_scale=1.0),
    branch=BranchConfig(width=128, depth=4, heads=2, camera_width=128),
    flow=FlowHeadConfig(features=32, level_channels=(32, 48, 64, 64), output_channels=16, pairs_per_chunk=64),
    tokens=(64, 96),
)

PRESETS: dict[str, TrainConfig] = {
    "flow3r": TrainConfig(name="flow3r", model=ModelConfig(), gradient_checkpointing=True),
    "nano": TrainConfig(
        name="nano",
        model=NANO_MODEL,
        loss=LossConfig(rotation=1.0),  # ours: π³'s 0.1 is for a trunk that knows correspondence already
        optim=OptimConfig(learning_rate=7e-4, warmup_steps=100, weight_decay=0.02),  # ours
        data=DataConfig(
            views=(2, 2),  # pairs teach matching with the fewest images
            images_per_batch=24,
            tokens=NANO_MODEL.tokens,
            aspect=(0.6, 2.4),
            pairs_per_scene=2,
            curriculum_steps=2500,
            small_steps=800,
        ),
        steps=4000,
    ),
}


def adaptation(model: ModelConfig, init_from: str) -> TrainConfig:
    """Fine-tuning of `init_from` on one's own clips, beside procedural worlds as labelled anchor."""
    return TrainConfig(
        name="adapt",
        model=model,
        loss=PRESETS["nano"].loss,
        optim=OptimConfig(learning_rate=4e-4, warmup_steps=20, weight_decay=0.02),  # ours: docs/results.md
        data=DataConfig(
            views=(2, 4),
            images_per_batch=16,
            tokens=model.tokens,
            aspect=(0.6, 2.4),
            pairs_per_scene=3,
            unlabelled_share=0.75,  # ours: most steps on the footage, enough on worlds not to forget
        ),
        steps=2000,
        init_from=init_from,
        checkpoint_every=100,
        image_every=100,
    )
