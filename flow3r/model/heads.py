"""Branches and heads of the π³ family: from the transformer's tokens to points, confidence and cameras (Eq. 3-4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import BranchConfig, MultiViewConfig
from flow3r.geometry.se3 import from_parts, nearest_rotation
from flow3r.nn.block import Block, run_block
from flow3r.nn.precision import product_dtype
from flow3r.nn.rope import rotary_table


class Branch(nn.Module):
    """A few blocks within each view, for one kind of output, on the tokens of the multi-view transformer."""

    def __init__(self, trunk: MultiViewConfig, output_width: int, config: BranchConfig):
        super().__init__()
        self.registers, self.rope_base, self.heads = trunk.registers, trunk.rope_base, config.heads
        self.project_in = nn.Linear(2 * trunk.width, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, config.norm_eps) for _ in range(config.depth)
        )
        self.project_out = nn.Linear(config.width, output_width)

    def forward(
        self, tokens: Float[Tensor, "B N T C"], grid: tuple[int, int], save_memory: bool = False
    ) -> tuple[Float[Tensor, "B N h w E"], tuple[Float[Tensor, "B N h w D"], ...]]:
        """On the patches, which stand on `grid` (rows, columns): the output, and what each block made, shallow to deep.

        Registers take part in the attention and are then dropped.
        """
        x = self.project_in(tokens.flatten(0, 1))
        head_width, dtype = x.shape[-1] // self.heads, product_dtype(x)
        rope = rotary_table(*grid, self.registers, head_width, self.rope_base, x.device, dtype)
        hidden = []
        for block in self.blocks:
            x = run_block(block, x, rope, save_memory)
            hidden.append(x[:, self.registers :].unflatten(1, grid).unflatten(0, tokens.shape[:2]))
        return self.project_out(hidden[-1]), tuple(hidden)


class PatchHead(nn.Module):
    """A linear map of each patch token to its patch x patch pixels."""

    def __init__(self, width: int, channels: int, patch: int):
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(width, channels * patch**2)
        nn.init.trunc_normal_(self.proj.weight, std=1e-3)  # depths start near 1, confidences near a half
        nn.init.zeros_(self.proj.bias)

    def forward(self, tokens: Float[Tensor, "*b h w D"]) -> Float[Tensor, "*b c H W"]:
        """In fp32, whatever the ambient precision."""
        with torch.autocast(tokens.device.type, enabled=False):
            return F.pixel_shuffle(self.proj(tokens.float()).movedim(-1, -3), self.patch)


def points_from_raw(raw: Float[Tensor, "*b 3 H W"]) -> Float[Tensor, "*b H W 3"]:
    """Points in the camera's frame from (x / z, y / z, log z)."""
    slopes, z = raw[..., :2, :, :], raw[..., 2:, :, :].exp()
    return torch.cat([slopes * z, z], dim=-3).movedim(-3, -1)


class ResidualMlp(nn.Module):
    """x + relu(L3(relu(L2(relu(L1 x)))))."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Float[Tensor, "*b D"]) -> Float[Tensor, "*b D"]:
        y = x
        for layer in self.layers:
            y = F.relu(layer(y))
        return x + y


class CameraHead(nn.Module):
    """Mean over a view's patches, then a translation and nine numbers whose nearest rotation is the camera's."""

    def __init__(self, width: int):
        super().__init__()
        self.residuals = nn.ModuleList([ResidualMlp(width), ResidualMlp(width)])
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.translation = nn.Linear(width, 3)
        self.rotation = nn.Linear(width, 9)
        with torch.no_grad():  # start near the identity, where the nearest rotation is well defined
            self.rotation.weight.mul_(0.1)
            self.rotation.bias.copy_(torch.eye(3, device="cpu").flatten())

    def forward(self, tokens: Float[Tensor, "*b h w D"]) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of each view, in fp32, whatever the ambient precision."""
        with torch.autocast(tokens.device.type, enabled=False):
            x = tokens.float()
            for residual in self.residuals:
                x = residual(x)
            x = self.mlp(x.mean(dim=(-3, -2)))
            rows = F.normalize(self.rotation(x).unflatten(-1, (3, 3)), dim=-1)
            return from_parts(nearest_rotation(rows), self.translation(x))
