"""Flow3r: cameras and pointmaps from images, and flow from their latents."""

import copy
import dataclasses
from collections.abc import Collection

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flow3r.config import ModelConfig
from flow3r.geometry.se3 import transform_maps
from flow3r.model.flow_heads import LatentWidths, make_flow_head
from flow3r.model.heads import Branch, CameraHead, PatchHead, points_from_raw
from flow3r.model.initial import initialise, initialise_trunk
from flow3r.model.inputs import OUTPUTS, check_call
from flow3r.model.multiview import MultiViewTransformer
from flow3r.nn.dinov2 import DinoV2
from flow3r.nn.memory import WHOLE, Memory
from flow3r.types import Latents, Prediction

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FLOW_LEVELS = 4  # last blocks of the point and camera branches that the flow head reads


class Flow3r(nn.Module):
    """The π³ form of the paper's model, at the sizes of `config`; the default is the public 1.0 B parameter layout.

    `memory` may be exchanged: it trades time for memory and changes no result.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.flow and config.branch.depth < FLOW_LEVELS:
            raise ValueError(f"branch depth {config.branch.depth}: the flow head reads the last {FLOW_LEVELS} blocks")
        self.config = config
        self.memory: Memory = WHOLE
        trunk, branch, patch = config.multiview, config.branch, config.encoder.patch
        self.encoder = DinoV2(config.encoder)
        self.multiview = MultiViewTransformer(config.encoder.width, trunk)
        initialise_trunk(self.encoder, self.multiview)
        self.point_branch = Branch(trunk, branch.width, branch)
        initialise(self.point_branch)
        self.confidence_branch = copy.deepcopy(self.point_branch)
        self.camera_branch = Branch(trunk, branch.camera_width, branch)
        initialise(self.camera_branch)
        self.point_head = PatchHead(branch.width, 3, patch)
        self.confidence_head = PatchHead(branch.width, 1, patch)
        self.camera_head = CameraHead(branch.camera_width)
        widths = LatentWidths(branch.width, branch.width, fused=branch.width, source_camera=True)
        self.flow_head = make_flow_head(config.flow, widths, patch) if config.flow else None
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(
        self,
        images: Float[Tensor, "B N 3 H W"],
        pairs: Int[Tensor, "B P 2"] | None = None,
        *,
        intrinsics: Float[Tensor, "B N 3 3"] | None = None,
        outputs: Collection[str] = OUTPUTS,
    ) -> Prediction:
        """Predict the `outputs` for images (RGB in [0, 1]), and flow for the ordered `pairs` (source, target) if given.

        Branches that nothing asked for are not run. World points need both "points" and "cameras". `intrinsics`, where
        they are known, serve a projective flow head. Raises ValueError for images of a wrong type, range, device or
        size, unknown outputs, pairs out of range, intrinsics that are not of these images, or flow asked of a model
        without a flow head.
        """
        self._check(images, pairs, outputs, intrinsics)
        flows = pairs is not None
        outputs = set(outputs) | (self.flow_head.needs if flows else set())
        tokens, keep = self.encode(images), flows and self.flow_head.reads_latents
        local_points = confidence_logit = poses = world_points = flow = None
        geometry = camera = ()

        if "points" in outputs or keep:  # Eq. 2, Eq. 4
            head = self.point_head if "points" in outputs else None
            raw, geometry = self._run(self.point_branch, head, tokens, images, keep)
            local_points = None if raw is None else points_from_raw(raw)
        if "cameras" in outputs or keep:  # Eq. 2, Eq. 3
            head = self.camera_head if "cameras" in outputs else None
            poses, camera = self._run(self.camera_branch, head, tokens, images, keep)
        if "confidence" in outputs:  # its loss must not move the trunk
            raw, _ = self._run(self.confidence_branch, self.confidence_head, tokens.detach(), images)
            confidence_logit = raw.squeeze(-3)
        if local_points is not None and poses is not None:
            with torch.autocast(images.device.type, enabled=False):
                world_points = transform_maps(poses, local_points)
        prediction = Prediction(local_points, world_points, confidence_logit, poses)
        if flows:  # Eq. 6, or Eq. 5
            latents = Latents(geometry, camera)
            flow = self.flow_head(latents, pairs.to(images.device), prediction, intrinsics, self.memory)
        return dataclasses.replace(prediction, flow=flow)

    def latents(self, images: Float[Tensor, "B N 3 H W"]) -> Latents:
        """Geometry and camera latents (Eq. 2) as the flow head reads them: the last four blocks of two branches."""
        self._check(images, None, ())
        tokens = self.encode(images)
        _, geometry = self._run(self.point_branch, None, tokens, images, latents=True)
        _, camera = self._run(self.camera_branch, None, tokens, images, latents=True)
        return Latents(geometry, camera)

    def encode(self, images: Float[Tensor, "B N 3 H W"]) -> Float[Tensor, "B N T C"]:
        """The tokens of all views, registers first: each image by itself (Eq. 1), then all views together."""
        flat = ((images.flatten(0, 1) - self.image_mean) / self.image_std).to(self.encoder.dtype)
        patches = self.encoder(flat, self.memory).unflatten(0, images.shape[:2])
        return self.multiview(patches, (self.config.multiview.depth // 2 - 1,), self.memory)[0]

    def _run(
        self, branch: Branch, head: nn.Module | None, tokens: Tensor, images: Tensor, latents: bool = False
    ) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """What the head makes of a branch, and the latents, if wanted: without them some views go at a time."""
        patch, views, memory = self.config.encoder.patch, images.shape[:2], self.memory
        grid, length = (images.shape[-2] // patch, images.shape[-1] // patch), tokens.shape[2]
        if not latents:
            out = memory.by_rows(
                lambda rows: head(branch(rows, grid, memory)[0]), tokens.flatten(0, 1), tokens_of_row=length
            )
            return out.unflatten(0, views), ()
        hidden, levels = branch(tokens.flatten(0, 1), grid, memory, keep=FLOW_LEVELS)
        out = None if head is None else memory.by_rows(head, hidden, tokens_of_row=length).unflatten(0, views)
        return out, tuple(level.unflatten(0, views) for level in levels)

    def _check(
        self, images: Tensor, pairs: Tensor | None, outputs: Collection[str], intrinsics: Tensor | None = None
    ) -> None:
        check_call(images, pairs, outputs, intrinsics, self.config, self.point_head.proj.weight)
