"""What runs of the controlled experiments draw from: sequences of a set of worlds, with all labels or with flow alone.

Unlabelled flow is exact, or flawed by a known amount; a teacher's comes from a store (data/regime_labels.py). Flaws
belong to a pair of frames, as a teacher's do: whoever draws it again meets the same.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from flow3r.data.mixture import Source, Wanted, draw_pairs
from flow3r.data.regimes import FRAMES, SIDE, WorldSet
from flow3r.errors import InputError
from flow3r.geometry.camera import inside_image, pixel_grid
from flow3r.types import Flow, Views

_GRAIN = 8  # pixels: errors of flow are smooth over such distances, since white noise would average out


@dataclass(frozen=True)
class Flaws:
    """What is wrong with flow labels that were exact.

    `noise`: standard deviation in pixels of a smooth Gaussian error of each component. `wrong`: share of pairs whose
    flow and covisibility are those of the mirrored images: a motion as large and as smooth, both ways alike.
    Raises InputError for a negative noise, or a share outside [0, 1].
    """

    noise: float = 0.0
    wrong: float = 0.0

    def __post_init__(self) -> None:
        if not (self.noise >= 0 and 0 <= self.wrong <= 1):
            raise InputError(f"noise of {self.noise} px, a share {self.wrong} wrong; expected >= 0 and in [0, 1]")

    def applied(
        self, displacement: Float[Tensor, "H W 2"], covisible: Float[Tensor, "H W"], pair: str, either_way: str
    ) -> tuple[Float[Tensor, "H W 2"], Float[Tensor, "H W"]]:
        """Flow and covisibility of a pair with the flaws that belong to its name, and to its name `either_way`.

        What then ends outside the image is no longer covisible.
        """
        if self.wrong and _place(either_way) < self.wrong:
            displacement = displacement.flip(1) * displacement.new_tensor([-1.0, 1.0])
            covisible = covisible.flip(1)
        if self.noise:
            height, width = covisible.shape
            generator = torch.Generator().manual_seed(_hash(pair) >> 1)
            nodes = torch.randn(2, height // _GRAIN + 2, width // _GRAIN + 2, generator=generator)
            field = _between(height) @ nodes @ _between(width).T
            displacement = displacement + self.noise * field.movedim(0, -1).to(displacement)
            ends = pixel_grid(height, width, device=displacement.device) + displacement
            covisible = covisible * inside_image(ends, height, width)
        return displacement, covisible


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _place(name: str) -> float:
    """Uniform in [0, 1)."""
    return _hash(name) / 2**64


def _between(pixels: int) -> Float[Tensor, "p n"]:
    """Linear interpolation between nodes _GRAIN pixels apart, scaled to keep the variance of independent nodes."""
    place = (torch.arange(pixels) + 0.5) / _GRAIN
    weights = (1 - (place[:, None] - torch.arange(pixels // _GRAIN + 2)).abs()).clamp_min(0)
    return weights / weights.norm(dim=1, keepdim=True)


class LabelledSequences(Source):
    """Scenes of a set with exact depth, poses, intrinsics and flow, rendered on `device` as they are drawn.

    The worlds are equally likely, and so are their frames, which are drawn without repetition and in order.
    """

    def __init__(self, worlds: WorldSet, device: torch.device | str = "cpu"):
        self.worlds, self.device = worlds, torch.device(device)
        self._counts: Counter[str] = Counter()

    @property
    def in_process(self) -> bool:
        return self.device.type != "cpu"

    def counts(self) -> Counter[str]:
        """Scenes by the name of the set."""
        return self._counts

    def fit(self, wanted: Wanted, generator: torch.Generator) -> Wanted:
        """Square images of the shorter side, and no more views than a sequence has frames."""
        side = min(wanted.size)
        return replace(wanted, views=min(wanted.views, FRAMES), size=(side, side))

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Scenes of what `fit` returned."""
        if wanted.size[0] != wanted.size[1] or wanted.views > FRAMES:
            raise ValueError(f"{self.worlds.name} has no scene of {wanted}; ask for what fit() returns")
        numbers, frames, pairs = self._drawn(wanted, generator)
        return self.worlds.render(numbers, frames, pairs, side=wanted.size[0], device=self.device).views

    def _drawn(
        self, wanted: Wanted, generator: torch.Generator
    ) -> tuple[list[int], Int[Tensor, "B n"], Int[Tensor, "B P 2"] | None]:
        """Which worlds, frames of them, and pairs of these, if pairs are wanted; counted."""
        numbers = torch.randint(self.worlds.count, (wanted.scenes,), generator=generator).tolist()
        order = torch.rand(wanted.scenes, FRAMES, generator=generator).argsort(dim=1)
        frames = order[:, : wanted.views].sort(dim=1).values
        pairs = draw_pairs(wanted.scenes, wanted.views, wanted.pairs, generator) if wanted.pairs else None
        self._counts[f"scenes of {self.worlds.name}"] += wanted.scenes
        return numbers, frames, pairs


class UnlabelledSequences(LabelledSequences):
    """Scenes of a set as unlabelled video: images, and flow with `flaws`. A pair without covisible pixels stays one."""

    def __init__(self, worlds: WorldSet, flaws: Flaws = Flaws(), device: torch.device | str = "cpu"):
        super().__init__(worlds, device)
        self.flaws = flaws

    def draw(self, wanted: Wanted, generator: torch.Generator) -> Views:
        """Scenes of what `fit` returned, without depth, poses and intrinsics."""
        return as_video(super().draw(wanted, generator), self.flaws)


def as_video(views: Views, flaws: Flaws) -> Views:
    """What video tells of scenes of a set: images, names, and flow with flaws; without depth, poses and intrinsics."""
    flow = views.flow
    if flow is None or flaws == Flaws():
        return Views(views.images, flow=flow, names=views.names)
    displacement, covisible = flow.displacement.clone(), flow.covisible.clone()
    flaws = replace(flaws, noise=flaws.noise * flow.displacement.shape[3] / SIDE)  # noise is in pixels of SIDE
    for scene, names in enumerate(views.names):
        name = names[0].split()[0]
        times = [int(one.split()[1]) for one in names]
        for row, (source, target) in enumerate(flow.pairs[scene].tolist()):
            i, j = times[source], times[target]
            displacement[scene, row], covisible[scene, row] = flaws.applied(
                displacement[scene, row],
                covisible[scene, row],
                f"{name}: {i} to {j}",
                f"{name}: {min(i, j)} and {max(i, j)}",
            )
    return Views(views.images, flow=Flow(flow.pairs, displacement, covisible), names=views.names)
