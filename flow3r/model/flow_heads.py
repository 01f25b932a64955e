"""Fig. 2 of the paper as code: how flow from view i to view j is predicted.

Every head takes the latents (Eq. 2) and the decoded prediction (Eq. 3-4) of all views, and the ordered pairs, and
returns `Flow`. They differ in what of them they read:

    factored                geometry latents of i, camera latents of j (and of i, where geometry is local)     Eq. 6
    tracking                patch features of i and of j, matched to each other
    projective              the decoded points of i and camera of j                                            Eq. 5
    projective+sceneflow    the same, and a predicted motion of the points

Ours: of the factored head there are forms that learn less of j, which show whether its camera latents carry more than a
pose: `target="pose"` reads its decoded camera in their place, `camera_width` lets few of their channels through.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from flow3r.config import FlowHeadConfig
from flow3r.geometry.camera import (
    centred_intrinsics,
    fields_of_view,
    least_squares_focal_from_points,
    pixel_grid,
    project,
)
from flow3r.geometry.flow import pixels_from_ndc
from flow3r.geometry.se3 import invert, transform_maps
from flow3r.nn.dpt import Dpt
from flow3r.nn.memory import WHOLE, Memory
from flow3r.nn.precision import keep_full_precision
from flow3r.types import Flow, Latents, Prediction

UNKNOWN = Prediction()
NEAREST = 0.05  # ours: a projected point lies at least at this share of its view's mean depth before the target camera
FARTHEST = 2.0  # ours: a projected point lies at most so many image sizes from the target image's centre


@dataclass(frozen=True)
class LatentWidths:
    """Channels of a family's latents; `fused`: of a pair's tokens. Global geometry needs no source camera (A.1).

    `pinhole`: the family decodes fields of view, too.
    """

    geometry: int
    camera: int
    fused: int
    source_camera: bool
    pinhole: bool = False


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
    local. View j enters by one vector per level alone, the mean of its camera latents.

    With `config.camera_width` that vector first goes through a linear map to so many channels, and one back to its own
    number, so that the head has about the parameters of one without. All levels share the two.
    """

    def __init__(self, outputs: int, widths: LatentWidths, config: FlowHeadConfig, patch: int):
        cameras = 2 if widths.source_camera else 1
        super().__init__(cameras * widths.camera + widths.geometry, widths.fused, outputs, config, patch)
        self.widths, self.bottleneck = widths, None
        if config.camera_width is not None:
            narrow = nn.Linear(widths.camera, config.camera_width, bias=False)
            self.bottleneck = nn.Sequential(narrow, nn.Linear(config.camera_width, widths.camera, bias=False))

    def predict(
        self, latents: Latents, pairs: Int[Tensor, "B P 2"], memory: Memory, prediction: Prediction = UNKNOWN
    ) -> Float[Tensor, "B P H W c"]:
        """The map of each pair; its first layer's weight acts on [c_i, c_j, g_i] in parts."""
        sources = [self.source_part(g, c) for g, c in zip(latents.geometry, latents.camera, strict=True)]
        targets = self.targets(latents, prediction)

        def decode(i: Tensor, j: Tensor) -> Tensor:
            fused = [self.fuse(s[i] + t[:, None, None]) for s, t in zip(sources, targets(i, j), strict=True)]
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

    def targets(
        self, latents: Latents, prediction: Prediction
    ) -> Callable[[Tensor, Tensor], Sequence[Float[Tensor, "p E"]]]:
        """By flat indices of views i and j: what the first layer makes of j at each level, one vector for each pair."""
        parts = [self.target_part(camera) for camera in latents.camera]
        return lambda i, j: [part[j] for part in parts]

    def target_part(self, camera: Float[Tensor, "B N y x C"]) -> Float[Tensor, "BN E"]:
        """What the first layer makes of the target view: one vector."""
        vector = camera.mean(dim=(2, 3))
        return self.enter(vector if self.bottleneck is None else self.bottleneck(vector)).flatten(0, 1)

    def enter(self, target: Float[Tensor, "*b C"]) -> Float[Tensor, "*b E"]:
        """The first layer's product with what stands for the target view."""
        end = -self.widths.geometry
        return F.linear(target, self.mlp[0].weight[:, end - self.widths.camera : end])


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
        ndc = self.predict(latents, pairs, memory, prediction)
        return Flow(pairs, pixels_from_ndc(ndc) - pixel_grid(*ndc.shape[2:4], ndc.device), covisible=None)


class PoseFactoredFlow(FactoredFlow):
    """Ours: Eq. 6 with the decoded camera of j in place of its camera latents, so that flow can teach no more of it.

    Gradients go through what is decoded. What enters are the nine entries of a rotation, a translation and, where the
    family predicts a pinhole, the fields of view across and down in radians, by an MLP of two layers that makes them as
    wide as the latents; every level gets the same. The motion is world_from_camera of j where geometry is global, as in
    VGGT's family. Where it is local, as in π³'s, no world frame is known to the head but that of i, whose camera
    latents are read as before: there the motion is target_from_source, from the decoded poses of j and of i.
    """

    needs = frozenset({"cameras"})

    def __init__(self, widths: LatentWidths, config: FlowHeadConfig, patch: int):
        super().__init__(widths, config, patch)
        entries, hidden = 9 + 3 + 2 * widths.pinhole, widths.fused // 2
        layers = nn.Linear(entries, hidden), nn.ReLU(), nn.Linear(hidden, widths.camera)
        self.pose_mlp = keep_full_precision(nn.Sequential(*layers))

    def targets(
        self, latents: Latents, prediction: Prediction
    ) -> Callable[[Tensor, Tensor], Sequence[Float[Tensor, "p E"]]]:
        """The same for all levels; the decoded cameras are read in fp32, whatever the ambient precision."""
        poses = prediction.world_from_camera.float().flatten(0, 1)
        height, width = (self.patch * side for side in latents.geometry[0].shape[2:4])

        def parts(i: Tensor, j: Tensor) -> list[Tensor]:
            with torch.autocast(poses.device.type, enabled=False):
                motion = invert(poses[j]) @ poses[i] if self.widths.source_camera else poses[j]
                entries = [motion[:, :3, :3].flatten(1), motion[:, :3, 3]]
                if self.widths.pinhole:
                    entries.append(fields_of_view(prediction.intrinsics.float().flatten(0, 1)[j], height, width))
                vector = self.pose_mlp(torch.cat(entries, dim=-1))
            return [self.enter(vector.to(self.mlp[0].weight.dtype))] * len(latents.geometry)

        return parts


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


def flow_head_class(config: FlowHeadConfig) -> type[FlowHead]:
    """The class of the flow head that `config` describes.

    Raises ValueError for an unknown kind or target, and for a target or a width of camera latents that it cannot have.
    """
    kind, target, width = config.kind, config.target, config.camera_width
    if kind not in FLOW_HEADS:
        raise ValueError(f"flow head {kind!r} is not known; expected one of {', '.join(FLOW_HEADS)}")
    if target not in ("latents", "pose"):
        raise ValueError(f"target {target!r} of a flow head is not known; expected latents or pose")
    if kind != "factored" and (target != "latents" or width is not None):
        raise ValueError(f"target {target!r}, camera_width {width} of a {kind} flow head: only a factored one has them")
    if width is not None and (width < 1 or target == "pose"):
        raise ValueError(f"camera_width {width}, target {target!r}: expected at least 1, of a head that reads latents")
    return PoseFactoredFlow if target == "pose" else FLOW_HEADS[kind]


def make_flow_head(config: FlowHeadConfig, widths: LatentWidths, patch: int) -> FlowHead:
    """The flow head that `config` describes. Raises ValueError where there is none, as `flow_head_class`."""
    return flow_head_class(config)(widths, config, patch)


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
