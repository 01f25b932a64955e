"""Flow3r: cameras and pointmaps from images, and flow from their latents."""

import copy
from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flow3r.config import ModelConfig
from flow3r.geometry.se3 import transform_maps
from flow3r.model.flow_heads import FactoredFlow
from flow3r.model.heads import Branch, CameraHead, PatchHead, points_from_raw
from flow3r.model.multiview import MultiViewTransformer
from flow3r.nn.attention import Attention
from flow3r.nn.dinov2 import DinoV2
from flow3r.types import Latents, Prediction

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTPUTS = ("points", "confidence", "cameras")
FLOW_LEVELS = 4  # last blocks of the point and camera branches that the flow head reads


class Flow3r(nn.Module):
    """The π³ form of the paper's model, at the sizes of `config`; the default is the public 1.0 B parameter layout.

    `gradient_checkpointing` recomputes blocks and flow chunks in the backward pass of training to save memory.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.flow and config.branch.depth < FLOW_LEVELS:
            raise ValueError(f"branch depth {config.branch.depth}: the flow head reads the last {FLOW_LEVELS} blocks")
        self.config = config
        self.gradient_checkpointing = False
        trunk, branch, patch = config.multiview, config.branch, config.encoder.patch
        self.encoder = DinoV2(config.encoder).apply(_initialise)
        self.multiview = MultiViewTransformer(config.encoder.width, trunk).apply(_initialise)
        self.point_branch = Branch(trunk, branch.width, branch).apply(_initialise)
        self.confidence_branch = copy.deepcopy(self.point_branch)
        self.camera_branch = Branch(trunk, branch.camera_width, branch).apply(_initialise)
        self.point_head = PatchHead(branch.width, 3, patch)
        self.confidence_head = PatchHead(branch.width, 1, patch)
        self.camera_head = CameraHead(branch.camera_width)
        self.flow_head = FactoredFlow(branch.width, patch, config.flow) if config.flow else None
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(
        self,
        images: Float[Tensor, "B N 3 H W"],
        pairs: Int[Tensor, "B P 2"] | None = None,
        *,
        outputs: Collection[str] = OUTPUTS,
    ) -> Prediction:
        """Predict the `outputs` for images (RGB in [0, 1]), and flow for the ordered `pairs` (source, target) if given.

        Branches that nothing asked for are not run. World points need both "points" and "cameras". Raises ValueError
        for sides that are no multiples of the patch, unknown outputs, pairs out of range, or flow asked of a model
        without a flow head.
        """
        _check(images, pairs, outputs, self.config)
        tokens, grid, save = self.encode(images), self._grid(images), self._saves_memory
        local_points = confidence_logit = poses = flow = world_points = None
        geometry = camera = ()

        if "points" in outputs or pairs is not None:  # Eq. 2
            hidden, geometry = self.point_branch(tokens, grid, save)
            local_points = points_from_raw(self.point_head(hidden)) if "points" in outputs else None  # Eq. 4
        if "cameras" in outputs or pairs is not None:  # Eq. 2
            hidden, camera = self.camera_branch(tokens, grid, save)
            poses = self.camera_head(hidden) if "cameras" in outputs else None  # Eq. 3
        if "confidence" in outputs:  # its loss must not move the trunk
            hidden, _ = self.confidence_branch(tokens.detach(), grid, save)
            confidence_logit = self.confidence_head(hidden).squeeze(-3)
        if pairs is not None:  # Eq. 6
            flow = self.flow_head(_latents(geometry, camera), pairs.to(images.device), save)
        if local_points is not None and poses is not None:
            with torch.autocast(images.device.type, enabled=False):
                world_points = transform_maps(poses, local_points)
        return Prediction(local_points, world_points, confidence_logit, poses, flow=flow)

    def latents(self, images: Float[Tensor, "B N 3 H W"]) -> Latents:
        """Geometry and camera latents (Eq. 2) as the flow head reads them: the last four blocks of two branches."""
        _check(images, None, (), self.config)
        tokens, grid, save = self.encode(images), self._grid(images), self._saves_memory
        return _latents(self.point_branch(tokens, grid, save)[1], self.camera_branch(tokens, grid, save)[1])

    def encode(self, images: Float[Tensor, "B N 3 H W"]) -> Float[Tensor, "B N T C"]:
        """The tokens of all views, registers first: each image by itself (Eq. 1), then all views together."""
        flat = (images.flatten(0, 1) - self.image_mean) / self.image_std
        patches = self.encoder(flat, self._saves_memory).unflatten(0, images.shape[:2])
        return self.multiview(patches, self._saves_memory)

    def _grid(self, images: Tensor) -> tuple[int, int]:
        patch = self.config.encoder.patch
        return images.shape[-2] // patch, images.shape[-1] // patch

    @property
    def _saves_memory(self) -> bool:
        return self.gradient_checkpointing and self.training


def _latents(geometry: tuple[Tensor, ...], camera: tuple[Tensor, ...]) -> Latents:
    return Latents(geometry[-FLOW_LEVELS:], camera[-FLOW_LEVELS:])


def _check(images: Tensor, pairs: Tensor | None, outputs: Collection[str], config: ModelConfig) -> None:
    """Raise ValueError for what the model cannot work on. Values are read on the CPU alone, where that is no wait."""
    patch, shape = config.encoder.patch, tuple(images.shape)
    if images.ndim != 5 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"images have shape {shape}, expected (scenes, views, 3, height, width), none of them 0")
    if shape[3] % patch or shape[4] % patch:
        raise ValueError(
            f"images are {shape[3]}x{shape[4]}, both sides must be multiples of {patch}: "
            "fit them with flow3r.data.transforms.fit_frame"
        )
    unknown = sorted(set(outputs) - set(OUTPUTS))
    if unknown:
        raise ValueError(f"unknown outputs {', '.join(unknown)}; choose from {', '.join(OUTPUTS)}")
    if pairs is None:
        return
    if config.flow is None:
        raise ValueError("flow was asked of a model without a flow head (config.flow is None): leave out the pairs")
    if pairs.ndim != 3 or pairs.shape[0] != shape[0] or pairs.shape[2] != 2:
        raise ValueError(f"pairs have shape {tuple(pairs.shape)}, expected ({shape[0]}, P, 2): (source, target) views")
    if pairs.device.type == "cpu" and pairs.numel() and (int(pairs.min()) < 0 or int(pairs.max()) >= shape[1]):
        raise ValueError(
            f"pairs name views {int(pairs.min())} to {int(pairs.max())}, but there are {shape[1]}, counted from 0"
        )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    if isinstance(module, Attention) and isinstance(module.q_norm, nn.LayerNorm):
        # Equal queries and keys: attention starts as likeness of content, from which matching across views is learnt.
        query, key, _ = module.qkv.weight.data.chunk(3)
        key.copy_(query)
