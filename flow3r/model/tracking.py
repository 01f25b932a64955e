"""VGGT's track head: points of the first view followed through all views, by features that the views are matched in."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import TrackHeadConfig
from flow3r.nn.attention import Attention
from flow3r.nn.block import Mlp
from flow3r.nn.dpt import DPT_TOKENS, DptFeatures
from flow3r.nn.memory import WHOLE, Memory
from flow3r.nn.precision import keep_full_precision
from flow3r.types import Tracks

# VGGT's constants of the tracker's input
DISPLACEMENT_SCALE = 518.0  # its image side
HIGHEST_FREQUENCY = 1000.0  # of displacements, in radians per feature pixel: reached but for one step
POSITION_BASE = 10000.0  # of the wavelengths of positions


class TrackHead(nn.Module):
    """Features of every view at 1 / `stride` of its size, then the tracker on them."""

    def __init__(self, width: int, config: TrackHeadConfig):
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.dpt = DptFeatures(width, config.features, config.level_channels, config.features, positions=False)
        self.tracker = keep_full_precision(Tracker(config))

    def forward(
        self,
        levels: tuple[Float[Tensor, "B N h w D"], ...],
        queries: Tensor,
        size: tuple[int, int],
        memory: Memory = WHOLE,
    ) -> Tracks:
        """Tracks of the queries (B n 2), pixels (x, y) in view 0, from four levels of patch tokens, shallow to deep, of
        images of `size` (H, W). The tracker is in fp32, whatever the ambient precision.

        Raises ValueError for images too small for the levels of correlation, and for queries that are not (B n 2) or
        lie outside the image.
        """
        self.check(levels, queries, size)
        stride = self.config.stride
        maps = self.features(levels, size, memory)
        with torch.autocast(maps.device.type, enabled=False):
            # The public model counts pixel centres at integers.
            found, visible, confidence = self.tracker(maps.float(), (queries.float() - 0.5) / stride)
        pixels = found[-1] * stride + 0.5
        return Tracks(pixels.transpose(1, 2), visible.transpose(1, 2), confidence.transpose(1, 2))

    def features(
        self, levels: tuple[Float[Tensor, "B N h w D"], ...], size: tuple[int, int], memory: Memory = WHOLE
    ) -> Float[Tensor, "B N c H W"]:
        """What the views are matched in, in the ambient precision."""
        wanted = (size[0] // self.config.stride, size[1] // self.config.stride)
        maps = memory.by_rows(
            lambda *rows: self.dpt(tuple(self.norm(row).movedim(-1, 1) for row in rows), wanted),
            *(level.flatten(0, 1) for level in levels),
            tokens_of_row=DPT_TOKENS * levels[0].shape[2] * levels[0].shape[3],
        )
        return maps.unflatten(0, levels[0].shape[:2])

    def check(self, levels: tuple[Tensor, ...], queries: Tensor, size: tuple[int, int]) -> None:
        """Refuse what cannot be tracked."""
        scenes, least = levels[0].shape[0], self.config.stride * 2 ** (self.config.corr_levels - 1)
        if min(size) < least:
            raise ValueError(
                f"images are {size[0]}x{size[1]}; {self.config.corr_levels} levels of correlation need both sides to "
                f"be at least {least}"
            )
        if queries.ndim != 3 or queries.shape[0] != scenes or queries.shape[2] != 2 or not queries.is_floating_point():
            raise ValueError(
                f"queries are {queries.dtype} of shape {tuple(queries.shape)}, expected floats ({scenes}, n, 2): "
                "pixels (x, y) of the first view of each scene"
            )
        if queries.device != levels[0].device:
            raise ValueError(f"queries are on {queries.device} and the images on {levels[0].device}: move one of them")
        if not queries.shape[1]:
            raise ValueError("there are no queries; give at least one pixel of the first view")
        # Values are read on a CPU alone, where that is no wait.
        at_hand = queries.device.type == "cpu"
        if at_hand and not ((queries >= 0) & (queries <= queries.new_tensor(size[::-1]))).all():  # NaN fails too
            low, high = queries.amin().item(), queries.amax().item()
            raise ValueError(
                f"queries reach from {low:.1f} to {high:.1f}; expected pixels "
                f"(x, y) within [0, {size[1]}] x [0, {size[0]}]"
            )


class Tracker(nn.Module):
    """Places of all tracks in all views, refined together: read how well each track's feature correlates around its
    place, let tracks and views exchange what they know, move places and features, and again.

    Places are in pixels of the feature maps, centres at integers. The places of view 0 are given and stay.
    """

    def __init__(self, config: TrackHeadConfig):
        super().__init__()
        if config.features % 4:
            raise ValueError(f"{config.features} features; displacements and positions need a multiple of 4")
        self.levels, self.radius, self.iterations = config.corr_levels, config.corr_radius, config.iterations
        features, window = config.features, (2 * config.corr_radius + 1) ** 2
        width = 3 * features + 4
        self.reference_tokens = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 2, width)))  # view 0, any other
        self.map_norm = nn.LayerNorm(features)
        self.correlation = nn.Sequential(
            nn.Linear(config.corr_levels * window, config.hidden), nn.GELU(), nn.Linear(config.hidden, features)
        )
        self.updater = Updater(width, features + 2, config)
        self.feature_norm = nn.LayerNorm(features)
        self.feature_update = nn.Linear(features, features)
        self.visible = nn.Linear(features, 1)
        self.confidence = nn.Linear(features, 1)

    def forward(
        self, maps: Float[Tensor, "B N c h w"], queries: Float[Tensor, "B n 2"]
    ) -> tuple[tuple[Float[Tensor, "B n N 2"], ...], Float[Tensor, "B n N"], Float[Tensor, "B n N"]]:
        """The places after each iteration; the visibility and the confidence, in [0, 1], after the last."""
        views, size = maps.shape[1], maps.shape[-2:]
        maps = self.map_norm(maps.movedim(2, -1)).movedim(-1, 2)
        pyramid = [maps.flatten(0, 1)]
        for _ in range(self.levels - 1):
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        features = sample(maps[:, 0], queries[:, :, None], "border").movedim(1, -1).expand(-1, -1, views, -1)
        reference = torch.cat([self.reference_tokens[:, :1], self.reference_tokens[:, 1:].expand(-1, views - 1, -1)], 1)
        context = embed_positions(queries, self.reference_tokens.shape[-1], size)[:, :, None] + reference[:, None]
        start = queries[:, :, None]
        places, found = start.expand(-1, -1, views, -1), []
        for _ in range(self.iterations):
            places = places.detach()
            moved = places - start
            scores = self.correlation(correlate(features, pyramid, places, self.radius))
            scaled = moved / DISPLACEMENT_SCALE
            known = torch.cat(
                [embed_displacements(moved, features.shape[-1]), scaled, scaled, scores, features], dim=-1
            )
            step, change = self.updater(known + context).tensor_split([2], dim=-1)
            features = features + F.gelu(self.feature_update(self.feature_norm(change)))
            places = torch.cat([start, (places + step)[:, :, 1:]], dim=2)
            found.append(places)
        visible, confidence = (head(features)[..., 0].sigmoid() for head in (self.visible, self.confidence))
        return tuple(found), visible, confidence


class Updater(nn.Module):
    """Each track attends over its views; then, within each view, virtual tracks read from all tracks, attend to each
    other, and are read by all tracks, at a cost that is linear in the number of tracks."""

    def __init__(self, width: int, outputs: int, config: TrackHeadConfig):
        super().__init__()
        hidden = config.hidden

        def blocks(cross: bool) -> nn.ModuleList:
            return nn.ModuleList(TrackBlock(hidden, config.heads, cross) for _ in range(config.depth))

        self.norm_in, self.project_in = nn.LayerNorm(width), nn.Linear(width, hidden)
        self.virtual_tracks = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, config.virtual_tracks, 1, hidden)))
        self.time_blocks, self.virtual_blocks = blocks(cross=False), blocks(cross=False)
        self.reading_blocks, self.telling_blocks = blocks(cross=True), blocks(cross=True)
        self.norm_out, self.project_out = nn.LayerNorm(hidden), nn.Linear(hidden, outputs)
        nn.init.trunc_normal_(self.project_out.weight, std=1e-3)  # ours: tracks start near where they are
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x: Float[Tensor, "B n N D"]) -> Float[Tensor, "B n N E"]:
        """How to move each track in each view, and its feature."""
        scenes, tracks, views, _ = x.shape
        first = self.project_in(self.norm_in(x))
        tokens = torch.cat([first, self.virtual_tracks.expand(scenes, -1, views, -1)], dim=1)
        stages = zip(self.time_blocks, self.reading_blocks, self.virtual_blocks, self.telling_blocks, strict=True)
        for over_time, read, exchange, tell in stages:
            tokens = over_time(tokens.flatten(0, 1)).unflatten(0, (scenes, -1))
            points, virtual = tokens.transpose(1, 2).flatten(0, 1).tensor_split([tracks], dim=1)
            virtual = exchange(read(virtual, points))
            points = tell(points, virtual)
            tokens = torch.cat([points, virtual], dim=1).unflatten(0, (scenes, views)).transpose(1, 2)
        return self.project_out(self.norm_out(tokens[:, :tracks] + first))


class TrackBlock(nn.Module):
    """x = norm1(x); x += attention(x); x += mlp(norm2 x): in the public model the residual starts behind the norm.

    `cross`: attention is to the normalised context in place of x.
    """

    def __init__(self, width: int, heads: int, cross: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width) if cross else None
        self.attention = CrossAttention(width, heads) if cross else Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Float[Tensor, "B t D"], context: Float[Tensor, "B s D"] | None = None) -> Tensor:
        x = self.norm1(x)
        x = x + (self.attention(x, self.norm_context(context)) if self.norm_context else self.attention(x))
        return x + self.mlp(self.norm2(x))


class CrossAttention(Attention):
    """Attention of one set of tokens to another, by the same weights."""

    def forward(self, x: Float[Tensor, "B t D"], context: Float[Tensor, "B s D"]) -> Float[Tensor, "B t D"]:
        width = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(x, weight[:width], bias[:width])
        k, v = F.linear(context, weight[width:], bias[width:]).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def sample(maps: Float[Tensor, "b c h w"], places: Float[Tensor, "b n k 2"], beyond: str) -> Float[Tensor, "b c n k"]:
    """The maps at places (x, y), pixel centres at integers; beyond them `zeros` or the nearest `border` value.

    A map one pixel wide has that pixel everywhere, as in the public model.
    """
    height, width = maps.shape[-2:]
    last = places.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    return F.grid_sample(maps, 2 * places / last - 1, padding_mode=beyond, align_corners=True)


def correlate(
    features: Float[Tensor, "B n N c"], pyramid: list[Tensor], places: Float[Tensor, "B n N 2"], radius: int
) -> Float[Tensor, "B n N k"]:
    """Scaled products of each track's feature with those in a window around its place, on all levels of its view's
    pyramid, each (B·N c h w) and half as large as the one before.

    Within a window x is the slow axis: the public model takes rows for columns.
    """
    vectors, centres = (t.transpose(1, 2).flatten(0, 1) for t in (features, places))
    offsets = torch.arange(-radius, radius + 1, device=places.device, dtype=places.dtype)
    window = torch.cartesian_prod(offsets, offsets)
    scores = []
    for level, maps in enumerate(pyramid):
        seen = sample(maps, centres[:, :, None] / 2**level + window, "zeros")
        scores.append(torch.einsum("bnc,bcnk->bnk", vectors, seen) / vectors.shape[-1] ** 0.5)
    return torch.cat(scores, dim=-1).unflatten(0, (len(features), -1)).transpose(1, 2)


def embed_displacements(moved: Float[Tensor, "*b 2"], width: int) -> Float[Tensor, "*b w"]:
    """Sine and cosine, one beside the other, at width / 4 evenly spaced frequencies, of x and then of y."""
    steps = torch.arange(0, width // 2, 2, device=moved.device, dtype=moved.dtype)
    angle = moved[..., None] * (steps * (HIGHEST_FREQUENCY / (width // 2)))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)


def embed_positions(places: Float[Tensor, "B n 2"], width: int, size: tuple[int, int]) -> Float[Tensor, "B n w"]:
    """Sines, then cosines, at width / 4 frequencies, of x and then of y, interpolated between whole pixels."""
    frequency = POSITION_BASE ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    parts = []
    for axis, length in enumerate((size[1], size[0])):
        angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency
        table = torch.cat([angle.sin(), angle.cos()], dim=-1).to(places.device, places.dtype)
        at = places[..., axis].clamp(0, length - 1)
        low = at.floor().long()
        parts.append(torch.lerp(table[low], table[(low + 1).clamp(max=length - 1)], (at - low)[..., None]))
    return torch.cat(parts, dim=-1)
