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
from flow3r.model.multiview import MultiViewTransformer, run_block
from flow3r.nn.dinov2 import DinoV2
from flow3r.types import Latents, Prediction

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OUTPUTS = ("points", "confidence", "cameras")


class Flow3r(nn.Module):
    """The π³ form of the paper's model, at the sizes of `config`; the default is the public 1.0 B parameter layout.

    `gradient_checkpointing` recomputes blocks and flow chunks in the backward pass to save memory.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        branch, trunk_width, patch = config.branch, 2 * config.multiview.width, config.encoder.patch
        self.encoder = DinoV2(config.encoder)
        self.multiview = MultiViewTransformer(config.encoder.width, config.multiview)
        self.point_branch = Branch(trunk_width, branch.width, branch)
        self.confidence_branch = Branch(trunk_width, branch.width, branch)
        self.camera_branch = Branch(trunk_width, branch.camera_width, branch)
        self.point_head = PatchHead(branch.width, 3, patch)
        self.confidence_head = PatchHead(branch.width, 1, patch)
        self.camera_head = CameraHead(branch.camera_width)
        self.flow_head = FactoredFlow(branch.width, patch, config.flow) if config.flow else None
        self.register_buffer("image_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        for module in (self.encoder, self.multiview, self.point_branch, self.camera_branch):
            module.apply(_initialise)
        self.confidence_branch = copy.deepcopy(self.point_branch)

    def forward(
        self,
        images: Float[Tensor, "B N 3 H W"],
        pairs: Int[Tensor, "B P 2"] | None = None,
        *,
        outputs: Collection[str] = OUTPUTS,
    ) -> Prediction:
        """Predict the `outputs` for images (RGB in [0, 1]), and flow for the ordered `pairs` (source, target) if given.

        Branches that nothing asked for are not run. World points need both "points" and "cameras". Raises ValueError
        for sides that are no multiples of the patch, pairs out of range, or flow asked of a model without a flow head.
        """
        self._check(images, pairs)
        save = self.gradient_checkpointing and self.training
        grid = (images.shape[3] // self.config.encoder.patch, images.shape[4] // self.config.encoder.patch)
        local_points = logit = poses = world_points = flow = None

        tokens = self.multiview(self.encode(images), save)  # Eq. 1-2
        geometry, camera = [], []
        if "points" in outputs or pairs is not None:
            hidden, geometry = self._branch(self.point_branch, tokens, grid, save)
            if "points" in outputs:  # Eq. 4
                raw = self.point_head(hidden.unflatten(1, grid))
                local_points = points_from_raw(raw).unflatten(0, images.shape[:2])
        if "confidence" in outputs:  # its loss must not move the trunk
            hidden, _ = self._branch(self.confidence_branch, tokens.detach(), grid, save)
            logit = self.confidence_head(hidden.unflatten(1, grid))[:, 0].unflatten(0, images.shape[:2])
        if "cameras" in outputs or pairs is not None:
            hidden, camera = self._branch(self.camera_branch, tokens, grid, save)
            if "cameras" in outputs:  # Eq. 3
                poses = self.camera_head(hidden).unflatten(0, images.shape[:2])
        if pairs is not None:  # Eq. 6
            flow = self.flow_head(self._latents(geometry, camera, images.shape[:2], grid), pairs, save)
        if local_points is not None and poses is not None:
            world_points = transform_maps(poses, local_points)
        return Prediction(local_points, world_points, logit, poses, flow=flow)

    def encode(self, images: Float[Tensor, "B N 3 H W"]) -> Float[Tensor, "B N h w C"]:
        """Patch tokens of every image by itself (Eq. 1)."""
        rows, columns = (side // self.config.encoder.patch for side in images.shape[-2:])
        x = self.encoder.tokens((images.flatten(0, 1) - self.image_mean) / self.image_std)
        for block in self.encoder.blocks:
            x = run_block(block, x, None, self.gradient_checkpointing and self.training)
        x = self.encoder.norm(x)[:, self.encoder.specials :]
        return x.unflatten(1, (rows, columns)).unflatten(0, images.shape[:2])

    def latents(self, images: Float[Tensor, "B N 3 H W"]) -> Latents:
        """Geometry and camera latents (Eq. 2) as the flow head reads them: the last four blocks of two branches."""
        self._check(images, None)
        grid = (images.shape[3] // self.config.encoder.patch, images.shape[4] // self.config.encoder.patch)
        tokens = self.multiview(self.encode(images))
        _, geometry = self._branch(self.point_branch, tokens, grid, False)
        _, camera = self._branch(self.camera_branch, tokens, grid, False)
        return self._latents(geometry, camera, images.shape[:2], grid)

    def _branch(self, branch: Branch, tokens: Tensor, grid: tuple[int, int], save: bool) -> tuple[Tensor, list[Tensor]]:
        """A branch's output and hidden states on patches alone, (B N, h w, D)."""
        head_width = self.config.branch.width // self.config.branch.heads
        rope = self.multiview.rope(*grid, tokens.device, head_width)
        out, hidden = branch(tokens.flatten(0, 1), rope, save)
        registers = self.config.multiview.registers
        return out[:, registers:], [x[:, registers:] for x in hidden]

    @staticmethod
    def _latents(geometry: list[Tensor], camera: list[Tensor], batch: torch.Size, grid: tuple[int, int]) -> Latents:
        maps = [tuple(x.unflatten(1, grid).unflatten(0, batch) for x in hidden[-4:]) for hidden in (geometry, camera)]
        return Latents(*maps)

    def _check(self, images: Tensor, pairs: Tensor | None) -> None:
        height, width = images.shape[-2:]
        patch = self.config.encoder.patch
        if height % patch or width % patch or 0 in images.shape:
            raise ValueError(
                f"images are {height}x{width}; both sides must be positive multiples of {patch}: "
                "use flow3r.data.transforms.fit_frame"
            )
        if pairs is None:
            return
        if self.flow_head is None:
            raise ValueError("flow was asked of a model without a flow head (config.flow is None)")
        views = images.shape[1]
        if pairs.device.type == "cpu" and pairs.numel() and not (int(pairs.min()) >= 0 and int(pairs.max()) < views):
            raise ValueError(f"pairs must name views 0..{views - 1}, got {int(pairs.min())}..{int(pairs.max())}")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
