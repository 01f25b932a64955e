"""The DINOv2 encoder with registers: an image to patch tokens (Eq. 1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import EncoderConfig
from flow3r.nn.block import Block


class DinoV2(nn.Module):
    """A ViT whose learned positions are resampled to any grid; class token and registers are dropped at the end."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, config.width))
        self.position_table = nn.Parameter(torch.zeros(1, 1 + config.position_grid**2, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, config.norm_eps, layer_scale=1.0)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        for parameter in (self.class_token, self.register_tokens, self.position_table):
            nn.init.trunc_normal_(parameter, std=0.02)

    def tokens(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B T D"]:
        """Class token, registers and patches, row by row, before the first block. `images` are ImageNet-normalised."""
        patches = self.patch_embed(images)
        rows, columns = patches.shape[-2:]
        patches = patches.flatten(2).mT + self.positions(rows, columns).to(patches.dtype)
        start = (self.class_token + self.position_table[:, :1]).to(patches.dtype)
        specials = torch.cat([start, self.register_tokens.to(patches.dtype)], dim=1)
        return torch.cat([specials.expand(len(patches), -1, -1), patches], dim=1)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 T D"]:
        """The position table on a grid of patches: bicubic with antialiasing, in fp32, untouched at its own size."""
        table = self.position_table[:, 1:]
        side = round(table.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return table
        grid = table.float().unflatten(1, (side, side)).movedim(-1, 1)
        return F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True).flatten(2).mT

    @property
    def specials(self) -> int:
        """Number of tokens before the patches."""
        return 1 + self.register_tokens.shape[1]
