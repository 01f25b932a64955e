"""The DINOv2 encoder with registers: an image to patch tokens (Eq. 1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import EncoderConfig
from flow3r.nn.block import Block, run_block
from flow3r.nn.memory import WHOLE, Memory


class DinoV2(nn.Module):
    """A ViT whose learned positions are resampled to any grid; class token and registers are dropped at the end."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.table_grid = (config.position_grid, config.position_grid)
        self.patch_embed = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.register_tokens = nn.Parameter(torch.zeros(1, config.registers, config.width))
        self.position_table = nn.Parameter(torch.zeros(1, 1 + config.position_grid**2, config.width))
        if config.mask_token:
            self.mask_token = nn.Parameter(torch.zeros(1, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, config.norm_eps, layer_scale=1.0)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        for parameter in (self.class_token, self.register_tokens, self.position_table):
            nn.init.trunc_normal_(parameter, std=0.02)
        with torch.no_grad():
            self.position_table[0, 1:].copy_(sine_positions(config.position_grid, config.width))

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, in which images are wanted."""
        return self.patch_embed.weight.dtype

    def forward(self, images: Float[Tensor, "B 3 H W"], memory: Memory = WHOLE) -> Float[Tensor, "B h w D"]:
        """The tokens of the patches of ImageNet-normalised images."""
        patch = self.patch_embed.stride[0]
        tokens = 1 + self.register_tokens.shape[1] + (images.shape[-2] // patch) * (images.shape[-1] // patch)
        return memory.by_rows(lambda some: self.encode(some, memory), images, tokens_of_row=tokens)

    def encode(self, images: Float[Tensor, "B 3 H W"], memory: Memory) -> Float[Tensor, "B h w D"]:
        """`forward` of images that go at once."""
        patches = self.patch_embed(images)
        rows, columns = patches.shape[-2:]
        x = self.with_specials(patches.flatten(2).mT + self.positions(rows, columns).to(patches.dtype))
        for block in self.blocks:
            x = run_block(block, x, None, memory)
        specials = 1 + self.register_tokens.shape[1]
        return self.norm(x[:, specials:]).unflatten(1, (rows, columns))

    def with_specials(self, patches: Float[Tensor, "B T D"]) -> Float[Tensor, "B T_all D"]:
        """Class token with its position, registers without any, then the patches."""
        start = self.class_token + self.position_table[:, :1]
        specials = torch.cat([start, self.register_tokens], dim=1).to(patches.dtype)
        return torch.cat([specials.expand(len(patches), -1, -1), patches], dim=1)

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 T D"]:
        """The position table on a grid of patches: bicubic with antialiasing, in fp32, untouched at its own size."""
        table = self.position_table[:, 1:]
        if (rows, columns) == self.table_grid:
            return table
        grid = table.float().unflatten(1, self.table_grid).movedim(-1, 1)
        return F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True).flatten(2).mT


def sine_positions(side: int, width: int, strength: float = 0.6) -> Float[Tensor, "T D"]:
    """A start for the position table of a grid: sines and cosines of y, then of x, about as strong as the content.

    On the CPU, since arithmetic on the meta device, where checkpoints are fitted, would load torch's compiler.
    """
    frequency = torch.pi / side * 2.0 ** torch.linspace(0, 3, width // 4, device="cpu")
    angle = (torch.arange(side, device="cpu") + 0.5)[:, None] * frequency
    waves = strength * torch.cat([angle.sin(), angle.cos()], dim=-1)
    y, x = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([y, x], dim=-1).flatten(0, 1)
