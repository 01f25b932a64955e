"""Branches and heads of both families: from the transformer's tokens to points, confidence and cameras (Eq. 3-4)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import BranchConfig, CameraHeadConfig, DenseHeadConfig, MultiViewConfig
from flow3r.geometry.camera import intrinsics_from_focal
from flow3r.geometry.se3 import from_parts, invert, nearest_rotation, rotation_from_quaternion
from flow3r.nn.block import Block, Mlp, run_block
from flow3r.nn.dpt import Dpt
from flow3r.nn.memory import WHOLE, Memory
from flow3r.nn.precision import keep_full_precision
from flow3r.nn.rope import rope_of

MODULATED_NORM_EPS = 1e-6  # VGGT: of the norm without weights that the camera head modulates
NARROWEST = 1e-3  # ours: tangent of half the least field of view, about a tenth of a degree


class Branch(nn.Module):
    """A few blocks within each view, for one kind of output, on the tokens of the multi-view transformer."""

    def __init__(self, trunk: MultiViewConfig, output_width: int, config: BranchConfig):
        super().__init__()
        self.trunk, self.heads = trunk, config.heads
        self.project_in = nn.Linear(2 * trunk.width, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, config.norm_eps) for _ in range(config.depth)
        )
        self.project_out = nn.Linear(config.width, output_width)

    def forward(
        self, tokens: Float[Tensor, "n T C"], grid: tuple[int, int], memory: Memory = WHOLE, keep: int = 0
    ) -> tuple[Float[Tensor, "n h w E"], tuple[Float[Tensor, "n h w D"], ...]]:
        """On the patches of n views, which stand on `grid` (rows, columns): the output, and what the last `keep` blocks
        made, shallow to deep.

        Registers take part in the attention and are then dropped.
        """
        x, trunk = self.project_in(tokens), self.trunk
        rope = rope_of(x, grid, trunk.registers, x.shape[-1] // self.heads, trunk.rope_base, trunk.rope_precision)
        hidden = []
        for left, block in zip(reversed(range(len(self.blocks))), self.blocks, strict=True):
            x = run_block(block, x, rope, memory)
            if left < keep:
                hidden.append(x[:, trunk.registers :].unflatten(1, grid))
        return self.project_out(x[:, trunk.registers :]).unflatten(1, grid), tuple(hidden)


class PatchHead(nn.Module):
    """A linear map of each patch token to its patch x patch pixels."""

    def __init__(self, width: int, channels: int, patch: int):
        super().__init__()
        self.patch = patch
        self.proj = keep_full_precision(nn.Linear(width, channels * patch**2))
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
        keep_full_precision(self)
        self.residuals = nn.ModuleList([ResidualMlp(width), ResidualMlp(width)])
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.translation = nn.Linear(width, 3)
        self.rotation = nn.Linear(width, 9)
        with torch.no_grad():  # start near the identity, where the nearest rotation is well defined
            self.rotation.weight.mul_(0.1)
            self.rotation.bias.copy_(torch.eye(3, device="cpu").flatten())

    def forward(self, tokens: Float[Tensor, "*b h w D"]) -> Float[Tensor, "*b 4 4"]:
        """world_from_camera of each view, in fp32, whatever the ambient precision."""
        rows, translation = self.parts(tokens)
        return from_parts(nearest_rotation(rows), translation)

    def parts(self, tokens: Float[Tensor, "*b h w D"]) -> tuple[Float[Tensor, "*b 3 3"], Float[Tensor, "*b 3"]]:
        """A matrix of unit rows near the rotation, and the translation."""
        with torch.autocast(tokens.device.type, enabled=False):
            x = tokens.float()
            for residual in self.residuals:
                x = residual(x)
            x = self.mlp(x.mean(dim=(-3, -2)))
            return F.normalize(self.rotation(x).unflatten(-1, (3, 3)), dim=-1), self.translation(x)


class DenseHead(nn.Module):
    """VGGT's head of dense maps: one norm for four levels of tokens, and a DPT; the last channel is the logit of the
    confidence, which VGGT itself states as c = 1 + exp(logit), that is 1 - 1 / c in [0, 1]."""

    def __init__(self, width: int, channels: int, patch: int, config: DenseHeadConfig):
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dpt = Dpt(width, config.features, config.level_channels, config.output_channels, channels + 1)

    def forward(self, *levels: Float[Tensor, "n h w D"]) -> Float[Tensor, "n c H W"]:
        """Raw maps at the images' resolution, from the patches' tokens of four levels, shallow to deep."""
        height, width = (self.patch * side for side in levels[0].shape[1:3])
        return self.dpt(tuple(self.norm(level).movedim(-1, 1) for level in levels), (height, width))


class IterativeCameraHead(nn.Module):
    """VGGT's camera head: a few blocks over the camera tokens of all views, run again and again on what they gave.

    The code of a camera is (translation, quaternion xyzw, vertical and horizontal field of view in radians) of the
    public layout: world-to-camera.
    """

    CODE = 9

    def __init__(self, width: int, config: CameraHeadConfig):
        super().__init__()
        keep_full_precision(self)
        self.iterations = config.iterations
        self.token_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.empty_pose = nn.Parameter(torch.zeros(1, 1, self.CODE))
        self.embed_pose = nn.Linear(self.CODE, width)
        self.modulation = nn.Linear(width, 3 * width)
        self.trunk = nn.ModuleList(
            Block(width, config.heads, config.mlp_ratio, config.norm_eps, layer_scale=config.layer_scale)
            for _ in range(config.depth)
        )
        self.trunk_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.pose_branch = Mlp(width, width // 2, self.CODE)
        with torch.no_grad():  # start at the identity with a field of view of one radian
            nn.init.trunc_normal_(self.pose_branch.fc2.weight, std=1e-3)
            start = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1], device="cpu")
            self.pose_branch.fc2.bias.copy_(start / config.iterations)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B N 9"], ...]:
        """The code after every iteration, in fp32, whatever the ambient precision."""
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = self.token_norm(tokens.float())
            code, codes = None, []
            for _ in range(self.iterations):
                seen = self.empty_pose.expand(*tokens.shape[:2], -1) if code is None else code.detach()
                shift, scale, gate = self.modulation(F.silu(self.embed_pose(seen))).chunk(3, dim=-1)
                x = F.layer_norm(tokens, tokens.shape[-1:], eps=MODULATED_NORM_EPS)
                x = tokens + gate * (x * (1 + scale) + shift)
                for block in self.trunk:
                    x = block(x)
                delta = self.pose_branch(self.trunk_norm(x))
                code = delta if code is None else code + delta
                codes.append(torch.cat([code[..., :7], F.relu(code[..., 7:])], dim=-1))
        return tuple(codes)


def camera_from_code(
    code: Float[Tensor, "*b 9"], height: int, width: int
) -> tuple[Float[Tensor, "*b 4 4"], Float[Tensor, "*b 3 3"]]:
    """world_from_camera, and the pinhole with a centred principal point in pixels of an image of this size."""
    x, y, z, w = code[..., 3:7].unbind(-1)
    camera_from_world = from_parts(rotation_from_quaternion(torch.stack([w, x, y, z], dim=-1)), code[..., :3])
    size = code.new_tensor([width, height])
    focal = 0.5 * size / (0.5 * code[..., [8, 7]]).tan().clamp_min(NARROWEST)
    return invert(camera_from_world), intrinsics_from_focal(focal, (0.5 * size).expand_as(focal))
