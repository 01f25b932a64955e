"""What a forward pass costs, from the sizes alone: floating-point operations and peak memory.

One scene; for a batch multiply the operations, and the memory beyond the weights, by its size. An operation is a
multiplication or an addition, so a product of matrices (m k) and (k n) has 2 m k n of them. Products alone are counted:
norms, activations, softmax and resampling are below 1 %.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import torch

from flow3r.config import (
    CameraHeadConfig,
    DenseHeadConfig,
    EncoderConfig,
    FlowHeadConfig,
    MatcherConfig,
    ModelConfig,
    MultiViewConfig,
    VggtConfig,
)
from flow3r.model.flow3r import FLOW_LEVELS, Flow3r
from flow3r.model.flow_heads import LatentWidths, flow_head_class
from flow3r.model.heads import IterativeCameraHead
from flow3r.model.inputs import OUTPUTS
from flow3r.model.vggt import Vggt
from flow3r.nn.dpt import DPT_TOKENS
from flow3r.nn.memory import Memory
from flow3r.nn.precision import lower_precision

SINGLE = 4  # bytes of a float32, in which heads and outputs are
Sizes = ModelConfig | VggtConfig | MatcherConfig


def forward_flops(
    config: Sizes, views: int, height: int, width: int, pairs: int = 0, outputs: Collection[str] = OUTPUTS
) -> int:
    """Operations of one forward pass on `views` images of height x width, with flow for `pairs` ordered pairs."""
    grid = (height // config.encoder.patch, width // config.encoder.patch)
    total = views * encoder_flops(config.encoder, grid)
    total += multiview_flops(config.multiview, config.encoder.width, views, grid[0] * grid[1])
    if isinstance(config, MatcherConfig):
        return total  # its readout is next to nothing beside the trunk
    wanted, latents = set(outputs), False
    if pairs:
        head = flow_head_class(config.flow)
        wanted, latents = wanted | head.needs, head.reads_latents
    heads = _flow3r_head_flops if isinstance(config, ModelConfig) else _vggt_head_flops
    total += heads(config, views, grid, wanted, latents)
    if pairs:
        total += flow_flops(config.flow, latent_widths(config), views, pairs, grid, (height, width))
    return total


def linear_flops(inputs: int, outputs: int) -> int:
    """Operations of a linear layer on one token."""
    return 2 * inputs * outputs


def block_flops(tokens: int, width: int, mlp_ratio: int) -> int:
    """Operations of a transformer block on one sequence: four maps of attention, two of the MLP, scores and mixture."""
    return tokens * ((4 + 2 * mlp_ratio) * linear_flops(width, width) + 2 * linear_flops(width, tokens))


def encoder_flops(encoder: EncoderConfig, grid: tuple[int, int]) -> int:
    """Operations of the encoder on one image of `grid` (rows, columns) patches."""
    patches = grid[0] * grid[1]
    blocks = encoder.depth * block_flops(patches + 1 + encoder.registers, encoder.width, encoder.mlp_ratio)
    return patches * linear_flops(3 * encoder.patch**2, encoder.width) + blocks


def multiview_flops(trunk: MultiViewConfig, input_width: int, views: int, patches: int) -> int:
    """Operations of the multi-view transformer; half of its blocks see all views at once."""
    tokens = specials(trunk) + patches
    within = views * block_flops(tokens, trunk.width, trunk.mlp_ratio)
    across = block_flops(views * tokens, trunk.width, trunk.mlp_ratio)
    projection = 0 if input_width == trunk.width else views * patches * linear_flops(input_width, trunk.width)
    return projection + trunk.depth // 2 * (within + across)


def specials(trunk: MultiViewConfig) -> int:
    """Tokens of a view besides its patches."""
    return trunk.camera_tokens + trunk.registers


def latent_widths(config: Sizes) -> LatentWidths:
    """The channels of what the flow head reads."""
    if isinstance(config, ModelConfig):
        width = config.branch.width
        return LatentWidths(width, width, fused=width, source_camera=True)
    width = config.multiview.width
    return LatentWidths(2 * width, 2 * width, fused=width, source_camera=False, pinhole=True)


def dpt_flops(
    width: int, config: FlowHeadConfig | DenseHeadConfig, outputs: int, grid: tuple[int, int], size: tuple[int, int]
) -> int:
    """Operations of a DPT on one map: tokens on `grid` (rows, columns) to pixels of `size` (H, W)."""
    f, half, hidden, channels = config.features, config.features // 2, config.output_channels, config.level_channels
    patches, deepest = grid[0] * grid[1], -(-grid[0] // 2) * -(-grid[1] // 2)
    areas = (16 * patches, 4 * patches, patches, deepest)
    total = patches * sum(linear_flops(width, c) for c in channels)
    total += patches * (16 * linear_flops(channels[0], channels[0]) + 4 * linear_flops(channels[1], channels[1]))
    total += deepest * 9 * linear_flops(channels[3], channels[3])
    for level, area in enumerate(areas):
        convolutions = 2 if level == 3 else 4  # the deepest has no skip to refine
        total += area * (9 * linear_flops(channels[level], f) + (9 * convolutions + 1) * linear_flops(f, f))
    total += 64 * patches * 9 * linear_flops(f, half)
    return total + size[0] * size[1] * (9 * linear_flops(half, hidden) + linear_flops(hidden, outputs))


def _flow3r_head_flops(config: ModelConfig, views: int, grid: tuple[int, int], wanted: set[str], latents: bool) -> int:
    """Branches and heads; points and cameras run their branches for the latents, too."""
    branch, camera, patches = config.branch, config.branch.camera_width, grid[0] * grid[1]
    pixels, tokens = config.encoder.patch**2, patches + specials(config.multiview)
    blocks = branch.depth * block_flops(tokens, branch.width, branch.mlp_ratio)
    trunk = tokens * linear_flops(2 * config.multiview.width, branch.width) + blocks
    square = linear_flops(camera, camera)
    total = 0
    if "points" in wanted or latents:
        total += trunk + patches * linear_flops(branch.width, branch.width)
    if "cameras" in wanted or latents:
        total += trunk + patches * linear_flops(branch.width, camera)
    if "confidence" in wanted:
        total += trunk + patches * (linear_flops(branch.width, branch.width) + linear_flops(branch.width, pixels))
    if "points" in wanted:
        total += patches * linear_flops(branch.width, 3 * pixels)
    if "cameras" in wanted:
        total += 6 * patches * square + 2 * square + linear_flops(camera, 3 + 9)
    if {"points", "cameras"} <= wanted:
        total += patches * pixels * linear_flops(3, 3)
    return views * total


def _vggt_head_flops(config: VggtConfig, views: int, grid: tuple[int, int], wanted: set[str], latents: bool) -> int:
    """Camera head and dense heads; the latents are the trunk's own."""
    width, patch = 2 * config.multiview.width, config.encoder.patch
    size = (patch * grid[0], patch * grid[1])
    total = 0
    if wanted & {"cameras", "points"}:
        total += _iterative_camera_flops(config.camera, width, views)
    if wanted & {"confidence", "points"}:
        total += views * dpt_flops(width, config.dense, 2, grid, size)
    if "points" in wanted:
        by_head = dpt_flops(width, config.dense, 4, grid, size)
        total += views * (by_head if config.world_points == "head" else size[0] * size[1] * linear_flops(3, 3))
    return total


def _iterative_camera_flops(camera: CameraHeadConfig, width: int, views: int) -> int:
    code = IterativeCameraHead.CODE
    into = linear_flops(code, width) + linear_flops(width, 3 * width)
    out = linear_flops(width, width // 2) + linear_flops(width // 2, code)
    return camera.iterations * (views * (into + out) + camera.depth * block_flops(views, width, camera.mlp_ratio))


def flow_flops(
    flow: FlowHeadConfig, widths: LatentWidths, views: int, pairs: int, grid: tuple[int, int], size: tuple[int, int]
) -> int:
    """Operations of a flow head: its MLP's first layer acts once per view, the rest and the DPT once per pair."""
    projection = pairs * size[0] * size[1] * linear_flops(3, 3) if "projective" in flow.kind else 0
    if flow.kind == "projective":
        return projection
    patches, fused = grid[0] * grid[1], widths.fused
    rest = patches * (linear_flops(2 * fused, 2 * fused) + linear_flops(2 * fused, fused))
    if flow.kind == "tracking":
        first = patches * (2 * linear_flops(widths.geometry, 2 * fused) + linear_flops(widths.geometry, fused))
        rest += patches * (linear_flops(fused, patches) + linear_flops(patches, 2 + 2 * fused))
    else:
        camera = linear_flops(widths.camera, 2 * fused)
        first = patches * (linear_flops(widths.geometry, 2 * fused) + widths.source_camera * camera)
        by_view, by_pair = _target_flops(flow, widths)
        first, rest = first + by_view, rest + by_pair
    outputs = 3 if flow.kind == "projective+sceneflow" else 2
    dense = dpt_flops(fused, flow, outputs, grid, size)
    return projection + FLOW_LEVELS * (views * first + pairs * rest) + pairs * dense


def _target_flops(flow: FlowHeadConfig, widths: LatentWidths) -> tuple[int, int]:
    """Of a target view on its way into a factored head, at each level: of every view, and of every pair."""
    camera, hidden, entered = widths.camera, widths.fused // 2, linear_flops(widths.camera, 2 * widths.fused)
    if flow.target == "pose":  # once for all levels
        mlp = linear_flops(9 + 3 + 2 * widths.pinhole, hidden) + linear_flops(hidden, camera)
        return 0, (mlp + entered) // FLOW_LEVELS
    return entered + 2 * linear_flops(camera, flow.camera_width or 0), 0


def peak_bytes(
    config: Sizes,
    views: int,
    height: int,
    width: int,
    *,
    dtype: torch.dtype,
    pairs: int = 0,
    chunk_tokens: int | None = None,
    weights: torch.dtype | None = None,
) -> int:
    """Weights and the activations that live at once, at the worst moment of a forward pass without gradients.

    `dtype` is what products are taken in, and `weights` what the weights are kept in, by default the same. Where that
    is wider, autocast holds copies of them in `dtype` too, and what blocks pass on is as wide as the weights.
    `chunk_tokens` is `Memory.tokens` (flow3r/nn/memory.py). Not counted: an allocator's slack, workspaces of kernels,
    and what others keep on the device.
    """
    weights = weights or dtype
    held = _weight_bytes(config, weights, dtype if dtype.itemsize < weights.itemsize else None)
    patches = (height // config.encoder.patch) * (width // config.encoder.patch)
    scene = _Scene(views, patches, height * width, dtype.itemsize, weights.itemsize, Memory(tokens=chunk_tokens))
    heads = _flow3r_head_bytes if isinstance(config, ModelConfig) else _vggt_head_bytes
    trunk = max(_encoder_bytes(config.encoder, scene), _multiview_bytes(config, scene))
    images = scene.maps(3)  # while the trunk works, normalised too
    return held + images + max(trunk + images, heads(config, scene, pairs))


@lru_cache(maxsize=32)
def _weight_bytes(config: Sizes, weights: torch.dtype, copies: torch.dtype | None) -> int:
    """Of the weights, of which some stay in fp32 (flow3r/nn/precision.py), and of autocast's copies of the others."""
    with torch.device("meta"):
        model = Flow3r(config) if isinstance(config, ModelConfig) else Vggt(config)
    lower_precision(model, torch.bfloat16)
    tensors = model.state_dict().values()
    lowered = sum(tensor.numel() for tensor in tensors if tensor.dtype == torch.bfloat16)
    others = sum(tensor.nbytes for tensor in tensors if tensor.dtype != torch.bfloat16)
    return others + lowered * (weights.itemsize + (copies.itemsize if copies else 0))


@dataclass(frozen=True)
class _Scene:
    """`product` and `stream`: bytes of a number in a product, and in what blocks pass on."""

    views: int
    patches: int  # of a view
    area: int  # pixels of a view
    product: int
    stream: int
    memory: Memory

    def at_once(self, tokens_of_view: int) -> int:
        """Views that go at once through what sees one view."""
        with torch.no_grad():
            return self.memory.rows(self.views, tokens_of_view)

    def maps(self, channels: int) -> int:
        """Outputs at the images' resolution."""
        return self.views * self.area * channels * SINGLE

    def block(self, tokens: int, views: int, width: int, mlp_ratio: int, turned: int) -> int:
        """What a block makes of `views` with so many tokens each, beside its input: in attention the norm, q k v and,
        while k is turned in numbers of `turned` bytes, six more; in the MLP what attention saw, both sums, the norm and
        both sides of the activation."""
        attention = self.stream + 3 * self.product + 6 * turned
        mlp = 2 * self.stream + (1 + 2 * mlp_ratio) * self.product
        return views * tokens * width * max(attention, mlp)


def _encoder_bytes(encoder: EncoderConfig, scene: _Scene) -> int:
    tokens = scene.patches + 1 + encoder.registers
    views = scene.at_once(tokens)
    whole = scene.views * scene.patches * encoder.width * scene.stream if views < scene.views else 0
    embedded = views * (scene.patches * scene.product + tokens * scene.stream) * encoder.width
    return whole + embedded + scene.block(tokens, views, encoder.width, encoder.mlp_ratio, turned=0)


def _multiview_bytes(config: Sizes, scene: _Scene) -> int:
    """Levels that the heads will read, and a block on its input, the input before it and what the encoder made."""
    trunk = config.multiview
    tokens = scene.patches + specials(trunk)
    one = scene.views * tokens * trunk.width  # numbers in what a block passes on
    encoded = scene.views * scene.patches * config.encoder.width * scene.stream
    levels = 1 if isinstance(config, ModelConfig) else len(config.levels)
    found = 2 * one * scene.stream
    views = scene.at_once(tokens)
    turned = SINGLE if trunk.rope_precision == "float32" else scene.product
    block = scene.block(tokens, views, trunk.width, trunk.mlp_ratio, turned)
    if views < scene.views:  # q, k, v and the mixture are whole; then the mixture, and the output in parts and together
        block += one * max(4 * scene.product, 2 * scene.stream + scene.product)
    return encoded + (levels - 1) * found + 2 * one * scene.stream + max(block, found)


def _flow3r_head_bytes(config: ModelConfig, scene: _Scene, pairs: int) -> int:
    """The tokens, the latents if flow is asked for; the last of three branches, points of camera and world, or flow."""
    branch, trunk = config.branch, config.multiview
    tokens = scene.patches + specials(trunk)
    latents = pairs and flow_head_class(config.flow).reads_latents
    widths = 2 * trunk.width + (2 * FLOW_LEVELS * branch.width if latents else 0)
    kept = scene.views * tokens * widths * scene.stream
    views = scene.at_once(tokens)
    block = scene.block(tokens, views, branch.width, branch.mlp_ratio, scene.product)
    block += views * tokens * branch.width * scene.stream
    flow = scene.maps(3 + 3 + 1) + _flow_bytes(config, scene, pairs) if pairs else 0
    return kept + max(scene.maps(3 + 1) + block, scene.maps(3 + 1 + 2 * 3), flow)


def _vggt_head_bytes(config: VggtConfig, scene: _Scene, pairs: int) -> int:
    """The tokens of all levels; a dense head in some views, the activation of world points, or flow."""
    width = 2 * config.multiview.width
    kept = len(config.levels) * scene.views * (scene.patches + specials(config.multiview)) * width * scene.stream
    views = scene.at_once(DPT_TOKENS * scene.patches)
    normed = len(config.levels) * views * scene.patches * width * scene.stream
    dense = normed + views * _dpt_bytes(config.dense, scene) + _positions_bytes(config.dense, scene)
    depths = 2 + 3 + 4  # log depth and confidence, local points, and what the point head makes
    flow = scene.maps(depths + 3) + _flow_bytes(config, scene, pairs) if pairs else 0
    return kept + max(scene.maps(depths) + dense, scene.maps(depths + 4 * 3), flow)


def _flow_bytes(config: Sizes, scene: _Scene, pairs: int) -> int:
    """The fusion MLP's first layer of all views and, for a few pairs at once, its other layers or the DPT."""
    flow, fused = config.flow, latent_widths(config).fused
    chunk = min(pairs, flow.pairs_per_chunk)
    result = pairs * scene.area * 2 * SINGLE
    projected = chunk * scene.area * 10 * SINGLE if "projective" in flow.kind else 0  # points in three frames, and x y
    if flow.kind == "projective":
        return projected + 2 * result
    motion = pairs * scene.area * 3 * SINGLE if projected else 0
    layers = {"tracking": 5}.get(flow.kind, 2)  # with both sides' and the features to match
    first = FLOW_LEVELS * scene.views * scene.patches * layers * fused * scene.product
    with torch.no_grad():
        some = min(chunk, scene.memory.rows(pairs, scene.patches))
    matches = scene.patches**2 * (scene.product + 2 * SINGLE) if flow.kind == "tracking" else 0
    mlp = scene.patches * 6 * fused * scene.product + matches
    levels = scene.patches * FLOW_LEVELS * fused * scene.stream
    dense = some * (levels + max(mlp, _dpt_bytes(flow, scene))) + _positions_bytes(flow, scene)
    return first + max(dense + (motion or result), motion + projected + 2 * result, 3 * result)


def _dpt_bytes(config: FlowHeadConfig | DenseHeadConfig, scene: _Scene) -> int:
    """Of one map beside its levels: features on four grids and, at full resolution, the neck's output before and after
    its positions are added; or the latter and the head's output; or that, and in fp32."""
    maps = (16 + 4 + 1 + 1) * scene.patches * config.features
    placed = scene.area * config.features * scene.product
    head = scene.area * (config.features // 2 + config.output_channels) * scene.product
    last = scene.area * config.output_channels * (scene.product + SINGLE)
    return maps * scene.product + max(placed, head, last)


def _positions_bytes(config: FlowHeadConfig | DenseHeadConfig, scene: _Scene) -> int:
    return scene.area * config.features // 2 * scene.product
