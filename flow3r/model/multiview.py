"""The multi-view transformer (Eq. 2): blocks that attend within a view alternate with blocks over all views."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flow3r.config import MultiViewConfig
from flow3r.nn.block import Block, run_block
from flow3r.nn.memory import WHOLE, Memory
from flow3r.nn.rope import rope_of


class MultiViewTransformer(nn.Module):
    """No view is numbered, so that the output permutes with the views; unless the first has tokens of its own.

    The special tokens ahead of a view's patches are camera tokens, if any, then registers.
    """

    def __init__(self, input_width: int, config: MultiViewConfig):
        super().__init__()
        if config.depth < 2 or config.depth % 2:
            raise ValueError(f"depth {config.depth}: the blocks alternate, so it must be even and at least 2")
        self.config = config
        self.specials = config.camera_tokens + config.registers
        same = input_width == config.width
        self.projection = nn.Identity() if same else nn.Linear(input_width, config.width)
        kinds = 2 if config.first_view else 1
        if config.camera_tokens:
            self.camera_tokens = nn.Parameter(torch.empty(1, kinds, config.camera_tokens, config.width))
            nn.init.trunc_normal_(self.camera_tokens, std=1e-3)
        self.register_tokens = nn.Parameter(torch.empty(1, kinds, config.registers, config.width))
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, config.norm_eps, config.qk_norm_eps, config.layer_scale)
            for _ in range(config.depth)
        )
        nn.init.trunc_normal_(self.register_tokens, std=1e-3)  # normal_ on the meta device would load torch's compiler

    def forward(
        self, patches: Float[Tensor, "B N h w C"], levels: tuple[int, ...], memory: Memory = WHOLE
    ) -> tuple[Float[Tensor, "B N T D"], ...]:
        """Special tokens and patches of every view after chosen `levels`, each a pair of blocks, counted from 0: the
        outputs of its blocks within and across views, side by side."""
        scenes, views, *grid, _ = patches.shape
        flat = patches.flatten(2, 3).flatten(0, 1)
        x = memory.by_rows(self.projection, flat, tokens_of_row=flat.shape[1]).unflatten(0, (scenes, views))
        x = torch.cat([self.special_tokens(views).to(x.dtype).expand(scenes, -1, -1, -1), x], dim=2)
        width, config = x.shape[-1], self.config
        rope = rope_of(x, tuple(grid), self.specials, width // config.heads, config.rope_base, config.rope_precision)
        found = {}
        for level in range(max(levels) + 1):
            within = run_block(self.blocks[2 * level], x.flatten(0, 1), rope, memory).unflatten(0, (scenes, views))
            x = run_block(self.blocks[2 * level + 1], within.flatten(1, 2), rope, memory).unflatten(1, (views, -1))
            if level in levels:
                found[level] = torch.cat([within, x], dim=-1)
        return tuple(found[level] for level in levels)

    def special_tokens(self, views: int) -> Float[Tensor, "1 N S D"]:
        """Camera and register tokens of each view."""
        kinds = self.register_tokens
        if self.config.camera_tokens:
            kinds = torch.cat([self.camera_tokens, kinds], dim=2)
        if not self.config.first_view:
            return kinds.expand(-1, views, -1, -1)
        return torch.cat([kinds[:, :1], kinds[:, 1:].expand(-1, views - 1, -1, -1)], dim=1)
