"""VGGT's family: cameras, depth and world points in one frame, in its public form and in the paper's (appendix A.1)."""

import dataclasses
from collections.abc import Collection
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flow3r.config import VggtConfig
from flow3r.geometry.camera import unproject
from flow3r.geometry.se3 import transform_maps
from flow3r.model.flow3r import IMAGENET_MEAN, IMAGENET_STD
from flow3r.model.flow_heads import LatentWidths, make_flow_head
from flow3r.model.heads import DenseHead, IterativeCameraHead, camera_from_code
from flow3r.model.initial import initialise_trunk
from flow3r.model.inputs import OUTPUTS, check_call
from flow3r.model.multiview import MultiViewTransformer
from flow3r.model.tracking import TrackHead
from flow3r.nn.dinov2 import DinoV2
from flow3r.nn.dpt import DPT_TOKENS
from flow3r.nn.memory import WHOLE, Memory
from flow3r.types import Latents, Prediction, Tracks


class Vggt(nn.Module):
    """VGGT, or Flow3r-VGGT, at the sizes of `config`.

    With `config.multiview.first_view` the world is the first view's frame, as in the public model; without it, as in
    the paper, no view is special and the output permutes with the views. `memory` may be exchanged: it trades time for
    memory and changes no result.
    """

    def __init__(self, config: VggtConfig):
        super().__init__()
        pairs_of_blocks = config.multiview.depth // 2
        if config.multiview.camera_tokens != 1:
            raise ValueError(f"{config.multiview.camera_tokens} camera tokens: the camera head reads one per view")
        if sorted(set(config.levels)) != list(config.levels) or config.levels[-1] != pairs_of_blocks - 1:
            raise ValueError(
                f"levels {config.levels}: expected four, increasing, the last of them {pairs_of_blocks - 1}"
            )
        self.config = config
        self.memory: Memory = WHOLE
        trunk, patch = config.multiview, config.encoder.patch
        self.encoder = DinoV2(config.encoder)
        self.multiview = MultiViewTransformer(config.encoder.width, trunk)
        initialise_trunk(self.encoder, self.multiview)
        self.camera_head = IterativeCameraHead(2 * trunk.width, config.camera)
        self.depth_head = DenseHead(2 * trunk.width, 1, patch, config.dense)
        self.point_head = DenseHead(2 * trunk.width, 3, patch, config.dense)
        self.track_head = TrackHead(2 * trunk.width, config.track) if config.track else None
        widths = LatentWidths(2 * trunk.width, 2 * trunk.width, fused=trunk.width, source_camera=False, pinhole=True)
        self.flow_head = make_flow_head(config.flow, widths, patch) if config.flow else None

    def forward(
        self,
        images: Float[Tensor, "B N 3 H W"],
        pairs: Int[Tensor, "B P 2"] | None = None,
        *,
        intrinsics: Float[Tensor, "B N 3 3"] | None = None,
        outputs: Collection[str] = OUTPUTS,
    ) -> Prediction:
        """Predict the `outputs` for images (RGB in [0, 1]), and flow for the ordered `pairs` (source, target) if given.

        "points" are local points from depth and pinhole, and world points; "confidence" is that of the depth, beside
        that of the point head where world points are its own. `intrinsics`, where they are known, serve a projective
        flow head. Raises ValueError for images of a wrong type, range, device or size, unknown outputs, pairs out of
        range, intrinsics that are not of these images, or flow asked of a model without a flow head.
        """
        self._check(images, pairs, outputs, intrinsics)
        outputs = set(outputs) | (self.flow_head.needs if pairs is not None else set())
        levels, size = self.encode(images), tuple(images.shape[-2:])
        local_points = world_points = poses = pinholes = depth_logit = world_logit = flow = None

        if outputs & {"cameras", "points"}:  # Eq. 3
            poses, pinholes = camera_from_code(self.camera_head(levels[-1][:, :, 0])[-1], *size)
        if outputs & {"confidence", "points"}:  # Eq. 4
            log_depth, depth_logit = self._dense(self.depth_head, levels, size).unbind(2)
        if "points" in outputs:
            local_points = unproject(log_depth.exp(), pinholes)
            if self.config.world_points == "head":
                *raw, world_logit = self._dense(self.point_head, levels, size).unbind(2)
                world_points = inverse_log(torch.stack(raw, dim=-1))
            else:
                world_points = transform_maps(poses, local_points)
        prediction = Prediction(local_points, world_points, depth_logit, poses, pinholes, None, world_logit)
        if pairs is not None:  # Eq. 6, or Eq. 5
            latents = self._latents(levels, size)
            flow = self.flow_head(latents, pairs.to(images.device), prediction, intrinsics, self.memory)
        return dataclasses.replace(prediction, flow=flow)

    def track(self, images: Float[Tensor, "B N 3 H W"], queries: Float[Tensor, "B n 2"]) -> Tracks:
        """Where points at pixels (x, y) of the first view are in all views.

        Raises ValueError of a model without a track head, and for images that are too small for it.
        """
        if self.track_head is None:
            raise ValueError("tracks were asked of a model without a track head (config.track is None)")
        self._check(images, None, ())
        size = tuple(images.shape[-2:])
        return self.track_head(self._patches(self.encode(images), size), queries, size, self.memory)

    def latents(self, images: Float[Tensor, "B N 3 H W"]) -> Latents:
        """Geometry and camera latents (Eq. 2) as the flow head reads them."""
        self._check(images, None, ())
        return self._latents(self.encode(images), tuple(images.shape[-2:]))

    def encode(self, images: Float[Tensor, "B N 3 H W"]) -> tuple[Float[Tensor, "B N T C"], ...]:
        """The tokens of all views at the levels of the heads: camera token, registers, patches."""
        mean, std = imagenet_statistics(images.device)
        flat = ((images.flatten(0, 1) - mean) / std).to(self.encoder.dtype)
        patches = self.encoder(flat, self.memory).unflatten(0, images.shape[:2])
        return self.multiview(patches, self.config.levels, self.memory)

    def _patches(self, levels: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Float[Tensor, "B N h w C"], ...]:
        """The tokens of the patches on their grid."""
        grid = [side // self.config.encoder.patch for side in size]
        return tuple(level[:, :, self.multiview.specials :].unflatten(2, grid) for level in levels)

    def _latents(self, levels: tuple[Tensor, ...], size: tuple[int, int]) -> Latents:
        """Patches are geometry; the camera token is the camera (footnote 1 of the paper)."""
        return Latents(self._patches(levels, size), tuple(level[:, :, None, :1] for level in levels))

    def _dense(self, head: DenseHead, levels: tuple[Tensor, ...], size: tuple[int, int]) -> Float[Tensor, "B N c H W"]:
        """A dense head on all views, some at a time."""
        flat = [level.flatten(0, 1) for level in self._patches(levels, size)]
        tokens = DPT_TOKENS * flat[0].shape[1] * flat[0].shape[2]
        return self.memory.by_rows(head, *flat, tokens_of_row=tokens).unflatten(0, levels[0].shape[:2])

    def _check(
        self, images: Tensor, pairs: Tensor | None, outputs: Collection[str], intrinsics: Tensor | None = None
    ) -> None:
        check_call(images, pairs, outputs, intrinsics, self.config, self.camera_head.embed_pose.weight)


def inverse_log(y: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """sign(y) (exp |y| - 1): the point head's activation."""
    return y.sign() * y.abs().expm1()


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # made in inference, they must serve training too
def imagenet_statistics(device: torch.device) -> tuple[Float[Tensor, "1 3 1 1"], Float[Tensor, "1 3 1 1"]]:
    """Mean and deviation of the images that the encoder was made for; the public layout does not hold them."""
    mean, std = torch.tensor([IMAGENET_MEAN, IMAGENET_STD], device=device)[:, None, :, None, None].unbind()
    return mean, std
