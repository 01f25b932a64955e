"""The multi-view transformer (Eq. 2): blocks that attend within a view alternate with blocks over all views."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow3r.config import MultiViewConfig
from flow3r.nn.block import Block, run_block
from flow3r.nn.precision import product_dtype
from flow3r.nn.rope import rotary_table


class MultiViewTransformer(nn.Module):
    """No view is special and none is numbered, so the output permutes with the views."""

    def __init__(self, input_width: int, config: MultiViewConfig):
        super().__init__()
        if config.depth < 2 or config.depth % 2:
            raise ValueError(f"depth {config.depth}: the blocks alternate, so it must be even and at least 2")
        self.heads, self.rope_base = config.heads, config.rope_base
        same = input_width == config.width
        self.projection = nn.Identity() if same else nn.Linear(input_width, config.width)
        self.register_tokens = nn.Parameter(torch.empty(1, 1, config.registers, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, config.norm_eps, config.qk_norm_eps, config.layer_scale)
            for _ in range(config.depth)
        )
        nn.init.trunc_normal_(self.register_tokens, std=1e-3)  # normal_ on the meta device would load torch's compiler

    def forward(self, patches: Float[Tensor, "B N h w C"], save_memory: bool = False) -> Float[Tensor, "B N T D"]:
        """Registers and patches of every view: the last two blocks' outputs (within, across views) side by side."""
        scenes, views, rows, columns, _ = patches.shape
        x = self.projection(patches.flatten(2, 3))
        registers, width = self.register_tokens.shape[-2:]
        x = torch.cat([self.register_tokens.to(x.dtype).expand(scenes, views, -1, -1), x], dim=2)
        dtype = product_dtype(x)
        rope = rotary_table(rows, columns, registers, width // self.heads, self.rope_base, x.device, dtype)
        within = x
        for index, block in enumerate(self.blocks):
            tokens = x.flatten(0, 1) if index % 2 == 0 else x.flatten(1, 2)
            x = run_block(block, tokens, rope, save_memory).view(scenes, views, *x.shape[2:])
            if index % 2 == 0:
                within = x
        return torch.cat([within, x], dim=-1)
