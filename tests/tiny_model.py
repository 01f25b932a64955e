"""A model that runs in milliseconds, with weights that make every part matter."""

import dataclasses

import torch

from flow3r.config import (
    BranchConfig,
    CameraHeadConfig,
    DenseHeadConfig,
    EncoderConfig,
    FlowHeadConfig,
    ModelConfig,
    MultiViewConfig,
    TrackHeadConfig,
    VggtConfig,
)
from flow3r.model.flow3r import Flow3r
from flow3r.model.vggt import Vggt

TINY = ModelConfig(
    EncoderConfig(width=24, depth=1, heads=2, position_grid=3, registers=2),
    MultiViewConfig(width=32, depth=4, heads=2, registers=3),
    BranchConfig(width=40, depth=4, heads=2, camera_width=24),
    FlowHeadConfig(features=8, level_channels=(8, 12, 16, 16), output_channels=4),
)
# The paper's form: no view is special, and flow is factored.
TINY_VGGT = VggtConfig(
    TINY.encoder,
    MultiViewConfig(width=32, depth=8, heads=2, registers=2, camera_tokens=1, norm_eps=1e-5),
    levels=(0, 1, 2, 3),
    camera=CameraHeadConfig(depth=1, heads=2, iterations=2),
    dense=DenseHeadConfig(features=8, level_channels=(8, 12, 16, 16), output_channels=4),
    track=None,
    flow=TINY.flow,
)
# VGGT's own: the first view is special, and points are tracked.
TINY_REFERENCE = dataclasses.replace(
    TINY_VGGT,
    multiview=dataclasses.replace(TINY_VGGT.multiview, first_view=True),
    track=TrackHeadConfig(
        features=16,
        level_channels=(8, 12, 16, 16),
        corr_levels=2,
        corr_radius=2,
        hidden=16,
        depth=1,
        iterations=2,
        virtual_tracks=3,
        heads=2,
    ),
    flow=None,
)


def tiny_model(config: ModelConfig | VggtConfig = TINY) -> Flow3r | Vggt:
    """Seeded weights of half gain in place of the initial ones, which leave LayerScale and heads near zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Flow3r(config) if isinstance(config, ModelConfig) else Vggt(config)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim > 1:
                parameter.data = 0.5 * noise / parameter[0].numel() ** 0.5
            else:
                parameter.data += 0.2 * noise
    return model


def tiny_images(scenes: int = 1, views: int = 3, height: int = 28, width: int = 42) -> torch.Tensor:
    return torch.rand(scenes, views, 3, height, width, generator=torch.Generator().manual_seed(2))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradients that are there, by parameter name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
