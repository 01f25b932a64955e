"""A world that answers where any point of a frame is seen in another: the truth behind the fake networks."""

import torch
from torch import Tensor
from torch.nn import functional as F

from flow3r.config import WorldsConfig
from flow3r.data.furnish import draw_scenes
from flow3r.data.raycast import cast
from flow3r.data.scenes import follow, sight
from flow3r.data.worlds import render_worlds
from flow3r.geometry.camera import pixel_grid

CONFIG = WorldsConfig(rotation_degrees=(6.0, 20.0))


class ExactWorld:
    """The frames of one world, and flow between them on any grid that is stretched over them."""

    def __init__(self, seed: int, views: int, size: tuple[int, int]):
        pairs = torch.tensor([[[i, j] for i in range(views) for j in range(views) if i != j]])
        self.size, self.pairs = size, pairs[0]
        self.views = render_worlds([seed], views, size, pairs=pairs, config=CONFIG).views
        self.scenes = draw_scenes([seed], views, size, CONFIG, 1.0)
        self._known: dict[tuple, tuple[Tensor, Tensor]] = {}

    @property
    def images(self) -> Tensor:
        return self.views.images[0]

    def follow(self, i: int, j: int, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points (n, 2) of frame i in frame j, in pixels with half-integer centres, and whether they are seen there."""
        lens = self.scenes.intrinsics[0]
        rays = torch.cat([(points - lens[:2, 2]) / lens[[0, 1], [0, 1]], torch.ones(len(points), 1)], dim=-1).T[None]
        scene, source, target = torch.tensor([0]), torch.tensor([i]), torch.tensor([j])
        hits = cast(sight(self.scenes, scene, source), rays)
        towards, z, seen = follow(self.scenes, scene, source, target, rays, hits.depth, hits.solid)
        there = towards[0, :2].T * lens[[0, 1], [0, 1]] + lens[:2, 2]
        known = hits.depth[0].isfinite() & (z[0] > 0)
        return torch.where(known[:, None], there, points), seen[0]

    def flow(self, i: int, j: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Displacement (h, w, 2) in pixels of a grid of `size`, and what is covisible (h, w)."""
        if (i, j, *size) not in self._known:
            scale = torch.tensor([size[1] / self.size[1], size[0] / self.size[0]])
            grid = pixel_grid(*size)
            there, seen = self.follow(i, j, (grid / scale).flatten(0, 1))
            self._known[i, j, *size] = there.view(*size, 2) * scale - grid, seen.view(size).float()
        return self._known[i, j, *size]

    def recognise(self, images: Tensor) -> list[int]:
        """Which frames these are, RGB in [0, 1] at any size; wrong colours, ranges or channels are not recognised."""
        assert images.shape[1] == 3 and images.min() > -0.01 and images.max() < 1.01
        small, known = (F.interpolate(x, (12, 12), mode="bilinear", antialias=True) for x in (images, self.images))
        distance = (small[:, None] - known[None]).abs().mean((2, 3, 4))
        nearest, frame = distance.min(1)
        assert nearest.max() < 0.01, f"no frame of the world looks like this: {nearest.tolist()}"
        return frame.tolist()

    def flows(self, sources: Tensor, targets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Displacement (b, h, w, 2) and covisibility (b, h, w) between images, which are recognised."""
        pairs = zip(self.recognise(sources), self.recognise(targets), strict=True)
        displacement, seen = zip(*(self.flow(i, j, size) for i, j in pairs))
        return torch.stack(displacement), torch.stack(seen)
