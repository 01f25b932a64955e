"""Named runs: the paper's, and `nano` for two CPU cores."""

from flow3r.config import (
    BranchConfig,
    DataConfig,
    EncoderConfig,
    FlowHeadConfig,
    ModelConfig,
    MultiViewConfig,
    OptimConfig,
    TrainConfig,
)

# Sizes ours: as large as learns in an hour or two on two CPU cores at 64-96 tokens a view.
NANO_MODEL = ModelConfig(
    encoder=EncoderConfig(width=256, depth=3, heads=4, position_grid=8, registers=0),
    multiview=MultiViewConfig(width=256, depth=6, heads=4, registers=1),
    branch=BranchConfig(width=192, depth=4, heads=3, camera_width=128),
    flow=FlowHeadConfig(features=48, level_channels=(32, 48, 96, 96), output_channels=16, pairs_per_chunk=64),
)

PRESETS: dict[str, TrainConfig] = {
    "flow3r": TrainConfig(name="flow3r", model=ModelConfig(), gradient_checkpointing=True),
    "nano": TrainConfig(
        name="nano",
        model=NANO_MODEL,
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=200, weight_decay=0.02),  # ours: docs/results.md
        data=DataConfig(
            views=(2, 4),
            images_per_batch=32,
            tokens=(64, 96),
            aspect=(0.6, 2.4),
            pairs_per_scene=2,
            curriculum_steps=4000,
        ),
        steps=8000,
    ),
}
