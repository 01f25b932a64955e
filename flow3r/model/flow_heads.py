"""Fig. 2 of the paper as code: how flow from view i to view j is predicted."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from flow3r.config import FlowHeadConfig
from flow3r.geometry.camera import pixel_grid
from flow3r.geometry.flow import pixels_from_ndc
from flow3r.nn.dpt import Dpt
from flow3r.types import Flow, Latents


class FactoredFlow(nn.Module):
    """Eq. 6, Fig. 2 (d): flow i -> j from the geometry latents of i and the camera latents of i and j.

    View j enters by one vector per level alone, the mean of its camera latents. Four levels are fused by one MLP and
    decoded by a DPT to absolute target coordinates in the public checkpoint's NDC, which become displacements here.
    """

    def __init__(self, width: int, patch: int, config: FlowHeadConfig):
        super().__init__()
        self.patch, self.pairs_per_chunk = patch, config.pairs_per_chunk
        self.mlp = nn.ModuleList(
            [nn.Linear(3 * width, 2 * width), nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, width)]
        )
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dpt = Dpt(width, config.features, config.level_channels, config.output_channels, outputs=2)

    def forward(self, latents: Latents, pairs: Int[Tensor, "B P 2"], save_memory: bool = False) -> Flow:
        """Flow of the given pairs (source i, target j) at the images' resolution."""
        views = latents.camera[0].shape[1]
        sources = [self.source_part(g, c) for g, c in zip(latents.geometry, latents.camera, strict=True)]
        targets = [self.target_part(c) for c in latents.camera]
        first_view = views * torch.arange(len(pairs), device=pairs.device)[:, None]
        i, j = ((first_view + pairs[..., side]).flatten().split(self.pairs_per_chunk) for side in (0, 1))
        chunks = []
        for i_chunk, j_chunk in zip(i, j, strict=True):
            chosen = [s[i_chunk] for s in sources], [t[j_chunk] for t in targets]
            if save_memory and torch.is_grad_enabled():
                chunks.append(checkpoint(self.decode, *chosen, use_reentrant=False))
            else:
                chunks.append(self.decode(*chosen))
        return Flow(pairs, torch.cat(chunks).unflatten(0, pairs.shape[:2]), covisible=None)

    def source_part(
        self, geometry: Float[Tensor, "B N h w D"], camera: Float[Tensor, "B N h w D"]
    ) -> Float[Tensor, "BN h w E"]:
        """What the first layer makes of a source view, once per image: its weight acts on [c_i, c_j, g_i] in parts."""
        width = geometry.shape[-1]
        weight = self.mlp[0].weight
        of_camera = F.linear(camera, weight[:, :width], self.mlp[0].bias)
        return (of_camera + F.linear(geometry, weight[:, 2 * width :])).flatten(0, 1)

    def target_part(self, camera: Float[Tensor, "B N h w D"]) -> Float[Tensor, "BN E"]:
        """What the first layer makes of the target view: one vector."""
        width = camera.shape[-1]
        return F.linear(camera.mean(dim=(2, 3)), self.mlp[0].weight[:, width : 2 * width]).flatten(0, 1)

    def fuse(self, source: Float[Tensor, "p h w E"], target: Float[Tensor, "p E"]) -> Float[Tensor, "p D h w"]:
        """The rest of the fusion MLP, and its norm."""
        x = F.relu(source + target[:, None, None])
        x = self.mlp[2](F.relu(self.mlp[1](x)))
        return self.norm(x).movedim(-1, 1)

    def decode(
        self, sources: list[Float[Tensor, "p h w E"]], targets: list[Float[Tensor, "p E"]]
    ) -> Float[Tensor, "p H W 2"]:
        """Displacements in pixels of one chunk of pairs."""
        levels = tuple(self.fuse(s, t) for s, t in zip(sources, targets, strict=True))
        height, width = (self.patch * side for side in levels[0].shape[-2:])
        ndc = self.dpt(levels, (height, width)).movedim(1, -1)
        return pixels_from_ndc(ndc) - pixel_grid(height, width, ndc.device)
