"""Fig. 2 of the paper as code: how flow from view i to view j is predicted.

Every head takes the latents (Eq. 2) and the decoded prediction (Eq. 3-4) of all views, and the ordered pairs, and
returns `Flow`. They differ in what of them they read:

    factored                geometry latents of i, camera latents of j (and of i, where geometry is local)     Eq. 6
    tracking                patch features of i and of j, matched to each other
    projective              the decoded points of i and camera of j                                            Eq. 5
    projective+sceneflow    the same, and a predicted motion of the points
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import FlowHeadConfig
from flow3r.geometry.camera import centred_intrinsics, least_squares_focal_from_points, pixel_grid, project
from flow3r.geometry.flow import pixels_from_ndc
from flow3r.geometry.se3 import invert, transform_maps
from flow3r.nn.dpt import Dpt
from flow3r.nn.memory import WHOLE, Memory
from flow3r.types import Flow, Latents, Prediction

UNKNOWN = Prediction()
NEAREST = 0.05  # ours: a projected point lies at least at this share of its view's mean depth before the target camera
FARTHEST = 2.0  # ours: a projected point lies at most so many image sizes from the target image's centre


@dataclass(frozen=True)
class LatentWidths:
    """Channels of a family's latents; `fused`: of a pair's tokens. Global geometry needs no source camera (A.1)."""

    geometry: int
    camera: int
    fused: int
    source_camera: bool


class PairDecoder(nn.Module):
    """From four levels of a pair's fused tokens to a dense map: the rest of one MLP, a norm and a DPT.

    The first linear layer acts on a concatenation, hence on every part by itself; subclasses add up what it makes of
    the parts, each computed once per view.
    """

    def __init__(self, inputs: int, fused: int, outputs: int, config: FlowHeadConfig, patch: int):
        super().__init__()
        self.patch, self.pairs_per_chunk = patch, config.pairs_per_chunk
        self.mlp = nn.ModuleList(
            [nn.Linear(inputs, 2 * fused), nn.Linear(2 * fused, 2 * fused), nn.Linear(2 * fused, fused)]
        )
        self.norm = nn.LayerNorm(fused, eps=config.norm_eps)
        self.dpt = Dpt(fused, config.features, config.level_channels, config.output_channels, outputs)

    def fuse(self, x: Float[Tensor, "p h w E"]) -> Float[Tensor, "p D h w"]:
        """What follows the first linear layer, channels first."""
        x = self.mlp[2](F.relu(self.mlp[1](F.relu(x))))
        return self.norm(x).movedim(-1, 1)

    def dense(self, levels: tuple[Float[Tensor, "p D h w"], ...]) -> Float[Tensor, "p H W c"]:
        """The map at the images' resolution."""
        height, width = (self.patch * side for side in levels[0].shape[-2:])
        return self.dpt(levels, (height, width)).movedim(1, -1)

    def in_chunks(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        pairs: Int[Tensor, "B P 2"],
        views: int,
        tokens: int,
        memory: Memory,
    ) -> Tensor:
        """`function(i, j)` of the flat view indices of a few pairs at a time, together as (B, P, ...)."""
        first_view = views * torch.arange(len(pairs), device=pairs.device)[:, None]
        chunk = min(self.pairs_per_chunk, memory.rows(pairs[..., 0].numel(), tokens))
        i, j = ((first_view + pairs[..., side]).flatten().split(chunk) for side in (0, 1))
        chunks = [memory.recomputed(function, *some) for some in zip(i, j, strict=True)]
        return torch.cat(chunks).unflatten(0, pairs.shape[:2])


class FactoredMap(PairDecoder):
    """A dense map of a pair from the geometry latents of i and the camera latents of j, and of i where geometry is
    local. View j enters by one vector per level alone, the mean of its camera latents."""

    def __init__(self, outputs: int, widths: LatentWidths, config: FlowHeadConfig, patch: int):
        cameras = 2 if widths.source_camera else 1
        super().__init__(cameras * widths.camera + widths.geometry, widths.fused, outputs, config, patch)
        self.widths = widths

    def predict(self, latents: Latents, pairs: Int[Tensor, "B P 2"], memory: Memory) -> Float[Tensor, "B P H W c"]:
        """The map of each pair; its first layer's weight acts on [c_i, c_j, g_i] in parts."""
        sources = [self.source_part(g, c) for g, c in zip(latents.geometry, latents.camera, strict=True)]
        targets = [self.target_part(c) for c in latents.camera]

        def decode(i: Tensor, j: Tensor) -> Tensor:
            fused = [self.fuse(s[i] + t[j][:, None, None]) for s, t in zip(sources, targets, strict=True)]
            return self.dense(tuple(fused))

        _, views, *grid, _ = latents.geometry[0].shape
        return self.in_chunks(decode, pairs, views, grid[0] * grid[1], memory)

    def source_part(
        self, geometry: Float[Tensor, "B N h w D"], camera: Float[Tensor, "B N y x C"]
    ) -> Float[Tensor, "BN h w E"]:
        """What the first layer makes of a source view, once per image."""
        weight, bias, width = self.mlp[0].weight, self.mlp[0].bias, self.widths.camera
        part = F.linear(geometry, weight[:, -self.widths.geometry :], bias)
        if self.widths.source_camera:
            part = part + F.linear(camera, weight[:, :width])
        return part.flatten(0, 1)

    def target_part(self, camera: Float[Tensor, "B N y x C"]) -> Float[Tensor, "BN E"]:
        """What the first layer makes of the target view: one vector."""
        end = -self.widths.geometry
        weight = self.mlp[0].weight[:, end - self.widths.camera : end]
        return F.linear(camera.mean(dim=(2, 3)), weight).flatten(0, 1)


class FactoredFlow(FactoredMap):
    """Eq. 6, Fig. 2 (d). The map holds absolute target coordinates in the public checkpoint's NDC, which become
    displacements here."""

    needs: frozenset[str] = frozenset()
    reads_latents = True

    def __init__(self, widths: LatentWidths, config: FlowHeadConfig, patch: int):
        super().__init__(2, widths, config, patch)

    def forward(
        self,
        latents: Latents,
        pairs: Int[Tensor, "B P 2"],
        prediction: Prediction = UNKNOWN,
        intrinsics: Float[Tensor, "B N 3 3"] | None = None,
        memory: Memory = WHOLE,
    ) -> Flow:
        """Flow of the given pairs (source i, target j) at the images' resolution, from the latents alone."""
        ndc = self.predict(latents, pairs, memory)
        return Flow(pairs, pixels_from_ndc(ndc) - pixel_grid(*ndc.shape[2:4], ndc.device), covisible=None)


class TrackingFlow(PairDecoder):
    """Fig. 2 (b): flow by matching patch features, after VGGT's tracker, for every pixel.

    At each level the patches of i look for theirs in j by likeness of one shared feature; what they find of j is fused
    with them and decoded to a correction of the displacement that the deepest level found.
    """

    needs: frozenset[str] = frozenset()
    reads_latents = True

    def __init__(self, widths: LatentWidths, config: FlowHeadConfig, patch: int):
        super().__init__(2 * widths.geometry, widths.fused, 2, config, patch)
        self.feature = nn.Linear(widths.geometry, widths.fused)
        self.feature_norm = nn.LayerNorm(widths.fused, eps=config.norm_eps)

    def forward(
        self,
        latents: Latents,
        pairs: Int[Tensor, "B P 2"],
        prediction: Prediction = UNKNOWN,
        intrinsics: Float[Tensor, "B N 3 3"] | None = None,
        memory: Memory = WHOLE,
    ) -> Flow:
        """Flow of the given pairs (source i, target j) at the images' resolution, from geometry latents of both."""
        geometry, width = [level.flatten(0, 1) for level in latents.geometry], latents.geometry[0].shape[-1]
        weight, bias = self.mlp[0].weight, self.mlp[0].bias
        sources = [F.linear(level, weight[:, width:], bias) for level in geometry]
        targets = [F.linear(level, weight[:, :width]) for level in geometry]
        features = [self.feature_norm(self.feature(level)) for level in geometry]

        def decode(i: Tensor, j: Tensor) -> Tensor:
            levels = []
            for source, target, feature in zip(sources, targets, features, strict=True):
                found, displacement = self.match(feature[i], feature[j], target[j])
                levels.append(self.fuse(source[i] + found))
            correction = self.patch * self.dense(tuple(levels))
            start = F.interpolate(displacement.movedim(-1, 1), correction.shape[1:3], mode="bilinear")
            return start.movedim(1, -1) + correction

        _, views, *grid, _ = latents.geometry[0].shape
        tokens = max(grid[0] * grid[1], (grid[0] * grid[1]) ** 2 // width)  # the matches weigh more on large grids
        return Flow(pairs, self.in_chunks(decode, pairs, views, tokens, memory), covisible=None)

    def match(
        self, source: Float[Tensor, "p h w D"], target: Float[Tensor, "p h w D"], value: Float[Tensor, "p h w E"]
    ) -> tuple[Float[Tensor, "p h w E"], Float[Tensor, "p h w 2"]]:
        """For each patch of i the value that it finds in j, and how many pixels (x, y) away: means by likeness."""
        rows, columns = source.shape[1:3]
        likeness = source.flatten(1, 2) @ target.flatten(1, 2).mT * source.shape[-1] ** -0.5
        weight = likeness.float().softmax(-1)
        centre = (self.patch * pixel_grid(rows, columns, source.device)).flatten(0, 1)
        found = weight.to(value.dtype) @ value.flatten(1, 2)
        return found.unflatten(1, (rows, columns)), (weight @ centre - centre).unflatten(1, (rows, columns))


class ProjectiveFlow(nn.Module):
    """Eq. 5, Fig. 2 (c): flow of static points, computed from the decoded points of i and camera of j.

    The target's pinhole is the given one; else the predicted one; else recovered from its pointmap.
    """

    needs = frozenset({"points", "cameras"})
    reads_latents = False

    def __init__(self, widths: LatentWidths, config: FlowHeadConfig, patch: int):
        super().__init__()
        self.pairs_per_chunk = config.pairs_per_chunk

    def forward(
        self,
        latents: Latents,
        pairs: Int[Tensor, "B P 2"],
        prediction: Prediction = UNKNOWN,
        intrinsics: Float[Tensor, "B N 3 3"] | None = None,
        memory: Memory = WHOLE,
    ) -> Flow:
        """Flow of the given pairs (source i, target j) at the images' resolution, from the decoded geometry alone."""
        return _projected(prediction, pairs, intrinsics, None, self.pairs_per_chunk)


class ProjectiveSceneFlow(nn.Module):
    """Eq. 5 on points that move: the alternative of section 3.2. A factored map predicts what each point of i moves
    by until j, in world units; it starts near zero, as projective flow."""

    needs = frozenset({"points", "cameras"})
    reads_latents = True

    def __init__(self, widths: LatentWidths, config: FlowHeadConfig, patch: int):
        super().__init__()
        self.motion = FactoredMap(3, widths, config, patch)
        nn.init.trunc_normal_(self.motion.dpt.last.weight, std=1e-4)
        nn.init.zeros_(self.motion.dpt.last.bias)

    def forward(
        self,
        latents: Latents,
        pairs: Int[Tensor, "B P 2"],
        prediction: Prediction = UNKNOWN,
        intrinsics: Float[Tensor, "B N 3 3"] | None = None,
        memory: Memory = WHOLE,
    ) -> Flow:
        """Flow of the given pairs (source i, target j) at the images' resolution."""
        motion = self.motion.predict(latents, pairs, memory)
        return _projected(prediction, pairs, intrinsics, motion, self.motion.pairs_per_chunk)


FlowHead = FactoredFlow | TrackingFlow | ProjectiveFlow | ProjectiveSceneFlow

FLOW_HEADS: dict[str, type[FlowHead]] = {
    "factored": FactoredFlow,
    "tracking": TrackingFlow,
    "projective": ProjectiveFlow,
    "projective+sceneflow": ProjectiveSceneFlow,
}


def make_flow_head(config: FlowHeadConfig, widths: LatentWidths, patch: int) -> FlowHead:
    """The flow head of `config.kind`. Raises ValueError for an unknown kind."""
    if config.kind not in FLOW_HEADS:
        raise ValueError(f"flow head {config.kind!r} is not known; expected one of {', '.join(FLOW_HEADS)}")
    return FLOW_HEADS[config.kind](widths, config, patch)


def _projected(
    prediction: Prediction,
    pairs: Int[Tensor, "B P 2"],
    intrinsics: Float[Tensor, "B N 3 3"] | None,
    motion: Float[Tensor, "B P H W 3"] | None,
    pairs_per_chunk: int,
) -> Flow:
    """Eq. 5 in fp32, a few pairs at a time. Points near, behind or far beside the target camera get a bounded flow and
    no wild gradient."""
    with torch.autocast(pairs.device.type, enabled=False):
        local, world = prediction.local_points.float(), prediction.world_points.float()
        if intrinsics is None:
            intrinsics = prediction.intrinsics
        if intrinsics is None:
            intrinsics = centred_intrinsics(least_squares_focal_from_points(local), *local.shape[2:4])
        camera_from_world = invert(prediction.world_from_camera.float())
        # Projection does not know scale: at a mean depth of 1 one near plane fits all.
        unit = local[..., 2].detach().mean((-2, -1)).clamp_min(1e-6)[..., None, None, None]
        scene = torch.arange(len(pairs), device=pairs.device)[:, None]
        grid = pixel_grid(*local.shape[2:4], local.device)
        size = grid.new_tensor([local.shape[3], local.shape[2]])
        low, high = (0.5 - FARTHEST) * size, (0.5 + FARTHEST) * size
        chunks = []
        for start in range(0, max(1, pairs.shape[1]), pairs_per_chunk):  # once where there are no pairs
            some = slice(start, start + pairs_per_chunk)
            i, j = pairs[:, some].unbind(-1)
            points = world[scene, i] if motion is None else world[scene, i] + motion[:, some]
            in_target = transform_maps(camera_from_world[scene, j], points) / unit[scene, i]
            pixels = project(in_target, intrinsics.float()[scene, j], NEAREST)
            chunks.append(pixels.clamp(low, high) - grid)
    return Flow(pairs, torch.cat(chunks, dim=1), covisible=None)
