"""What a training step costs, from sizes alone: operations, what is kept for the backward pass, what lives throughout.

Where gradients pass, every product of the forward pass (model/cost.py) has two of its size in the backward pass, and
one more if it is run again there.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from flow3r.config import DenseHeadConfig, FlowHeadConfig, MatcherConfig, ModelConfig, TrainConfig, VggtConfig
from flow3r.model.checkpoints import MODEL_OF
from flow3r.model.cost import (
    SINGLE,
    Sizes,
    block_flops,
    dpt_flops,
    encoder_flops,
    flow_flops,
    forward_flops,
    latent_widths,
    linear_flops,
    multiview_flops,
    specials,
)
from flow3r.model.flow3r import FLOW_LEVELS
from flow3r.model.flow_heads import flow_head_class
from flow3r.model.inputs import OUTPUTS
from flow3r.train.learner import supervised

# Parts in the order of the forward pass, by the start of their parameters' names; "" is all that is none of the others.
PARTS = ("encoder.", "multiview.", "", "flow_head.")
# Numbers a pixel that predictions and losses keep; ours, measured as tests/train/test_train_forecast.py does.
PI3_MAPS, VGGT_MAPS = 100, 45  # points, depth, confidence, normals
FROZEN_MAPS = 25  # the same without gradients
FLOW_MAPS = 10  # a pixel of a pair


@dataclass(frozen=True)
class Shape:
    """A batch of one process: `scenes` of `views` images on a grid of patches, labelled or not."""

    scenes: int
    views: int
    rows: int
    columns: int
    labelled: bool = True

    @property
    def images(self) -> int:
        return self.scenes * self.views

    @property
    def patches(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class _Asked:
    """What a batch asks of the model: the outputs that its labels supervise, those that the flow needs, and pairs."""

    outputs: frozenset[str]
    pairs: int  # in a scene
    latents: bool


def step_flops(config: TrainConfig, shape: Shape) -> int:
    """Operations of a forward and a backward pass on one batch, with what is run again."""
    model, asked, passes = config.model, _asked(config, shape), gradients_pass(config)
    grid, size = (shape.rows, shape.columns), _size(model, shape)
    parts = {
        "encoder.": shape.views * encoder_flops(model.encoder, grid),
        "multiview.": multiview_flops(model.multiview, model.encoder.width, shape.views, shape.patches),
        "flow_head.": _flow(model, asked.pairs, shape, grid, size) if asked.pairs else 0,
    }
    total = forward_flops(model, shape.views, *size, asked.pairs, asked.outputs)
    parts[""] = total - sum(parts.values())
    blocks, unread = _branch_flops(model, asked, shape)
    once = shape.views * shape.patches * linear_flops(3 * model.encoder.patch**2, model.encoder.width)
    everything = {
        "encoder.": parts["encoder."] - once,
        "multiview.": parts["multiview."],
        "": blocks,
        "flow_head.": parts["flow_head."] - _flow(model, 0, shape, grid, size) if asked.latents else 0,
    }
    convolutions = {"flow_head.": asked.pairs * _decoder_flops(model, asked, grid, size)}
    again = {"nothing": {}, "selective": convolutions, "everything": everything}[config.recompute]
    parts[""] -= unread
    backward = sum(2 * parts[part] + again.get(part, 0) for part in PARTS if passes[part])
    return shape.scenes * (total + backward)


@lru_cache(maxsize=64)
def parameter_counts(model: Sizes, trainable: tuple[str, ...]) -> tuple[int, int, tuple[str, ...]]:
    """All parameters, those whose names begin with one of `trainable`, and the parts that have some of these."""
    with torch.device("meta"):
        named = {name: parameter.numel() for name, parameter in MODEL_OF[type(model)](model).named_parameters()}
    trained = {name: count for name, count in named.items() if name.startswith(trainable)}
    return sum(named.values()), sum(trained.values()), tuple({_part_of(name) for name in trained})


def gradients_pass(config: TrainConfig) -> dict[str, bool]:
    """Whether each part of the model has something trainable in it or before it."""
    trained = parameter_counts(config.model, config.trainable)[2]
    return {part: any(before in trained for before in PARTS[: index + 1]) for index, part in enumerate(PARTS)}


def state_bytes(config: TrainConfig) -> dict[str, int]:
    """What one process holds from step to step, in fp32: weights, gradients, AdamW's two moments, averaged weights.

    All but the weights are of what is trained. Sharded, each process holds its part of all of them.
    """
    every, trained, _ = parameter_counts(config.model, config.trainable)
    held = {
        "weights": every,
        "gradients": trained,
        "moments": 2 * trained,
        "averaged weights": trained * (config.ema > 0),
    }
    ranks = config.devices if config.parallel == "shard" else 1
    return {name: -(-SINGLE * count // ranks) for name, count in held.items() if count}


def saved_bytes(config: TrainConfig, shape: Shape, dtype: torch.dtype) -> int:
    """What the forward pass on one batch keeps for the backward pass, and at most makes again at once in that.

    `dtype` is what products are taken in. Beside it stand autocast's copies of the weights, where it is not fp32.
    """
    asked, passes = _asked(config, shape), gradients_pass(config)
    kept = _Kept(config.model, config.recompute, dtype.itemsize, shape, asked)
    parts = {"encoder.": kept.encoder(), "multiview.": kept.trunk(), "": kept.heads(), "flow_head.": kept.flow()}
    again = {"encoder.": kept.encoder_block(), "multiview.": kept.trunk_block(), "flow_head.": kept.pair_chunk()}
    largest = max((again[part] for part in again if passes[part]), default=0)
    saved = sum(parts[part] for part in PARTS if passes[part])
    briefly = max(largest if config.recompute != "nothing" else 0, 0 if passes[""] else kept.maps(FROZEN_MAPS))
    return saved + briefly + (0 if passes["encoder."] else kept.latents())


def copies_bytes(config: TrainConfig, dtype: torch.dtype) -> int:
    """Autocast's copies of the weights in `dtype`."""
    return 0 if dtype.itemsize == SINGLE else dtype.itemsize * parameter_counts(config.model, config.trainable)[0]


@dataclass(frozen=True)
class _Kept:
    """Bytes that autograd keeps of each part, `product` to a number in a product and four in what blocks pass on."""

    model: Sizes
    recompute: str
    product: int
    shape: Shape
    asked: _Asked

    def block(self, width: int, ratio: int, *, scaled: bool, turned: bool, normed: bool, whole: bool = False) -> int:
        """Of a block, for each token: inputs of norms, products, attention and activations. `scaled`: both LayerScales'
        inputs; `turned`: queries and keys apart from values; `normed`: those that are normalised, in fp32."""
        if self.recompute == "everything" and not whole:
            return width * SINGLE
        if self.recompute == "selective" and not whole:  # its input, and what products and attention made
            return width * (SINGLE + (6 + ratio) * self.product)
        numbers = 6 + 2 * ratio + 2 * scaled + 2 * turned
        return width * (2 * SINGLE + numbers * self.product + (2 * SINGLE if normed and self.product < SINGLE else 0))

    def encoder_block(self, whole: bool = True) -> int:
        encoder = self.model.encoder
        tokens = self.shape.images * (self.shape.patches + 1 + encoder.registers)
        block = self.block(encoder.width, encoder.mlp_ratio, scaled=True, turned=False, normed=False, whole=whole)
        return tokens * block

    def encoder(self) -> int:
        """Its blocks and the input of the last norm."""
        encoder = self.model.encoder
        last = self.shape.images * (self.shape.patches + 1 + encoder.registers) * encoder.width * SINGLE
        return encoder.depth * self.encoder_block(whole=False) + last

    @property
    def tokens(self) -> int:
        return self.shape.images * (self.shape.patches + specials(self.model.multiview))

    def trunk_block(self, whole: bool = True) -> int:
        trunk = self.model.multiview
        block = self.block(trunk.width, trunk.mlp_ratio, scaled=True, turned=True, normed=True, whole=whole)
        return self.tokens * block

    def trunk(self) -> int:
        """Its blocks and the tokens that heads read; a branch of π³'s family keeps them in its own precision."""
        trunk = self.model.multiview
        if isinstance(self.model, VggtConfig):
            copies = len(self.model.levels) * SINGLE
        else:
            copies = SINGLE if self.product == SINGLE else len(self.branches()) * self.product
        return trunk.depth * self.trunk_block(whole=False) + self.tokens * 2 * trunk.width * copies

    def branches(self) -> list[str]:
        wanted = {name for name in OUTPUTS if name in self.asked.outputs}
        return sorted(wanted | ({"points", "cameras"} if self.asked.latents else set()))

    def heads(self) -> int:
        """Branches and heads, and the maps that labels are compared with."""
        if isinstance(self.model, MatcherConfig):
            return 0
        images, patches = self.shape.images, self.shape.images * self.shape.patches
        maps = self.maps(PI3_MAPS if isinstance(self.model, ModelConfig) else VGGT_MAPS)
        if not isinstance(self.model, ModelConfig):
            width, dense, camera = 2 * self.model.multiview.width, self.model.dense, self.model.camera
            heads = sum(name in self.asked.outputs for name in ("confidence", "points"))
            heads -= self.model.world_points == "depth" and heads == 2
            normed = len(self.model.levels) * width * self.product * patches
            cameras = camera.iterations * camera.depth * images * width * (8 + 2 * camera.mlp_ratio + 2) * SINGLE
            return maps + cameras + heads * (normed + images * self.dpt(dense))
        branch = self.model.branch
        block = self.block(branch.width, branch.mlp_ratio, scaled=False, turned=True, normed=False)
        out = {"cameras": branch.camera_width * 8 * SINGLE}  # two residual MLPs
        total = maps
        for name in self.branches():
            head = out.get(name, branch.width * SINGLE) if name in self.asked.outputs else 0
            total += self.tokens * branch.depth * block + patches * (branch.width * self.product + head)
        return total

    def maps(self, numbers: int) -> int:
        """So many numbers to a pixel, where points are predicted."""
        pixels = self.shape.images * self.shape.patches * self.model.encoder.patch**2
        return numbers * SINGLE * pixels if "points" in self.asked.outputs else 0

    def latents(self) -> int:
        """What a flow head on a frozen trunk reads, which lives as long as it may be run again."""
        return self.shape.images * self.shape.patches * FLOW_LEVELS * self.sides() * SINGLE if self.asked.latents else 0

    def sides(self) -> int:
        """Channels of a level's latents that the first layer of the flow head reads in every view."""
        widths = latent_widths(self.model)
        return widths.geometry + widths.camera * widths.source_camera

    def flow(self) -> int:
        """The first layer's input and output in every view, and of the pairs what is not run again."""
        flow = self.model.flow
        if not self.asked.pairs:
            return 0
        pairs, pixels = self.shape.scenes * self.asked.pairs, self.shape.patches * self.model.encoder.patch**2
        maps = FLOW_MAPS * SINGLE * pairs * pixels
        if not self.asked.latents:
            return maps
        fused, patches = latent_widths(self.model).fused, self.shape.images * self.shape.patches
        again = self.recompute != "nothing"
        first = self.sides() + (6 * fused if flow.kind == "tracking" else 0)
        views = FLOW_LEVELS * patches * (first + 2 * fused * again) * self.product
        if self.recompute == "everything":
            return maps + views
        if self.recompute == "selective":  # the outputs of the MLP's products, and the scores that match
            matched = self.shape.patches * self.product if flow.kind == "tracking" else 0
            tokens = pairs * self.shape.patches * FLOW_LEVELS
            return maps + views + tokens * (3 * fused * self.product + matched)
        return maps + views + pairs * self.pair()

    def pair_chunk(self) -> int:
        """Of as many pairs as are decoded at once."""
        if not (self.asked.pairs and self.asked.latents):
            return 0
        return min(self.model.flow.pairs_per_chunk, self.shape.scenes * self.asked.pairs) * self.pair()

    def pair(self) -> int:
        """Of one pair: the MLP on each level, a norm, and the DPT; of a tracking head the matches, too."""
        fused, cast = latent_widths(self.model).fused, SINGLE if self.product < SINGLE else self.product
        level = fused * (5 * self.product + cast)
        if self.model.flow.kind == "tracking":
            level += 3 * fused * self.product + self.shape.patches * (SINGLE + self.product)
        return FLOW_LEVELS * self.shape.patches * level + self.dpt(self.model.flow)

    def dpt(self, config: FlowHeadConfig | DenseHeadConfig) -> int:
        """Of a DPT on one map, beside its levels: the inputs of its convolutions, and what ReLU made."""
        patches, pixels = self.shape.patches, self.shape.patches * self.model.encoder.patch**2
        deepest = -(-self.shape.rows // 2) * -(-self.shape.columns // 2)
        c0, c1, c2, c3 = config.level_channels
        f, hidden = config.features, config.output_channels
        resized = patches * (c0 + c1 + c3) + patches * (16 * c0 + 4 * c1 + c2) + deepest * c3
        fused = f * (5 * (16 + 4 + 1) * patches + 3 * deepest) + 64 * patches * f
        head = pixels * (f // 2 + hidden)
        return (resized + fused + head) * self.product + (pixels * hidden * SINGLE if self.product < SINGLE else 0)


def _asked(config: TrainConfig, shape: Shape) -> _Asked:
    if isinstance(config.model, MatcherConfig):  # its readout is next to nothing beside the trunk
        return _Asked(frozenset(), 0, False)
    needs = supervised(config, depth=shape.labelled, poses=shape.labelled, flow=True)
    if not needs.flow:
        return _Asked(needs.outputs, 0, False)
    head = flow_head_class(config.model.flow)
    pairs = min(config.data.pairs_per_scene, shape.views * (shape.views - 1))
    return _Asked(needs.outputs | head.needs, pairs, head.reads_latents)


def _size(model: Sizes, shape: Shape) -> tuple[int, int]:
    return model.encoder.patch * shape.rows, model.encoder.patch * shape.columns


def _flow(model: Sizes, pairs: int, shape: Shape, grid: tuple[int, int], size: tuple[int, int]) -> int:
    return flow_flops(model.flow, latent_widths(model), shape.views, pairs, grid, size)


def _decoder_flops(model: Sizes, asked: _Asked, grid: tuple[int, int], size: tuple[int, int]) -> int:
    if not asked.latents:
        return 0
    outputs = 3 if model.flow.kind == "projective+sceneflow" else 2
    return dpt_flops(latent_widths(model).fused, model.flow, outputs, grid, size)


def _branch_flops(model: Sizes, asked: _Asked, shape: Shape) -> tuple[int, int]:
    """Of the blocks of branches that gradients pass, and of what of the heads is run though no loss reads it."""
    if not (asked.outputs or asked.latents):
        return 0, 0
    if isinstance(model, VggtConfig):
        unsupervised = not shape.labelled and "points" in asked.outputs and model.world_points == "head"
        grid = (shape.rows, shape.columns)
        depth = dpt_flops(2 * model.multiview.width, model.dense, 2, grid, _size(model, shape))
        return 0, shape.views * depth * unsupervised
    branch, tokens = model.branch, shape.patches + specials(model.multiview)
    blocks = shape.views * branch.depth * block_flops(tokens, branch.width, branch.mlp_ratio)
    first = shape.views * tokens * linear_flops(2 * model.multiview.width, branch.width)
    # A tracking head reads geometry alone, of two latents.
    unread = asked.latents and not asked.outputs and model.flow.kind == "tracking"
    read = len(set(asked.outputs) | ({"points", "cameras"} if asked.latents else set())) - unread
    return read * blocks, unread * (first + blocks)


def _part_of(name: str) -> str:
    return next((part for part in PARTS if part and name.startswith(part)), "")
